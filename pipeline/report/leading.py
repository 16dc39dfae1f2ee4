"""Which of a recipe's teachers is the better one, and whether their ensemble is ahead of it."""

from dataclasses import dataclass

from pipeline.params import Augmentation
from pipeline.report.results import minus, spread
from pipeline.report.study import Study

UNSEEN = "unseen.map_area"
#: Points on val within which two teachers are as good as each other: which of them students learn more from is open.
CLOSE = 1.0


def merging(study: Study) -> list[str]:
    """The recipes of several merged teachers but for variants such as the paper's; that of two families first."""
    found = [name for name, recipe in study.params.recipes.items()
             if recipe.merged and name == "+".join(recipe.teachers)]
    return [name for name in dict.fromkeys([study.two_teachers, *found]) if name]


def better_teachers(study: Study, recipe: str) -> list[str]:
    """Of a recipe's teachers the one with the highest AP on val, and those that are as good; none if one has none."""
    scores = {name: study.results.teacher(name).score("val.map_area") for name in study.params.recipes[recipe].teachers}
    known = {name: score for name, score in scores.items() if score is not None}
    if not known or len(known) < len(scores):
        return []
    first = max(known.values())
    return sorted((name for name, score in known.items() if first - score < CLOSE), key=lambda name: -known[name])


def better_teacher(study: Study, recipe: str) -> str | None:
    """Of a recipe's teachers the one with the higher AP on val; None while not all are scored on it."""
    return next(iter(better_teachers(study, recipe)), None)


@dataclass(frozen=True)
class Lead:
    """By how much an ensemble is ahead of the better of its teachers, in mAP@.5 on val.

    Attributes:
        ensemble: its key.
        teacher: the better teacher.
        points: the ensemble's less the teacher's of the same training; the mean of several.
        unseen: on drawings that nobody trained on, where there are any, over the one that is better on these.
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
    params, results = study.params, study.results
    if params.evaluate.flip or params.dump.tta != Augmentation():
        return None
    merged, better = params.recipes[recipe].merged, better_teacher(study, recipe)
    if merged is None or better is None or merged not in results.ensembles:
        return None
    points, unseen = [], []
    for each in results.trainings.get(("ensemble", merged), [results.ensembles[merged]]):
        alone = {name: results.teacher_of(name, each) for name in params.recipes[recipe].teachers}
        points.append(minus(each.score("val.map_area"), alone[better].score("val.map_area")))
        known = [score for teacher in alone.values() if (score := teacher.score(UNSEEN)) is not None]
        unseen.append(minus(each.score(UNSEEN), max(known, default=None)))
    mean, on_unseen = spread(points), spread(unseen)
    return None if mean is None else Lead(merged, better, mean.mean, on_unseen.mean if on_unseen else None)
