"""What the study claims of its screening, which no recipe can say: with how many labels, by how long a training."""

from collections.abc import Mapping, Sequence

from pipeline.params.recipe import PLAIN
from pipeline.report.cells import Screened
from pipeline.report.comparisons import Comparison, Pair, over_its_better_teachers, pair_of
from pipeline.report.document import listed
from pipeline.report.results import as_long, calculated_alike, fair, middle, same_teachers
from pipeline.report.study import Study, label

#: A group of the screening, and its variations with a quarter of the labels: all images, and the labelled ones alone.
LABELS, FEW_LABELS, FEW_IMAGES = "labels", "25-unlabelled", "25"


def screening_claims(study: Study, screened: Mapping[str, Sequence[Screened]]) -> list[Comparison]:
    """The claims that the screening has groups and cells for, all on val.

    Args:
        screened: by group, the cells whose recipe and data are those of the params.
    """
    return [*_with_few_labels(study, screened), *_after_longer_runs(study, screened)] if study.two_teachers else []


def _with_few_labels(study: Study, screened: Mapping[str, Sequence[Screened]]) -> list[Comparison]:
    """What a quarter of the labels with all images is on val, less plain with all labels and less the quarter alone."""
    group = study.params.screening.get(LABELS)
    if group is None or FEW_LABELS not in group.variations:
        return []
    cells = {(cell.variation, cell.student or "", cell.seed or 0): cell for cell in screened.get(LABELS, [])}
    over_plain: dict[str, list[Pair]] = {student: [] for student in study.params.distill.students}
    over_few: dict[str, list[Pair]] = {student: [] for student in over_plain}
    for (variation, student, seed), cell in sorted(cells.items()):
        if variation != FEW_LABELS or student not in over_plain:
            continue
        if plain := study.results.runs.get((student, PLAIN), {}).get(seed):
            fairly = cell.passes == plain.passes and calculated_alike(cell, plain)
            over_plain[student].append(pair_of(cell, cell.map_area, plain, plain.score("val.map_area"), fairly=fairly))
        if few := cells.get((FEW_IMAGES, student, seed)):
            fairly = as_long(cell, few) and calculated_alike(cell, few) and same_teachers(cell, few)
            over_few[student].append(pair_of(cell, cell.map_area, few, few.map_area, fairly=fairly))
    words = "25 % of the labels with all images over"
    claims = [Comparison(f"{_whose(over_plain)}{words} plain with all labels, on val", group.recipe, PLAIN, over_plain,
                         least=0.0)]
    if any(over_few.values()):
        claims.append(Comparison(f"{_whose(over_few)}{words} the labelled images alone, on val", group.recipe,
                                 group.recipe, over_few))
    return claims


def _after_longer_runs(study: Study, screened: Mapping[str, Sequence[Screened]]) -> list[Comparison]:
    """Two teachers over plain, and over the better single one, after more passes than those of plain students."""
    both, groups = study.two_teachers or "", study.params.screening
    runs: dict[float, dict[tuple[str, str], dict[int, Screened]]] = {}
    for cell in (cell for group, cells in screened.items() if groups[group].of_lengths for cell in cells):
        student, passes = cell.student or "", cell.passes or 0.0
        usual = middle(run.passes for run in study.results.runs.get((student, PLAIN), {}).values())
        if usual and passes > 1.02 * usual:
            runs.setdefault(passes, {}).setdefault((student, cell.recipe or ""), {})[cell.seed or 0] = cell
    claims = []
    for passes, found in sorted(runs.items()):
        for words, _, over in [("two teachers over plain", both, PLAIN), *over_its_better_teachers(study, both)]:
            pairs = {student: [pair_of(a, a.map_area, b, b.map_area, fairly=fair(a, b))
                               for seed, a in found.get((student, both), {}).items()
                               if (b := found.get((student, over), {}).get(seed))]
                     for student in study.params.distill.students}  # fmt: skip
            if any(pairs.values()):
                claims.append(Comparison(f"{_whose(pairs)}{words}, after {passes:,.0f} passes, on val", both, over,
                                         pairs, main=True))
    return claims


def _whose(pairs: Mapping[str, Sequence[Pair]]) -> str:
    """The students that have pairs, where not all have."""
    there = [student for student, found in pairs.items() if found]
    return f"{listed([*map(label, there)])}: " if 0 < len(there) < len(pairs) else ""
