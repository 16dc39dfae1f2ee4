"""The plots: how good the students are, how large, and how all of them were trained."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from pipeline.params.recipe import PLAIN
from pipeline.report.comparisons import Comparison
from pipeline.report.document import Picture, listed, shown
from pipeline.report.drawing import Theme, legend, panels, plain_ticks, save, title
from pipeline.report.results import Log, middle
from pipeline.report.study import Study, label

GROUND_TRUTH = {"heatmap": "Heatmap (focal)", "wh": "Width and height (L1)", "offset": "Offset (L1)"}
DISTILLATION = {
    "kd_heatmap": "w1 heatmap",
    "kd_wh": "w2 width and height",
    "kd_offset": "w3 offset",
    "kd_features": "w4 features",
}
Curve = tuple[str, Log, str]  # its name, its log, its column


def score_figure(study: Study, out: Path, recipes: Sequence[str] = (), *, dark: bool = True) -> Picture | None:
    """Every student's mAP by recipe (the main ones unless told), a dot per seed, and the teachers' as lines."""
    students, recipes = study.shown_students[::-1], recipes or study.main_recipes
    teachers = {name: score for name, result in study.results.teachers.items() if (score := result.map_area)}
    points = [
        (recipe, row, mean, study.results.values(student, recipe))
        for recipe in recipes
        for row, student in enumerate(students)
        if (mean := study.results.mean(student, recipe)) is not None
    ]
    if not points:
        return None

    def draw(theme: Theme) -> Figure:
        lanes = len(students) * (1 + len(recipes)) + len(teachers)
        step = 1 / (1 + len(recipes))  # a lane
        figure, (axis,) = panels(theme, 1, columns=1, height=0.9 + 0.26 * lanes)
        for place, recipe in enumerate(recipes):
            mine = [point for point in points if point[0] == recipe]
            lane = step * (len(recipes) - 1 - 2 * place) / 2
            means, rows = [mean for _, _, mean, _ in mine], [row + lane for _, row, _, _ in mine]
            color = theme.color(place)
            axis.scatter(means, rows, s=110, color=color, marker=theme.marker(place), label=study.recipe_label(recipe),
                         zorder=3)
            for row, (_, _, _, seeds) in zip(rows, mine, strict=True):
                axis.plot(seeds, [row] * len(seeds), color=color, linewidth=1.4, marker=".", markersize=5, zorder=2)
        for row, (name, score) in enumerate(teachers.items()):
            axis.axvline(score, color=theme.ink, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
            at = (score, len(students) - 0.5 + step * (row + 0.5))
            axis.annotate(label(name), at, xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
                          fontsize=9, color=theme.ink, bbox={"facecolor": theme.paper, "edgecolor": "none", "pad": 1})
        axis.set_yticks(range(len(students)), [label(name) for name in students], color=theme.ink, fontsize=10)
        axis.set_ylim(-0.5, len(students) - 0.5 + step * len(teachers))
        axis.set_xlabel("mAP@.5 on test, %", color=theme.muted, fontsize=9)
        axis.grid(visible=False, axis="y")
        legend(figure, axis, theme)
        return figure

    return save(
        draw,
        out,
        "scores",
        dark=dark,
        alt=f"mAP of {listed([*map(label, students[::-1])])} by recipe, with the teachers' as lines: the tables have "
        "the numbers.",
        caption="Students by recipe: large marks are means, the dots beside them single seeds, dashed lines the "
        "teachers.",
    )


def claims_figure(claims: Sequence[Comparison], out: Path) -> Picture | None:
    """A row for each claim: its mean difference with the interval, and a dot for each student."""
    told = [(claim, claim.overall) for claim in claims if claim.overall is not None]
    if not told:
        return None

    def draw(theme: Theme) -> Figure:
        labels = [fill(claim.claim, 60) for claim, _ in told]
        lines = [max(2, label.count("\n") + 1) for label in labels]
        places = [-(sum(lines[:place]) + lines[place] / 2) for place in range(len(told))]
        figure, (axis,) = panels(theme, 1, columns=1, height=0.6 + 0.19 * sum(lines))
        axis.axvline(0, color=theme.ink, linewidth=1.1, zorder=1)
        for place, (claim, overall) in zip(places, told, strict=True):
            axis.errorbar(overall.mean, place, xerr=overall.half, color=theme.color(0), marker="o", markersize=8,
                          linewidth=2.4, zorder=2)
            students = [found.mean for found in claim.by_student.values()]
            axis.plot(students, [place - 0.6] * len(students), "o", color=theme.muted, markersize=4, zorder=2)
        axis.set_yticks(places, labels, color=theme.ink, fontsize=8)
        axis.set_ylim(-sum(lines), 0)
        axis.set_xlabel("difference of mAP@.5, points", color=theme.muted, fontsize=9)
        axis.grid(visible=False, axis="y")
        return figure

    return save(
        draw,
        out,
        "claims",
        dark=False,  # of the study's page alone, which code hosts show
        alt="The claims' mean differences with their intervals: the table has the numbers.",
        caption="Mean differences with 95 % intervals, and below each the means of single students.",
    )


def size_figure(study: Study, out: Path) -> Picture | None:
    """mAP against parameters: teachers, and students alone and taught."""
    results = study.results
    points = [
        (label(name), result.params / 1e6, {"teacher": result.map_area})
        for name, result in results.teachers.items()
        if result.params and result.map_area is not None
    ]
    for student in study.shown_students:
        params = middle(run.params for recipe in study.main_recipes for run in results.of(student, recipe))
        kinds = {"alone": results.mean(student, PLAIN), "taught": results.mean(student, study.headline)}
        scores = {kind: score for kind, score in kinds.items() if score is not None}
        if params and scores:
            points.append((label(student), params / 1e6, scores))
    if not points:
        return None

    def draw(theme: Theme) -> Figure:
        figure, (axis,) = panels(theme, 1, columns=1, height=3.4)
        for place, (name, millions, scores) in enumerate(points):
            color = theme.muted if "teacher" in scores else theme.color(place)
            axis.plot([millions] * len(scores), [*scores.values()], color=color, linewidth=1.4, zorder=2)
            for kind, score in scores.items():
                axis.scatter(
                    millions,
                    score,
                    s=75,
                    marker="D" if kind == "teacher" else "o",
                    linewidth=1.8,
                    zorder=3,
                    edgecolor=color,
                    facecolor=theme.paper if kind == "alone" else color,
                )
            axis.annotate(
                name,
                (millions, max(scores.values())),
                xytext=(7, 5),
                textcoords="offset points",
                fontsize=9,
                color=theme.ink,
            )
        axis.margins(x=0.14, y=0.18)
        axis.set_xscale("log")
        plain_ticks(axis.xaxis)
        axis.set_xlabel("Parameters, millions", color=theme.muted, fontsize=9)
        axis.set_ylabel("mAP@.5 on test, %", color=theme.muted, fontsize=9)
        return figure

    told = [
        f"{name} {shown(millions)} million, " + ", ".join(f"{kind} {shown(score)}" for kind, score in scores.items())
        for name, millions, scores in points
    ]
    return save(
        draw,
        out,
        "sizes",
        alt=f"mAP against parameters: {'; '.join(told)}.",
        caption="Size and mAP. Rings: students alone; discs: the same taught; diamonds: teachers.",
    )


def teacher_curves(logs: dict[str, Log], out: Path) -> Picture | None:
    """The teachers' loss terms."""
    curves = {
        heading: [(label(name), log, term) for name, log in logs.items() if term in log]
        for term, heading in GROUND_TRUTH.items()
    }
    return _curves(
        curves,
        out,
        "loss-teachers",
        columns=3,
        caption="Loss terms of the teachers over training, on ground truth, logarithmic.",
    )


def student_curves(study: Study, logs: dict[tuple[str, str], Log], out: Path) -> Picture | None:
    """Each student's loss on ground truth, which is the same quantity alone and taught."""
    curves = {
        label(student): [
            (study.recipe_label(recipe), {**log, "ground truth": _total(log) / weight}, "ground truth")
            for (name, recipe), log in logs.items()
            if name == student and recipe in study.main_recipes and "heatmap" in log
            and (weight := study.params.recipes[recipe].ground_truth)  # the logged terms carry it
        ]
        for student in dict.fromkeys(student for student, _ in logs)
    }
    return _curves(
        curves,
        out,
        "loss-students",
        columns=2,
        caption="Students' loss on ground truth (heatmap + 0.1 wh + offset), mean over seeds, logarithmic: "
        "the same quantity for a student alone and taught.",
    )


def distillation_curves(study: Study, logs: dict[tuple[str, str], Log], out: Path) -> Picture | None:
    """The four terms that pull a student to its teachers."""
    curves = {
        heading: [
            (f"{label(student)} {study.recipe_label(recipe)}", log, term)
            for (student, recipe), log in logs.items()
            if recipe in study.main_recipes and term in log
        ]
        for term, heading in DISTILLATION.items()
    }
    return _curves(
        curves,
        out,
        "loss-distillation",
        columns=2,
        caption="The weighted distillation terms, mean over seeds, logarithmic.",
    )


def _total(log: Log) -> np.ndarray:
    total: np.ndarray = np.sum([log[term] for term in GROUND_TRUTH if term in log], axis=0)
    return total


def _curves(groups: dict[str, list[Curve]], out: Path, name: str, *, columns: int, caption: str) -> Picture | None:
    """A panel per group; a curve keeps its colour from panel to panel."""
    groups = {heading: curves for heading, curves in groups.items() if curves}
    if not groups:
        return None
    names = list(dict.fromkeys(curve[0] for curves in groups.values() for curve in curves))

    def draw(theme: Theme) -> Figure:
        figure, axes = panels(theme, len(groups), columns=columns, height=2.7)
        seen: set[str] = set()
        for axis, (heading, curves) in zip(axes, groups.items(), strict=True):
            for curve, log, column in curves:
                place = names.index(curve)
                axes[0].plot([], [], color=theme.color(place), linewidth=1.8, label="" if curve in seen else curve)
                seen.add(curve)
                axis.plot(log["epoch"], _positive(log[column]), color=theme.color(place), linewidth=1.6)
            axis.set_yscale("log")
            plain_ticks(axis.yaxis)
            title(axis, theme, heading)
            axis.set_xlabel("epoch", color=theme.muted, fontsize=9)
        legend(figure, axes[0], theme)
        return figure

    ends = [
        f"{heading}: {', '.join(f'{curve} ends at about {_end(log[column]):.3g}' for curve, log, column in curves)}"
        for heading, curves in groups.items()
    ]
    return save(draw, out, name, alt=f"Loss curves. {'; '.join(ends)}.", caption=caption)


def _positive(values: np.ndarray) -> np.ndarray:
    """Zeros have no place on a logarithmic axis."""
    return np.where(values > 0, values, np.nan)


def _end(values: np.ndarray) -> float:
    return fmean(values[-3:])
