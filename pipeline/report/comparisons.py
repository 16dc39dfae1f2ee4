"""The study's claims: which recipe is compared with which, on which pairs, and what comes out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from pipeline.params.recipe import PLAIN
from pipeline.report.claims import Interval, interval
from pipeline.report.leading import UNSEEN, better_teachers, merging
from pipeline.report.results import Result, fair, minus
from pipeline.report.study import Study, label

FRESH, ORACLE, PAPER = "plain-fresh", "oracle", "-paper"
TEST = "map_area"
ON_UNSEEN = ", on drawings that nobody trained on"


@dataclass(frozen=True)
class Pair:
    """A run and the one that it is held against, of the same student and seed.

    Attributes:
        points: its mAP@.5 less the other's; None where one was not scored.
        fairly: whether they differ in nothing but the recipe.
        teachers: sha256 by name of those that either has learnt from.
    """

    seed: int
    points: float | None
    fairly: bool
    teachers: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Comparison:
    """A claim that one way to learn is better than another.

    Attributes:
        claim: in words.
        recipe, over: keys of `recipes`; an empty one, while it is not known which, has no pairs.
        pairs: of each student; on test unless the claim says otherwise.
        main: whether it is about what the params distil (`distill.recipes`) and no side question.
        least: points that the mean is asked to reach; None asks for an interval above 0 instead.
        each: whether the mean of each student is asked to be above 0 as well.
    """

    claim: str
    recipe: str
    over: str
    pairs: Mapping[str, Sequence[Pair]]
    main: bool = False
    least: float | None = None
    each: bool = False

    @cached_property
    def differences(self) -> dict[str, dict[int, float]]:
        """Points of each student's fair pairs, by seed."""
        return {student: {pair.seed: pair.points for pair in pairs if pair.fairly and pair.points is not None}
                for student, pairs in self.pairs.items()}

    @property
    def unfair(self) -> int:
        """How many pairs are left out."""
        return sum(not pair.fairly for pairs in self.pairs.values() for pair in pairs)

    @cached_property
    def by_set(self) -> list[Interval]:
        """Of the fair pairs of each set of teachers that these have between them, by the sets' first seeds."""
        sets: dict[frozenset[tuple[str, str]], dict[str, list[float]]] = {}
        for seed, student, pair in sorted((pair.seed, student, pair) for student, pairs in self.pairs.items()
                                          for pair in pairs):
            if pair.teachers and seed in self.differences[student]:
                sets.setdefault(pair.teachers, {}).setdefault(student, []).append(self.differences[student][seed])
        return [found for points in sets.values() if (found := interval(points))]

    @cached_property
    def overall(self) -> Interval | None:
        return interval({student: [*points.values()] for student, points in self.differences.items()})

    @cached_property
    def by_student(self) -> dict[str, Interval]:
        alone = {student: interval({student: [*points.values()]}) for student, points in self.differences.items()}
        return {student: found for student, found in alone.items() if found is not None}

    @cached_property
    def by_seed(self) -> Interval | None:
        """Over the seeds that all of several students have: of each the mean over students, and no pooling.

        Free of the assumption that the students of one seed are independent of each other, and wider by it.
        """
        blocks = [points for points in self.differences.values() if points]
        common = set.intersection(*map(set, blocks)) if len(blocks) > 1 else set()
        return interval({"": [fmean(points[seed] for points in blocks) for seed in sorted(common)]})

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


def comparisons(study: Study) -> list[Comparison]:
    """The claims that the params have recipes for, in the order of the page."""
    both = study.two_teachers
    if both is None:
        return []
    paper = f"{both}{PAPER}"
    over_one = [*(claim for recipe in merging(study) for claim in over_its_better_teachers(study, recipe)),
                *_over_one_that_knows_all(study, both),
                *_over_its_other_features(study, both),
                *_over_its_other_attention(study, both)]
    asked = [
        ("two teachers over plain, same views", both, PLAIN),
        ("two teachers over plain, fresh views", both, FRESH),
        ("two teachers over the oracle", both, ORACLE),
        *_heads_over_the_oracle(study),
        *over_one,
        *_over_its_other_teachers(study, both),
        ("our best recipe, its W chosen on this data, over the paper's, its W as published", both, paper),
        ("the paper's recipe over plain, same views", paper, PLAIN),
    ]
    claims = [(*claim, TEST) for claim in asked]
    if "unseen" in study.data.splits:
        claims += [(f"{claim}{ON_UNSEEN}", recipe, over, UNSEEN) for claim, recipe, over in (asked[0], *over_one)]
    return [_of_recipes(study, claim, recipe, over, metric) for claim, recipe, over, metric in claims
            if {recipe, over} <= {*study.params.recipes, ""}]


def _of_recipes(study: Study, claim: str, recipe: str, over: str, metric: str) -> Comparison:
    both, distilled = study.two_teachers, study.params.distill
    return Comparison(
        claim, recipe, over,
        pairs={student: [pair_of(a, a.score(metric), b, b.score(metric), fairly=fair(a, b))
                         for a, b in study.results.pairs(student, recipe, over)] for student in distilled.students},
        main=metric == TEST and {recipe, over} <= {*distilled.recipes},
        least=1.0 if (recipe, over) == (both, f"{both}{PAPER}") else None,
        each=(recipe, over) == (both, PLAIN))


def pair_of(a: Result, ours: float | None, b: Result, theirs: float | None, *, fairly: bool) -> Pair:
    """Of two runs with their scores."""
    teachers = {name: sha for run in (a, b) if run.origin for name, sha in run.origin.teachers.items()}
    return Pair(a.seed or 0, minus(ours, theirs), fairly, frozenset(teachers.items()))


def over_its_better_teachers(study: Study, recipe: str) -> list[tuple[str, str, str]]:
    """Over the better of its teachers and, where all know the same, over each that is as good as that one."""
    words = _who(study, recipe)
    first, *others = better_teachers(study, recipe) or [""]
    which = f", {label(first)}" if first else ""
    asked = [(f"{words} over the better single one{which}", recipe, first if _alone(study, first) else "")]
    if not _of_some_classes(study, recipe):
        asked += [(f"{words} over one that is as good, {label(name)}", recipe, name) for name in others
                  if _alone(study, name)]
    return asked


def _over_one_that_knows_all(study: Study, both: str) -> list[tuple[str, str, str]]:
    """Teachers of some classes over the better one of all classes, which is what they stand in for."""
    return [(f"{_who(study, recipe)} over one who knows all, {label(general)}", recipe, general)
            for general in better_teachers(study, both)[:1] if _alone(study, general)
            for recipe in merging(study) if _of_some_classes(study, recipe)]


def _alone(study: Study, teacher: str) -> bool:
    """Whether a recipe of the teacher's name has it alone."""
    recipes = study.params.recipes
    return teacher in recipes and recipes[teacher].teachers == [teacher]


def _who(study: Study, recipe: str) -> str:
    words = "two teachers" if recipe == study.two_teachers else study.taught_by(recipe)
    return f"{words}, who know different classes," if _of_some_classes(study, recipe) else words


def _of_some_classes(study: Study, recipe: str) -> bool:
    return any(study.params.teachers[name].classes for name in study.params.recipes[recipe].teachers)


def _over_its_other_teachers(study: Study, both: str) -> list[tuple[str, str, str]]:
    """What the paper's tables 2 and 3 compare: a second, better teacher beside the one."""
    better = better_teachers(study, both)
    return [(f"two teachers over the weaker one, {label(name)}", both, name)
            for name in study.params.recipes[both].teachers if better and name not in better and _alone(study, name)]


def _over_its_other_features(study: Study, both: str) -> list[tuple[str, str, str]]:
    """Over the variants of `both` that differ from it in nothing but whose features they learn from; and these ones."""
    over_better, _, better = over_its_better_teachers(study, both)[0]

    def whose(name: str) -> str:
        return f"features of {' & '.join(map(label, study.params.recipes[name].feature_teachers))}"

    return [claim for name in _others_alike(study, both, "features_of") for claim in (
        (f"two teachers, {whose(both)}, over {whose(name)}", both, name),
        (over_better.replace("two teachers", f"two teachers, {whose(name)},", 1), name, better))]


def _over_its_other_attention(study: Study, both: str) -> list[tuple[str, str, str]]:
    """Over the variants of `both` that differ from it in nothing but the attention."""
    def which(name: str) -> str:
        return " & ".join(study.params.recipes[name].attention) or "none"

    return [(f"two teachers, attention {which(both)}, over {which(name)}", both, name)
            for name in _others_alike(study, both, "attention")]


def _heads_over_the_oracle(study: Study) -> list[tuple[str, str, str]]:
    """What is left of a lead over the oracle where the terms are the same: a teacher's heads, and no features."""
    recipes = study.params.recipes
    oracle = recipes.get(ORACLE)
    return [(f"the heads of {label(recipe.teachers[0])} over the oracle, by the same terms", name, ORACLE)
            for name, recipe in recipes.items() if oracle and len(recipe.teachers) == 1 and not recipe.reads_features
            and oracle.model_copy(update={"oracle": False, "teachers": recipe.teachers}) == recipe]


def _others_alike(study: Study, recipe: str, field: str) -> list[str]:
    """The other recipes that differ from one in a single field."""
    recipes = study.params.recipes
    chosen = recipes[recipe]
    return [name for name, other in recipes.items()
            if name != recipe and other.model_copy(update={field: getattr(chosen, field)}) == chosen]


def intervals(claims: Iterable[Comparison]) -> int:
    """How many intervals the claims have: overall, over seeds alone, and for single students."""
    found = [[claim.overall, claim.by_seed, *claim.by_student.values()] for claim in claims]
    return sum(each is not None and each.half is not None for group in found for each in group)
