"""The study's page: docs/study/README.md with its figures and cells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline.params import Params, Recipe, varied
from pipeline.params.recipe import PAPER_WEIGHTS, PLAIN
from pipeline.report import figures, summary
from pipeline.report.arranging import changes_of
from pipeline.report.cells import FILE, Cells, Screened
from pipeline.report.claims import interval
from pipeline.report.comparisons import PAPER, Comparison, comparisons, intervals
from pipeline.report.document import Document, Section, Table, counted, listed, shown
from pipeline.report.leading import lead, merging
from pipeline.report.page import render_markdown
from pipeline.report.paper import TABLE_4, TABLE_4_STUDENT
from pipeline.report.paper_tables import OnVal, table_2, table_3, table_4
from pipeline.report.results import fair, spread
from pipeline.report.screening_tables import screened_intervals, screening_table
from pipeline.report.study import Study, label
from pipeline.report.study_tables import (
    claims_by_student_table,
    claims_table,
    gap_recovered,
    gap_table,
    main_table,
    others_table,
    recipes_table,
)
from pipeline.report.tables import cost_table, students_table, teachers_table

if TYPE_CHECKING:
    from pipeline.data import DataSet

TITLE = "The study: what stored teachers are worth to light students"
HOW = (
    "A claim is about the mean over students of their mean difference, on pairs of the same student and seed. "
    "Students are blocks: D = mean over s of mean over k of d(s, k), with the interval D ± t(f) · √(v · Σ 1/n_s) / S,"
    " where v is the variance of d within students, pooled over f = Σ (n_s − 1) degrees of freedom, n_s the pairs of "
    "student s and S the number of students. So it speaks of these students and other seeds, and takes the spread "
    "over seeds to be alike among students, and their differences to be independent of each other, although students "
    "of one seed share batches and teachers; where several have a single pair there is none. “Seeds as blocks” does "
    "without: one mean over students for each of the n seeds that all of them have, and Student's t of these few; "
    "where it holds 0 and the other interval does not, be careful. What another training of the teachers would change "
    "is in neither, or far too little of it where pairs have two or three sets of them (a column says how many, "
    "and what each comes to; sets may differ in precision too). A claim holds where the "
    "first interval lies above 0, does not hold where it lies below, and is undecided between; too few pairs have none."
)


SCORES = {"map_area": "on test", "unseen.map_area": "on drawings that nobody trained on"}
#: Percent of the gap that the best recipe is asked to recover.
GAP = 50
#: A page beside this one, by hand.
FINDINGS = "findings.md"


def write_study(params: Params, data: "DataSet", cells: Cells, out: Path, *, findings: bool = False) -> Study:
    """Writes cells.json, README.md and figures/ of the cells that are there; any number of them may be missing.

    Args:
        params: the arms, and names and scale.
        data: what the cells were measured on.
        cells: everything that was kept.
        out: the folder; other files in it stay.
        findings: whether there will be a page of that name beside it.

    Returns:
        The study, as the page tells it.
    """
    study = Study(params, cells.results(params, data.fingerprint), data)
    claims = comparisons(study, cells.screening)
    screened = _screened(study, cells)
    tables = [screening_table(study, group, found) for group, found in screened.items()]
    on_val = _weights(study, screened)
    document = Document(
        title=TITLE,
        subtitle=f"{study.scale.removeprefix('Ours: ')}. Written by `pipeline study collect` from `{FILE}`; "
        "what is said follows from the numbers."
        + (f" What we found out about why: [{FINDINGS}]({FINDINGS})." if findings else ""),
        summary=[*_verdicts(claims), *_recovered(study), *_orders(study, on_val), *_cautions(study, claims)],
        facts=[*summary.facts(study), *_facts(study, cells, screened)],
        sections=[
            Section(
                key="claims",
                title="Claims",
                text=[HOW],
                tables=[claims_table(claims), claims_by_student_table(claims)],
                pictures=[picture for picture in [figures.claims_figure(claims, out)] if picture],
            ),
            Section(
                key="arms",
                title="Recipes and students",
                tables=[
                    recipes_table(study),
                    *(main_table(study, metric, where) for metric, where in SCORES.items()),
                    gap_table(study),
                    *(table for metric, where in SCORES.items() if (table := others_table(study, metric, where))),
                ],
                pictures=[picture for picture in [figures.score_figure(
                    study.distilled, out, study.distilled.shown_recipes, dark=False)] if picture],
            ),
            # No times: cells are made beside each other, and on several machines.
            Section(
                key="metrics",
                title="All metrics",
                tables=[teachers_table(study, timed=False), students_table(study, timed=False),
                        cost_table(study, timed=False)],
            ),
            Section(
                key="paper",
                title="Beside the paper",
                tables=[table_2(study), table_3(study), table_4(study, on_val)],
            ),
            Section(
                key="screening",
                title="Screening",
                text=[_screening_words(screened, tables)],
                tables=tables,
            ),
        ],
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(cells.text(), encoding="utf-8")
    (out / "README.md").write_text(render_markdown(document), encoding="utf-8")
    return study


def _verdicts(claims: list[Comparison]) -> list[str]:
    told = [claim for claim in claims if claim.overall is not None]
    if not told:
        return ["Nothing to compare yet: no student has both recipes of any claim."]
    verdicts = [claim.overall.verdict if claim.overall else "no pairs yet" for claim in claims]
    counts = [f"{verdicts.count(verdict)} {word}" for verdict, word in
              (("holds", "held up"), ("does not hold", "refuted"), ("undecided", "undecided"),
               ("too few pairs", "with too few pairs for an interval"),
               ("no pairs yet", "without pairs yet")) if verdict in verdicts]  # fmt: skip
    side = sum(not claim.main for claim in told)
    others = [f"{counted(side, 'claim is', 'claims are')} of side questions: see Claims, below."] if side else []
    return [f"{counted(len(claims), 'claim')}: {listed(counts)}.",
            *(_sentence(claim) for claim in told if claim.main), *others]


def _sentence(claim: Comparison) -> str:
    found = claim.overall
    assert found is not None
    where = f"{counted(found.pairs, 'pair')} of {counted(found.students, 'student')}"
    where += f", {counted(len(claim.by_set), 'set')} of teachers" if claim.by_set else ""
    text = f"{claim.claim[:1].upper()}{claim.claim[1:]}: {shown(found.mean, sign=True)} points"
    if found.low is None or found.high is None:
        return f"{text} ({where}): too few for an interval."
    between = f"{shown(found.low, sign=True)} to {shown(found.high, sign=True)}"
    text += f" (95 % interval {between}, {where}): {found.verdict}"
    if claim.least is not None:
        text += f"; asked for: {claim.asked}, {'reached' if claim.reached else 'missed'}"
    below = [label(name) for name, each in claim.by_student.items() if each.mean <= 0]
    return f"{text}; not above 0 for {listed(below)}." if below and found.mean > 0 else f"{text}."


def _recovered(study: Study) -> list[str]:
    """How much of the gap our best recipe recovers, beside what was asked."""
    share = gap_recovered(study, study.two_teachers) if study.two_teachers else None
    if share is None:
        return []
    met = "reached" if share >= GAP else "missed"
    return [f"Of the gap between plain and the better teacher two teachers recover {shown(share, 0)} %, the mean over "
            f"students (see Gap recovered); asked for: {GAP} %, {met}."]


def _cautions(study: Study, claims: list[Comparison]) -> list[str]:
    made, told = intervals(claims), sum(claim.overall is not None for claim in claims)
    safe = [f"“{claim.claim}”" for claim in claims if claim.overall and claim.overall.mean > 0
            and claim.overall.p is not None and claim.overall.p * told < 0.05]  # fmt: skip
    corrected = f"{listed(safe)} still {'hold' if len(safe) > 1 else 'holds'}, and no other" if safe else "none holds"
    cautions = [
        f"{counted(made, 'interval was', 'intervals were')} computed for the claims, in all, with seeds as blocks and "
        "for single students, each at 95 %: one in twenty misses by chance. Corrected for "
        f"{counted(told, 'claim')} (Bonferroni), {corrected}.",
        "Where seeds are added because an interval contains 0, the interval is somewhat too narrow: it was looked at "
        "before.",
    ]
    leads = [
        f"{ahead.ensemble!r} {shown(ahead.points, sign=True)} from {label(ahead.teacher)}"
        + ("" if ahead.unseen is None else f" ({shown(ahead.unseen, sign=True)} on drawings that nobody trained on)")
        for ahead in (lead(study, recipe) for recipe in merging(study))
        if ahead
    ]
    if leads:
        cautions.append(f"How far ensembles are from their better teachers on val, in points: {listed(leads)}. Two "
                        "teachers were hoped to teach more than the better one where that is 1 or more; whether they "
                        "did is said above.")
    wanted = study.params.distill
    cells = [(student, recipe, seed) for student in wanted.students for recipe in wanted.recipes
             for seed in wanted.seeds]  # fmt: skip
    runs = [run for own in study.results.runs.values() for run in own.values()]
    if silent := sum(not (run.origin and run.origin.recipe) for run in runs):
        cautions.append(f"{silent:,} of {len(runs):,} cells are from before results named the recipe that taught them: "
                        "they are taken for what they are called.")
    done = sum(seed in study.results.runs.get((student, recipe), {}) for student, recipe, seed in cells)
    if done < len(cells):
        cautions.append(
            f"Not finished: {done:,} of {len(cells):,} cells of the main table are there. "
            "`pipeline profile study`, then `dvc repro`, makes the others, one by one."
        )
    return cautions


def _orders(study: Study, on_val: OnVal | None) -> list[str]:
    """Whether the paper's orders hold here: of its recipes for each student, and of the W of its Table 4."""
    both, single = study.two_teachers, study.single_teacher
    orders = []
    if both and single:
        words = f"alone below taught by {study.taught_by(single)} below taught by both"
        orders = [_order(study, (PLAIN, single + kind, both + kind),
                         f"The paper's order ({words}), by {whose},")
                  for kind, whose in (("", "our recipe"), (PAPER, "the paper's own recipe"))]
    weights = on_val.scores if on_val else {}
    by_paper = sorted(weights, key=lambda key: -TABLE_4[key])
    pairs = [weights[better].mean > weights[worse].mean for better, worse in combinations(by_paper, 2)]
    if pairs:
        orders.append(f"Of the {counted(len(pairs), 'pair')} that the W of the paper's Table 4 make here, on val, "
                      f"{sum(pairs)} {'is' if sum(pairs) == 1 else 'are'} in the paper's order.")
    return [*filter(None, orders)]


def _order(study: Study, recipes: Sequence[str], words: str) -> str:
    """For which students each of these recipes is above the one before it, by the seeds that have all; "" for no seed.

    Each step has its interval: the order is found where all are above 0 and not found where one is below it.
    """
    students: dict[str, list[str]] = {}
    for student in study.params.distill.students:
        runs = [study.results.runs.get((student, recipe), {}) for recipe in recipes]
        by_seed = [[by_seed[seed] for by_seed in runs] for seed in set.intersection(*map(set, runs))]
        rows = [[float(run.map_area) for run in own if run.map_area is not None] for own in by_seed
                if all(fair(*pair) for pair in combinations(own, 2))]
        rows = [row for row in rows if len(row) == len(recipes)]
        if not rows:
            continue
        steps = [interval({"": [upper - lower for lower, upper in pairs]})
                 for pairs in zip(*(pairwise(row) for row in rows), strict=True)]
        verdicts = {step.verdict for step in steps if step}
        verdict = next(word for word in ("does not hold", "undecided", "too few pairs", "holds") if word in verdicts)
        means = ", ".join(shown(fmean(scores)) for scores in zip(*rows, strict=True))
        students.setdefault(verdict, []).append(f"{label(student)} ({means}; {counted(len(rows), 'seed')})")
    parts = [f"{what} for {listed(students[verdict])}" for verdict, what in
             (("holds", "is found"), ("undecided", "is undecided"), ("does not hold", "is not found"),
              ("too few pairs", "has too few seeds"))
             if verdict in students]
    return f"{words} {listed(parts)}." if parts else ""


def _facts(study: Study, cells: Cells, screened: Mapping[str, list[Screened]]) -> list[tuple[str, str]]:
    origins = [run.origin for runs in study.results.runs.values() for run in runs.values() if run.origin]
    code = sorted({origin.code[:12] for origin in origins if origin.code})
    teachers = sorted({f"{label(name)} {sha[:12]}" for origin in origins for name, sha in origin.teachers.items()})
    told = sum(map(len, screened.values()))
    others = len(cells.screening) - told
    more = f"; {others} more of variations and recipes that these params do not have" if others else ""
    precisions = Counter(origin.precision for origin in origins if origin.precision)
    return [
        ("Precision", listed([f"{name} in {counted(count, 'cell')}" for name, count in precisions.most_common()])
                      if precisions else "not named by these cells"),
        ("Cells", f"{sum(map(len, study.results.runs.values()))} of students, {told} of screening{more}"),
        ("Code that taught them", ", ".join(code) or "not named by these cells"),
        ("Teachers' weights (sha256)", ", ".join(teachers) or "not named by these cells"),
    ]


def _screened(study: Study, cells: Cells) -> dict[str, list[Screened]]:
    """The cells of each group's variations on the params' data, if their recipe is as params have it.

    Of what else a variation changed, in training or in views, its name alone is compared.
    """
    params, recipes = study.params, dict[tuple[str, str, str], Recipe]()
    found: dict[str, list[Screened]] = {name: [] for name in params.screening}
    for cell in cells.screening:
        group, which = params.screening.get(cell.group), (cell.group, cell.variation, str(cell.student))
        if (group is None or cell.recipe != group.recipe or cell.variation not in group.variations
                or cell.data != params.data.name):
            continue
        recipes[which] = recipes.get(which) or varied(params, *which).recipes[group.recipe]
        if not changes_of(recipes[which], cell):
            found[cell.group].append(cell)
    return {name: own for name, own in found.items() if own}


def _weights(study: Study, screened: Mapping[str, list[Screened]]) -> OnVal | None:
    """The recipe of the group that has most variations named after the paper's W, and its scores for the student."""
    best: OnVal | None = None
    for cells in screened.values():
        own = [cell for cell in cells if cell.student == study.student(TABLE_4_STUDENT)]
        scores = {key: score for key in PAPER_WEIGHTS
                  if (score := spread(cell.map_area for cell in own if cell.variation == key))}
        if len(scores) > (len(best.scores) if best else 0):
            best = OnVal(str(own[0].recipe), scores)
    return best


def _screening_words(screened: Mapping[str, list[Screened]], tables: Sequence[Table]) -> str:
    if not screened:
        return "Nothing was screened yet: `pipeline study screen`."
    tried = sum(len({cell.variation for cell in cells}) for cells in screened.values())
    made = sum(map(screened_intervals, tables))
    return (
        f"{counted(tried, 'variation')} in {counted(len(screened), 'group')}, all scored on val, which every choice is "
        "made on. The best of many looks better than it is: what is chosen here is confirmed above, on test and by "
        f"other seeds. {counted(made, 'interval of a difference stands', 'intervals of differences stand')} in these "
        "tables, each at 95 % by itself."
    )
