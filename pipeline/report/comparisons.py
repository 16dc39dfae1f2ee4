"""The study's claims: which recipe is compared with which, on which pairs, and what comes out."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from pipeline.report.claims import Interval, interval
from pipeline.report.results import Result, minus
from pipeline.report.study import PLAIN, Study, label

FRESH, ORACLE, PAPER = "plain-fresh", "oracle", "-paper"


@dataclass(frozen=True)
class Comparison:
    """A claim that one recipe is better than another.

    Attributes:
        claim: in words.
        recipe, over: keys of `recipes`; an empty one, while it is not known which, has no pairs.
        study: where their runs are.
        least: points of mAP that the mean is asked to reach; 0 asks for an interval above 0 instead.
        each: whether the mean of each student is asked to be above 0 as well.
    """

    claim: str
    recipe: str
    over: str
    study: Study
    least: float = 0.0
    each: bool = False

    @cached_property
    def differences(self) -> dict[str, list[float]]:
        """mAP@.5 on test, in points, of each student's fair pairs."""
        found = {student: [minus(a.map_area, b.map_area) for a, b in self._pairs(student) if fair(a, b)]
                 for student in self.study.params.distill.students}
        return {student: [value for value in values if value is not None] for student, values in found.items()}

    @property
    def unfair(self) -> int:
        """Pairs that are left out."""
        return sum(not fair(a, b) for student in self.study.params.distill.students for a, b in self._pairs(student))

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
        met = self.overall.mean >= self.least if self.least else self.overall.verdict == "holds"
        return None if met and self.each and len(self.by_student) < len(self.differences) else met

    @property
    def asked(self) -> str:
        """The target in words."""
        target = f"mean of {self.least:+g} or more" if self.least else "interval above 0"
        return f"{target}, each student above 0" if self.each else target

    def _pairs(self, student: str) -> list[tuple[Result, Result]]:
        return self.study.results.pairs(student, self.recipe, self.over)


def comparisons(study: Study) -> list[Comparison]:
    """The claims that the params have recipes for, in the order of the page."""
    both = study.two_teachers
    if both is None:
        return []
    paper = f"{both}{PAPER}"
    single = better_single(study)
    which = f", {label(single)}" if single else ""
    asked = [
        ("two teachers over plain, same views", both, PLAIN, 0.0),
        ("two teachers over plain, fresh views", both, FRESH, 0.0),
        ("two teachers over the oracle", both, ORACLE, 0.0),
        (f"two teachers over the better single one{which}", both, single or "", 0.0),
        ("our best recipe over the paper's", both, paper, 1.0),
        ("the paper's recipe over plain, same views", paper, PLAIN, 0.0),
    ]
    known = study.params.recipes
    return [Comparison(claim, recipe, over, study, least, each=(recipe, over) == (both, PLAIN))
            for claim, recipe, over, least in asked if {recipe, over} <= {*known, ""}]


def better_single(study: Study) -> str | None:
    """The recipe of one teacher with the higher AP on val, in the mean over students that have all such recipes."""
    singles = [name for name, recipe in study.params.recipes.items() if recipe.teachers == [name]]
    students = [student for student in study.params.distill.students
                if all(study.results.values(student, name, "val.map_area") for name in singles)]
    if not students:
        return None

    def on_val(recipe: str) -> float:
        return fmean(fmean(study.results.values(student, recipe, "val.map_area")) for student in students)

    return max(singles, key=on_val, default=None)


@dataclass(frozen=True)
class Lead:
    """By how much an ensemble is ahead of the better of its teachers, in mAP@.5 on val.

    Attributes:
        ensemble: its key.
        teacher: the better teacher.
        points: the ensemble's less the teacher's.
    """

    ensemble: str
    teacher: str
    points: float


def lead(study: Study) -> Lead | None:
    """The lead of the ensemble that the two-teacher recipe learns from; None while not all are scored on val."""
    if study.two_teachers is None:
        return None
    recipe, results = study.params.recipes[study.two_teachers], study.results
    together = results.ensembles.get(recipe.merged or "")
    ours = together.score("val.map_area") if together else None
    alone = {name: score for name in recipe.teachers
             if (score := results.teacher(name).score("val.map_area")) is not None}
    if recipe.merged is None or ours is None or len(alone) < len(recipe.teachers):
        return None
    best = max(alone, key=lambda name: alone[name])
    return Lead(recipe.merged, best, ours - alone[best])


def fair(a: Result, b: Result) -> bool:
    """Whether nothing but the recipe tells two runs apart: passes, data, views, and the teachers that both have.

    What a run does not name is not held against it.
    """
    if a.passes != b.passes:
        return False
    if a.origin is None or b.origin is None:
        return True
    known = [(getattr(a.origin, key), getattr(b.origin, key)) for key in ("data", "views")]
    known += [(sha, b.origin.teachers.get(name)) for name, sha in a.origin.teachers.items()]
    return all(None in pair or pair[0] == pair[1] for pair in known)


def intervals(claims: Iterable[Comparison]) -> int:
    """How many intervals the claims have, overall and for single students."""
    found = [[claim.overall, *claim.by_student.values()] for claim in claims]
    return sum(each is not None and each.half is not None for group in found for each in group)
