"""Pictures with boxes and heatmaps on them, side by side."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.report.drawing import Theme

PANEL = 2.2  # inches
GAP, HEADING = 0.06, 0.27


class Box(NamedTuple):
    """A box to draw, in the picture's pixels; score is None for ground truth."""

    corners: NDArray[np.floating]
    label: int
    score: float | None = None
    difficult: bool = False


@dataclass(frozen=True)
class Heat:
    """Where somebody sees which class.

    Attributes:
        heatmap: (C, h, w) probabilities.
        extent: left, right, bottom, top of the heatmap in the picture's pixels.
        boxes: drawn over it.
    """

    heatmap: NDArray[np.floating]
    extent: tuple[float, float, float, float]
    boxes: Sequence[Box] = ()


Content = Heat | list[Box]


def draw_panels(
    theme: Theme,
    image: NDArray[np.uint8],
    panels: Sequence[tuple[str, Content]],
    classes: Sequence[str],
    *,
    panel: float = PANEL,
) -> Figure:
    """One picture several times: with boxes, or darkened and without colour below a heatmap.

    Args:
        image: (H, W, 3) RGB.
        panels: heading and what is drawn.
        classes: names of the labels.
        panel: width in inches.
    """
    colors = class_colors(len(classes))
    image_height, image_width = image.shape[:2]
    tall = panel * image_height / image_width
    width, height = len(panels) * (panel + GAP) - GAP, tall + HEADING
    figure = Figure(figsize=(width, height))
    for column, (heading, content) in enumerate(panels):
        left = column * (panel + GAP)
        axis = figure.add_axes((left / width, 0, panel / width, tall / height))
        axis.set_axis_off()
        axis.set_title(heading, fontsize=11, color=theme.ink, loc="left", pad=3)
        extent = (0, image_width, image_height, 0)
        axis.set(xlim=extent[:2], ylim=extent[2:], autoscale_on=False)
        if isinstance(content, Heat):
            axis.imshow(_dimmed(image), extent=extent, interpolation="lanczos")
            _draw_heat(axis, content, colors)
        else:
            axis.imshow(image, extent=extent, interpolation="lanczos")
        for box in reversed(content.boxes if isinstance(content, Heat) else content):  # the best comes first: on top
            _draw_box(axis, box, classes, colors)
    return figure


def in_words(boxes: Sequence[Box], classes: Sequence[str]) -> str:
    """Boxes in words: "cat 0.91, dog 0.40"."""
    named = [f"{classes[box.label]}{'' if box.score is None else f' {box.score:.2f}'}" for box in boxes]
    return ", ".join(named) or "nothing"


def class_colors(count: int) -> NDArray[np.float64]:
    """(count, 3) bright RGB in 0..1, neighbours far apart."""
    return np.array([colorsys.hsv_to_rgb((0.02 + 0.618034 * place) % 1, 0.72, 1.0) for place in range(count)])


def _dimmed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = image.mean(axis=2, keepdims=True) * 0.4
    return np.broadcast_to(grey, image.shape).astype(np.uint8)


def _draw_heat(axis: Axes, heat: Heat, colors: NDArray[np.float64]) -> None:
    """Each class in its colour, as opaque as it is probable."""
    likely = heat.heatmap.clip(0, 1).transpose(1, 2, 0)
    strongest = likely.max(axis=2)
    mixed = likely @ colors / likely.sum(axis=2, keepdims=True).clip(1e-9)
    overlay = np.dstack([mixed, np.sqrt(strongest)])
    axis.imshow(overlay, extent=heat.extent, interpolation="bilinear")


def _draw_box(axis: Axes, box: Box, classes: Sequence[str], colors: NDArray[np.float64]) -> None:
    x1, y1, x2, y2 = box.corners
    color, line = tuple(colors[box.label]), ":" if box.difficult else "-"
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.8, linestyle=line))
    # The label keeps inside the picture: it grows to the left on the right half, down at the top.
    right, top = x1 > 0.5 * axis.get_xlim()[1], y1 < 0.1 * axis.get_ylim()[0]
    axis.annotate(
        classes[box.label] + ("" if box.score is None else f" {box.score:.2f}"),
        (x2 if right else x1, y1),
        xytext=(-1 if right else 1, -2 if top else 2),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top" if top else "bottom",
        fontsize=8.5,
        color="#000000",
        parse_math=False,  # a class may have dollars in its name
        clip_on=True,
        bbox={"boxstyle": "square,pad=0.12", "facecolor": color, "edgecolor": "none", "alpha": 0.9},
    )
