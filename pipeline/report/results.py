"""Reading what training and evaluation left behind, and averaging it over seeds."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from pipeline import paths
from pipeline.errors import UserError
from pipeline.params.recipe import PLAIN
from pipeline.report.document import Spread

#: In percent; none where there was no object that counts.
Score = float | None
Log = dict[str, np.ndarray]
M = TypeVar("M", bound=BaseModel)


class Scores(BaseModel):
    """APs in percent on one split."""

    map_area: Score = None
    map07: Score = None
    ap: Score = None
    ap75: Score = None
    per_class: dict[str, Score] = {}


class Origin(BaseModel):
    """What made a detector: sha256 of code, data, views and of its teachers' weights, where they are known.

    Attributes:
        precision: that it was trained in, by Fabric's name.
        processes: that trained it; each has BatchNorm statistics of its share of a batch.
        teachers: those of a student or of an ensemble.
        recipe: a student's, as params had it.
        training: what else of params decided it: the network, the size of its images, how it was trained.
    """

    code: str | None = None
    data: str | None = None
    views: str | None = None
    precision: str | None = None
    processes: int = 1
    teachers: dict[str, str] = {}
    recipe: dict[str, Any] = {}
    training: dict[str, Any] | None = None

    @field_validator("views", mode="before")
    @classmethod
    def _fresh_views_have_no_fingerprint(cls, views: Any) -> Any:
        return views if isinstance(views, str) else None


class Result(Scores):
    """One metrics.json: a trained detector's or an ensemble's scores on test, or on `split`, and what it costs.

    Attributes:
        weights: sha256 of a detector's.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["teacher", "ensemble", "student"]
    teacher: str | None = None
    ensemble: str | None = None
    student: str | None = None
    recipe: str | None = None
    seed: int | None = None
    data: str
    split: str = "test"
    params: int | None = None
    macs: float | None = None
    latency_ms: float | None = None
    machine: str | None = None
    unseen: Scores | None = None
    val: Scores | None = None
    train: Scores | None = None
    passes: float | None = None
    seconds: float | None = None
    weights: str | None = None
    origin: Origin | None = None
    fingerprint: str | None = None

    @model_validator(mode="after")
    def _says_whose_it_is(self) -> Self:
        if self.kind == "teacher" and self.teacher is None:
            raise ValueError("a teacher's result has no key 'teacher'")
        if self.kind == "ensemble" and self.ensemble is None:
            raise ValueError("an ensemble's result has no key 'ensemble'")
        if self.kind == "student" and None in (self.student, self.recipe, self.seed):
            raise ValueError("a student's result needs the keys 'student', 'recipe' and 'seed'")
        return self

    def score(self, metric: str) -> float | None:
        """A metric by its name; "unseen.map_area", "val.map_area" or "train.map_area" for one on another split."""
        split, _, name = metric.rpartition(".")
        scores: Scores | None = getattr(self, split) if split else self
        value: float | None = getattr(scores, name) if scores is not None else None
        return value


@dataclass(frozen=True)
class Results:
    """Every result of one data set.

    Attributes:
        teachers: by name, in the order of params; the mean of its trainings, where there are several.
        runs: (student, recipe) -> seed -> result, in the order of params.
        ensembles: like `teachers`.
        trainings: by kind and name, each time of teachers that were trained, and of ensembles whose teachers were,
            several times.
        left_out: results that are not in the report, each with the reason.
    """

    teachers: dict[str, Result]
    runs: dict[tuple[str, str], dict[int, Result]]
    ensembles: dict[str, Result] = field(default_factory=dict)
    trainings: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def of(self, student: str | None, recipe: str | None) -> list[Result]:
        """The runs of one cell, by seed."""
        return list(self.runs.get((student or "", recipe or ""), {}).values())

    def values(self, student: str | None, recipe: str | None, metric: str = "map_area") -> list[float]:
        """The metric in every run of a cell that has it."""
        return [value for run in self.of(student, recipe) if (value := run.score(metric)) is not None]

    def score(self, student: str | None, recipe: str | None, metric: str = "map_area") -> Spread | None:
        return spread(self.values(student, recipe, metric))

    def pairs(self, student: str | None, recipe: str | None, over: str | None = PLAIN) -> list[tuple[Result, Result]]:
        """The runs of two recipes, paired by seed."""
        ours, theirs = (self.runs.get((student or "", name or ""), {}) for name in (recipe, over))
        return [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]

    def fair_pairs(self, student: str | None, recipe: str | None) -> list[tuple[Result, Result]]:
        return [pair for pair in self.pairs(student, recipe) if fair(*pair)]

    def differences(self, student: str | None, recipe: str | None, metric: str = "map_area") -> list[float]:
        """What the recipe adds to `plain`, in points, for every seed that has both, fairly."""
        found = [minus(ours.score(metric), theirs.score(metric)) for ours, theirs in self.fair_pairs(student, recipe)]
        return [difference for difference in found if difference is not None]

    def mean(self, student: str | None, recipe: str | None, metric: str = "map_area") -> float | None:
        found = self.score(student, recipe, metric)
        return found.mean if found else None

    def latency(self, student: str | None) -> float | None:
        """Milliseconds of one image: the median over all runs of a student, for all are the same network."""
        return middle(run.latency_ms for name, recipe in self.runs if name == student
                      for run in self.of(name, recipe))

    def teacher(self, name: str, weights: str | None = None) -> Result:
        """The teacher's result, or that of its training with these weights; one without any numbers for none."""
        unknown = Result(kind="teacher", teacher=name, data="")
        mean = self.teachers.get(name, unknown)
        trained = self.trainings.get(("teacher", name), [mean])
        if weights is None or not any(each.weights for each in trained):
            return mean
        return next((each for each in trained if each.weights == weights), unknown)

    def teacher_of(self, name: str, run: Result) -> Result:
        """The teacher, in the training of it that a student or an ensemble has learnt from, if it names one."""
        return self.teacher(name, run.origin.teachers.get(name) if run.origin else None)

    def behind(self, name: str, runs: Iterable[Result]) -> Spread | None:
        """A teacher's mAP on test, in those of its trainings that runs have learnt from; in all, if they name none."""
        named = {run.origin.teachers.get(name) for run in runs if run.origin}
        trained = [each for each in self.trainings.get(("teacher", name), []) if each.weights in named]
        return spread(each.map_area for each in trained or [self.teacher(name)])

    def taught(self, trained: Result) -> list[int]:
        """The seeds of the students that learnt from a teacher, or from an ensemble's teachers, of these weights."""
        names = {str(trained.teacher): trained.weights} if trained.weights else {}
        names |= trained.origin.teachers if trained.origin else {}
        return sorted({seed for runs in self.runs.values() for seed, run in runs.items()
                       if names and run.origin and names.items() <= run.origin.teachers.items()})

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for runs in self.runs.values() for seed in runs})


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean, sample standard deviation and count of the values that are there."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(mean=fmean(known), std=stdev(known) if len(known) > 1 else None, n=len(known))


def middle(values: Iterable[float | None]) -> float | None:
    """The median of the values that are there."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def minus(a: float | None, b: float | None) -> float | None:
    """The difference, where both are there."""
    return None if a is None or b is None else a - b


def fair(a: Result, b: Result) -> bool:
    """Whether two runs have training, passes, data, views, precision, processes and teachers (if any) in common.

    What a run does not name is not held against it. Their code may differ: its fingerprint also changes with
    code that decides no result.
    """
    if a.passes != b.passes or not calculated_alike(a, b):
        return False
    if a.origin is None or b.origin is None:
        return True
    others = b.origin.training or {}
    fresh = None in (a.origin.views, b.origin.views)  # drawn in every step, with their own flips
    if any(others.get(key, value) != value for key, value in (a.origin.training or {}).items()
           if not (fresh and key == "flip")):
        return False
    known = [(getattr(a.origin, key), getattr(b.origin, key)) for key in ("data", "views")]
    return same_teachers(a, b) and all(None in pair or pair[0] == pair[1] for pair in known)


def same_teachers(a: Result, b: Result) -> bool:
    """Whether the teachers that both have learnt from are of the same weights."""
    theirs = b.origin.teachers if b.origin else {}
    return a.origin is None or all(theirs.get(name, sha) == sha for name, sha in a.origin.teachers.items())


def as_long(a: Result, b: Result) -> bool:
    """Whether two runs saw equally many images, but for last batches that are filled up."""
    return math.isclose(a.passes or 0.0, b.passes or 0.0, rel_tol=0.02)


def calculated_alike(a: Result, b: Result) -> bool:
    """Whether two runs have precision and processes in common, and may be compared if all else differs by design."""
    if a.origin is None or b.origin is None:
        return True
    known = a.origin.precision, b.origin.precision
    return (None in known or known[0] == known[1]) and a.origin.processes == b.origin.processes


def load_log(path: Path) -> Log:
    """A run's log.csv as one float64 array per column, NaN where a row has no value.

    Raises:
        UserError: the file holds something else.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        columns = rows[0] if rows else {}
        return {column: np.array([float(row[column] or math.nan) for row in rows]) for column in columns}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is no training log ({error}): train again, or remove it.") from None


def mean_log(logs: Sequence[Log]) -> Log:
    """The mean over seeds of the columns and steps that all of the logs have."""
    logs = [log for log in logs if log.get("step", np.empty(0)).size]
    if not logs:
        return {}
    steps = logs[0]["step"]
    for log in logs[1:]:
        steps = np.intersect1d(steps, log["step"])
    if not steps.size:
        return {}
    return {
        column: np.mean([log[column][np.isin(log["step"], steps)] for log in logs], axis=0)
        for column in logs[0]
        if all(column in log for log in logs)
    }


def load_logs(results: Results, root: Path) -> tuple[dict[str, Log], dict[tuple[str, str], Log]]:
    """Training logs under root/models of what has results: of teachers by name, of (student, recipe) over seeds."""
    def logs(folders: Iterable[Path]) -> Log:
        return mean_log([load_log(path) for folder in folders if (path := root / folder / "log.csv").is_file()])

    teachers = {name: logs([paths.teacher_model(name)]) for name in results.teachers}
    students = {cell: logs(paths.student_model(*cell, seed) for seed in runs) for cell, runs in results.runs.items()}
    return ({name: log for name, log in teachers.items() if log},
            {cell: log for cell, log in students.items() if log})


def parse(model: type[M], path: Path, remedy: str) -> M:
    """A JSON file of results, or an error that names file, key and remedy."""
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        problem = (f"{key}: " if key else "") + first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {problem}. {remedy}") from None
