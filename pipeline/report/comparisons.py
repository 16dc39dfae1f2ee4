"""The study's claims: which recipe is compared with which, on which pairs, and what comes out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.params import Augmentation
from pipeline.report.cells import Screened
from pipeline.report.claims import Interval, interval
from pipeline.report.results import fair, minus, spread
from pipeline.report.study import PLAIN, Study, label

FRESH, ORACLE, PAPER = "plain-fresh", "oracle", "-paper"
#: A group of the screening and its variation.
FEW_LABELS = "labels", "25-unlabelled"
TEST, UNSEEN = "map_area", "unseen.map_area"
ON_UNSEEN = ", on drawings that nobody trained on"


@dataclass(frozen=True)
class Comparison:
    """A claim that one way to learn is better than another.

    Attributes:
        claim: in words.
        recipe, over: keys of `recipes`; an empty one, while it is not known which, has no pairs.
        differences: mAP@.5 in points of each student's fair pairs; on test unless the claim says otherwise.
        unfair: pairs that are left out.
        least: points that the mean is asked to reach; None asks for an interval above 0 instead.
        each: whether the mean of each student is asked to be above 0 as well.
    """

    claim: str
    recipe: str
    over: str
    differences: Mapping[str, Sequence[float]]
    unfair: int
    least: float | None
    each: bool

    @cached_property
    def overall(self) -> Interval | None:
        return interval(self.differences)

    @cached_property
    def by_student(self) -> dict[str, Interval]:
        alone = {student: interval({student: values}) for student, values in self.differences.items()}
        return {student: found for student, found in alone.items() if found is not None}

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None while there is no pair, or not of each student where each is asked for."""
        if self.overall is None:
            return None
        if self.each and any(found.mean <= 0 for found in self.by_student.values()):
            return False
        met = self.overall.verdict == "holds" if self.least is None else self.overall.mean >= self.least
        return None if met and self.each and len(self.by_student) < len(self.differences) else met

    @property
    def asked(self) -> str:
        """The target in words."""
        if self.least is None:
            return "interval above 0, each student above 0" if self.each else "interval above 0"
        return f"mean of {self.least:+g} or more" if self.least else "not worse"


def comparisons(study: Study, screening: Sequence[Screened] = ()) -> list[Comparison]:
    """The claims that the params have recipes for, in the order of the page.

    Args:
        screening: its cells, for what no recipe can say: with how many labels.
    """
    both = study.two_teachers
    if both is None:
        return []
    paper = f"{both}{PAPER}"
    over_one = [*(_over_its_better_teacher(study, recipe) for recipe in merging(study)),
                *_over_its_other_features(study, both)]
    asked = [
        ("two teachers over plain, same views", both, PLAIN),
        ("two teachers over plain, fresh views", both, FRESH),
        ("two teachers over the oracle", both, ORACLE),
        *over_one,
        *_over_its_other_teachers(study, both),
        ("our best recipe over the paper's", both, paper),
        ("the paper's recipe over plain, same views", paper, PLAIN),
    ]
    claims = [(*claim, TEST) for claim in asked]
    if "unseen" in study.data.splits:
        claims += [(f"{claim}{ON_UNSEEN}", recipe, over, UNSEEN) for claim, recipe, over in over_one]
    return [*(_of_recipes(study, claim, recipe, over, metric) for claim, recipe, over, metric in claims
              if {recipe, over} <= {*study.params.recipes, ""}), *_with_few_labels(study, screening)]


def _of_recipes(study: Study, claim: str, recipe: str, over: str, metric: str) -> Comparison:
    both = study.two_teachers
    pairs = {student: study.results.pairs(student, recipe, over) for student in study.params.distill.students}
    found = {student: [(minus(a.score(metric), b.score(metric)), fair(a, b)) for a, b in some]
             for student, some in pairs.items()}
    return _comparison(claim, recipe, over, found, least=1.0 if (recipe, over) == (both, f"{both}{PAPER}") else None,
                       each=(recipe, over) == (both, PLAIN))


def _with_few_labels(study: Study, screening: Sequence[Screened]) -> list[Comparison]:
    """What `FEW_LABELS` of the screening is on val less plain with all labels, at equal passes."""
    group = study.params.screening.get(FEW_LABELS[0])
    if group is None or FEW_LABELS[1] not in group.variations:
        return []
    found: dict[str, list[tuple[float | None, bool]]] = {student: [] for student in study.params.distill.students}
    for cell in screening:
        student, ours = cell.student or "", (cell.group, cell.variation) == FEW_LABELS
        plain = study.results.runs.get((student, PLAIN), {}).get(cell.seed or 0)
        if ours and cell.data == study.params.data.name and student in found and plain:
            points = minus(cell.map_area, plain.score("val.map_area"))
            found[student].append((points, cell.passes == plain.passes))
    return [_comparison("25 % of the labels with all images over plain with all labels, on val", group.recipe, PLAIN,
                        found, least=0.0)]


def _comparison(claim: str, recipe: str, over: str, found: Mapping[str, Sequence[tuple[float | None, bool]]], *,
                least: float | None, each: bool = False) -> Comparison:
    """Of the points of each student's pairs, and whether each pair is fair."""
    return Comparison(
        claim, recipe, over, least=least, each=each,
        differences={student: [points for points, fairly in pairs if fairly and points is not None]
                     for student, pairs in found.items()},
        unfair=sum(not fairly for pairs in found.values() for _, fairly in pairs))


def merging(study: Study) -> list[str]:
    """The recipes of several merged teachers but for variants such as the paper's; that of two families first."""
    found = [name for name, recipe in study.params.recipes.items()
             if recipe.merged and name == "+".join(recipe.teachers)]
    return [name for name in dict.fromkeys([study.two_teachers, *found]) if name]


def _over_its_better_teacher(study: Study, recipe: str) -> tuple[str, str, str]:
    better = better_teacher(study, recipe) or ""
    alone = study.params.recipes.get(better)
    words = "two teachers" if recipe == study.two_teachers else study.taught_by(recipe)
    if any(study.params.teachers[name].classes for name in study.params.recipes[recipe].teachers):
        words += ", who know different classes,"
    which = f", {label(better)}" if better else ""
    over = better if alone and alone.teachers == [better] else ""
    return f"{words} over the better single one{which}", recipe, over


def _over_its_other_teachers(study: Study, both: str) -> list[tuple[str, str, str]]:
    """What the paper's tables 2 and 3 compare: a second, better teacher beside the one."""
    recipes, better = study.params.recipes, better_teacher(study, both)
    return [(f"two teachers over the other one, {label(name)}", both, name) for name in recipes[both].teachers
            if better not in (None, name) and name in recipes and recipes[name].teachers == [name]]


def _over_its_other_features(study: Study, both: str) -> list[tuple[str, str, str]]:
    """Over the variants of `both` that differ from it in nothing but whose features they learn from; and these ones."""
    recipes = study.params.recipes
    chosen = recipes[both]
    over_better, _, better = _over_its_better_teacher(study, both)
    alike = [name for name, recipe in recipes.items()
             if name != both and recipe.model_copy(update={"features_of": chosen.features_of}) == chosen]

    def whose(name: str) -> str:
        return f"features of {' & '.join(map(label, recipes[name].feature_teachers))}"

    return [claim for name in alike for claim in (
        (f"two teachers, {whose(both)}, over {whose(name)}", both, name),
        (over_better.replace("two teachers", f"two teachers, {whose(name)},", 1), name, better))]


def better_teacher(study: Study, recipe: str) -> str | None:
    """Of a recipe's teachers the one with the higher AP on val; None while not all are scored on it."""
    scores = {name: study.results.teacher(name).score("val.map_area") for name in study.params.recipes[recipe].teachers}
    known = {name: score for name, score in scores.items() if score is not None}
    return max(known, key=lambda name: known[name]) if known and len(known) == len(scores) else None


@dataclass(frozen=True)
class Lead:
    """By how much an ensemble is ahead of the better of its teachers, in mAP@.5 on val.

    Attributes:
        ensemble: its key.
        teacher: the better teacher.
        points: the ensemble's less the teacher's of the same training; the mean of several.
        unseen: the same on drawings that nobody trained on, where there are any.
    """

    ensemble: str
    teacher: str
    points: float
    unseen: float | None


def lead(study: Study, recipe: str) -> Lead | None:
    """The lead of the ensemble that a recipe learns from.

    None while not all are scored on val, and where they are scored differently: an ensemble as its teachers are dumped
    (`dump.tta`), teachers as detectors are (`evaluate.flip`).
    """
    params = study.params
    if params.evaluate.flip or params.dump.tta != Augmentation():
        return None
    merged, better = study.params.recipes[recipe].merged, better_teacher(study, recipe)
    if merged is None or better is None or merged not in study.results.ensembles:
        return None
    times = study.results.trainings.get(("ensemble", merged), [study.results.ensembles[merged]])
    pairs = [(each, study.results.teacher(better, each.origin.teachers.get(better) if each.origin else None))
             for each in times]
    points, unseen = (spread(minus(each.score(metric), alone.score(metric)) for each, alone in pairs)
                      for metric in ("val.map_area", UNSEEN))
    return None if points is None else Lead(merged, better, points.mean, unseen.mean if unseen else None)


def intervals(claims: Iterable[Comparison]) -> int:
    """How many intervals the claims have, overall and for single students."""
    found = [[claim.overall, *claim.by_student.values()] for claim in claims]
    return sum(each is not None and each.half is not None for group in found for each in group)
