"""What the study's page says in words: verdicts, the gap recovered, the paper's orders, and cautions."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from statistics import fmean

from pipeline.params.recipe import PLAIN
from pipeline.report.cells import Screened
from pipeline.report.claims import interval
from pipeline.report.comparisons import PAPER, Comparison, intervals
from pipeline.report.document import counted, listed, shown
from pipeline.report.leading import Lead, lead, merging
from pipeline.report.paper import TABLE_4
from pipeline.report.paper_tables import OnVal
from pipeline.report.results import fair, middle
from pipeline.report.study import Study, label
from pipeline.report.study_tables import gap_recovered

#: Percent of the gap that the best recipe is asked to recover.
GAP = 50


def verdicts(claims: list[Comparison]) -> list[str]:
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


def gap_words(study: Study) -> list[str]:
    """How much of the gap our best recipe recovers, beside what was asked."""
    share = gap_recovered(study, study.two_teachers) if study.two_teachers else None
    if share is None:
        return []
    met = "reached" if share >= GAP else "missed"
    return [f"Of the gap between plain and the better teacher two teachers recover {shown(share, 0)} %, the mean over "
            f"students (see Gap recovered); asked for: {GAP} %, {met}."]


def longer_runs(study: Study, screened: Mapping[str, Sequence[Screened]]) -> list[str]:
    """What students of the screening have after more passes than the study's, by the seeds of all lengths."""
    told = []
    for group, cells in screened.items():
        if not study.params.screening[group].of_lengths:
            continue
        for student in dict.fromkeys(str(cell.student) for cell in cells):
            usual = middle(run.passes for run in study.results.runs.get((student, PLAIN), {}).values()) or math.inf
            lengths: dict[float, dict[int, float]] = {}
            for cell in cells:
                if cell.student == student and cell.map_area is not None and (cell.passes or 0) > 0.98 * usual:
                    lengths.setdefault(cell.passes or 0.0, {})[cell.seed or 0] = cell.map_area
            seeds = set.intersection(*map(set, lengths.values())) if len(lengths) > 1 else set()
            if seeds:
                each = [f"{shown(fmean(scores[seed] for seed in seeds))} after {length:,.0f}"
                        for length, scores in sorted(lengths.items())]
                whose = study.recipe_label(study.params.screening[group].recipe)
                told.append(f"{label(student)}, {whose}, has {listed(each)} ({counted(len(seeds), 'seed')})")
    return [f"The claims are of {study.passes}. More of them, on val: {'; '.join(told)}."] if told else []


def cautions(study: Study, claims: list[Comparison]) -> list[str]:
    made, told = intervals(claims), sum(claim.overall is not None for claim in claims)
    safe = [f"“{claim.claim}”" for claim in claims if claim.overall and claim.overall.mean > 0
            and claim.overall.p is not None and claim.overall.p * told < 0.05]  # fmt: skip
    corrected = f"{listed(safe)} still {'hold' if len(safe) > 1 else 'holds'}, and no other" if safe else "none holds"
    told_of = [
        f"{counted(made, 'interval was', 'intervals were')} computed for the claims, in all, with seeds as blocks and "
        "for single students, each at 95 %: one in twenty misses by chance. Corrected for "
        f"{counted(told, 'claim')} (Bonferroni), {corrected}.",
        "Where seeds are added because an interval contains 0, the interval is somewhat too narrow: it was looked at "
        "before.",
    ]
    leads = [_lead(ahead, recipe, claims) for recipe in merging(study) if (ahead := lead(study, recipe))]
    if leads:
        told_of.append(f"How far ensembles are from their better teachers on val, in points: {listed(leads)}. Only "
                        "ensembles that are 1 or more ahead were expected to teach more than their better teacher.")
    wanted = study.params.distill
    cells = [(student, recipe, seed) for student in wanted.students for recipe in wanted.recipes
             for seed in wanted.seeds]  # fmt: skip
    runs = [run for own in study.results.runs.values() for run in own.values()]
    if silent := sum(not (run.origin and run.origin.recipe) for run in runs):
        told_of.append(f"{silent:,} of {len(runs):,} cells are from before results named the recipe that taught them: "
                        "they are taken for what they are called.")
    done = sum(seed in study.results.runs.get((student, recipe), {}) for student, recipe, seed in cells)
    if done < len(cells):
        told_of.append(
            f"Not finished: {done:,} of {len(cells):,} cells of the main table are there. "
            "`pipeline profile study`, then `dvc repro`, makes the others, one by one."
        )
    return told_of


def _lead(ahead: Lead, recipe: str, claims: list[Comparison]) -> str:
    """How far an ensemble is ahead, and what its students gain by it."""
    beside = [] if ahead.unseen is None else [f"{shown(ahead.unseen, sign=True)} on drawings that nobody trained on"]
    told = next((claim.overall for claim in claims if (claim.recipe, claim.over) == (recipe, ahead.teacher)), None)
    if told is not None:
        beside.append(f"on test its students are {shown(told.mean, sign=True)} from that teacher's: {told.verdict}")
    words = f"{ahead.ensemble!r} {shown(ahead.points, sign=True)} from {label(ahead.teacher)}"
    return f"{words} ({'; '.join(beside)})" if beside else words


def orders(study: Study, on_val: OnVal | None) -> list[str]:
    """Whether the paper's orders hold here: of its recipes for each student, and of the W of its Table 4."""
    both, single = study.two_teachers, study.single_teacher
    found = []
    if both and single:
        words = f"alone below taught by {study.taught_by(single)} below taught by both"
        found = [_order(study, (PLAIN, single + kind, both + kind),
                         f"The paper's order ({words}), by {whose},")
                  for kind, whose in (("", "our recipe"), (PAPER, "the paper's own recipe"))]
    weights = on_val.scores if on_val else {}
    by_paper = sorted(weights, key=lambda key: -TABLE_4[key])
    pairs = [weights[better].mean > weights[worse].mean for better, worse in combinations(by_paper, 2)]
    if pairs:
        found.append(f"Of the {counted(len(pairs), 'pair')} that the W of the paper's Table 4 make here, on val, "
                      f"{sum(pairs)} {'is' if sum(pairs) == 1 else 'are'} in the paper's order.")
    return [*filter(None, found)]


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
