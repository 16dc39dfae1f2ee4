"""The study's page: docs/study/README.md with its figures and cells."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.params import Params, Recipe, varied
from pipeline.params.recipe import PAPER_WEIGHTS
from pipeline.report import figures, summary
from pipeline.report.arranging import changes_of
from pipeline.report.cells import FILE, Cells, Screened
from pipeline.report.comparisons import comparisons
from pipeline.report.document import Document, Section, Table, counted, listed
from pipeline.report.page import render_markdown
from pipeline.report.paper import TABLE_4_STUDENT
from pipeline.report.paper_tables import OnVal, table_2, table_3, table_4
from pipeline.report.results import spread
from pipeline.report.screening_claims import screening_claims
from pipeline.report.screening_tables import screened_intervals, screening_table
from pipeline.report.study import Study, label
from pipeline.report.study_tables import (
    claims_by_student_table,
    claims_table,
    gap_table,
    main_table,
    others_table,
    recipes_table,
)
from pipeline.report.study_words import cautions, gap_words, longer_runs, orders, verdicts
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
    "where it holds 0 and the other interval does not, be careful. Neither covers what another training of the "
    "teachers would change, or far too little of it where pairs have two or three sets of them (a column says how "
    "many, and what each comes to; sets may differ in precision too). A claim holds where the first "
    "interval lies above 0, does not hold where it lies below, and is undecided between; too few pairs have none."
)


SCORES = {"map_area": "on test", "unseen.map_area": "on drawings that nobody trained on"}
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
    screened = _screened(study, cells)
    claims = [*comparisons(study), *screening_claims(study, screened)]
    tables = [screening_table(study, group, found) for group, found in screened.items()]
    on_val = _weights(study, screened)
    document = Document(
        title=TITLE,
        subtitle=f"{study.scale.removeprefix('Ours: ')}. Written by `pipeline study collect` from `{FILE}`; "
        "what is said follows from the numbers."
        + (f" What we found out about why: [{FINDINGS}]({FINDINGS})." if findings else ""),
        summary=[*verdicts(claims), *gap_words(study), *longer_runs(study, screened), *orders(study, on_val),
                 *cautions(study, claims)],
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
                or cell.data != params.data.name or cell.student not in params.students):
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
