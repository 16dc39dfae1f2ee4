"""How much each teacher counts: the rules by which `merge_view` makes one heatmap of several.

A rule takes the teachers' heatmaps and peaks of one view and returns the merged heatmap and each teacher's
trust, by which `merge_view` fuses boxes. With every rule the merged probability of a cell lies between the
teachers' least and greatest, and no teacher is silenced: what one alone sees is kept.

Shapes: T teachers, C classes, h x w cells, K peaks of a teacher, n objects.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.ensemble.merging import Float32s, Floats, Ints, Rule, Weighed, box_iou, mean, peak_boxes

#: Least of what weights are made of: trust, AP, agreement with an object.
LEAST = 1e-4
#: AP of a class that a teacher does not know and another one does, however badly.
UNKNOWN = 1e-12


def maximum(heatmaps: Float32s, peaks: Float32s) -> Weighed:
    """The highest probability of any teacher; boxes are fused as by `mean`.

    Where teachers peak for one object in cells that do not touch, the merged heatmap keeps both peaks.
    """
    return Weighed(heatmaps.max(axis=0), np.ones((1, 1, 1, 1)))


def confidence(heatmaps: Float32s, peaks: Float32s) -> Weighed:
    """Each probability weighs by itself: the root of the teachers' mean square.

    The mean of p weighted by p, sum(p^2) / sum(p), would fall where an unsure teacher becomes surer (as long
    as it says less than 0.41 of what the other says), and has rings of false peaks around an object. The root
    mean square rises with every teacher's probability, and lies between the mean and the maximum.
    """
    heatmap = np.sqrt(np.square(heatmaps, dtype=np.float64).mean(axis=0))
    return Weighed(heatmap.astype(np.float32), heatmaps.astype(np.float64).clip(LEAST))


def weighted(heatmaps: Float32s, weights: Floats) -> Weighed:
    """The mean under weights that add up to 1 over the teachers, broadcast to (T, C, h, w)."""
    return Weighed((heatmaps * weights).sum(axis=0).astype(np.float32), weights)


def known_ap(per_class: Mapping[str, float | None], known: Sequence[str] | None) -> dict[str, float | None]:
    """What `class_weights` takes of a teacher: its AP by class, to the hundredth of a percent, of those it knows.

    Args:
        per_class: AP in percent of every class.
        known: classes of the teacher; None for all.
    """
    return {name: ap and round(ap, 2) for name, ap in per_class.items() if known is None or name in known}


def class_weights(class_ap: Sequence[Mapping[str, float | None]], classes: Sequence[str]) -> Floats:
    """Each teacher's share of the teachers' AP of each class.

    Args:
        class_ap: per teacher, AP in percent by the class's name; None where no object counts, no entry where the
            teacher does not know the class.
        classes: in the order of the heatmap's planes.

    Returns:
        (T, C) that add up to 1 over the teachers; equal where no teacher finds the class.
    """
    found = np.array([[max((ap[name] or 0.0) / 100, LEAST) if name in ap else UNKNOWN for name in classes]
                      for ap in class_ap])
    shares: Floats = found / found.sum(axis=0)
    return shares


def agreement(heatmaps: Float32s, peaks: Float32s, truth: Floats) -> Weighed:
    """Inside each ground-truth box, its class is the mean under `agreement_weights`; elsewhere the plain mean.

    A cell of several boxes of a class belongs to the box whose centre is nearest, in units of its sides.

    Args:
        truth: (n, 5 or more) x1, y1, x2, y2 in cells, class; further columns are ignored.
    """
    height, width = heatmaps.shape[2:]
    weights = np.full(heatmaps.shape, 1 / len(heatmaps))
    nearest = np.full(heatmaps.shape[1:], np.inf)
    boxes, labels = truth[:, :4], truth[:, 4].astype(np.int64)
    shares = agreement_weights(peaks, boxes, labels, width)
    for (x1, y1, x2, y2), label, share in zip(boxes, labels, shares.T, strict=True):
        y = np.arange(max(0, int(np.floor(y1))), min(height, int(np.ceil(y2))))
        x = np.arange(max(0, int(np.floor(x1))), min(width, int(np.ceil(x2))))
        away = (((y + 0.5 - (y1 + y2) / 2) / (y2 - y1)) ** 2)[:, None] + ((x + 0.5 - (x1 + x2) / 2) / (x2 - x1)) ** 2
        row, column = np.nonzero(away < nearest[label][np.ix_(y, x)])
        nearest[label, y[row], x[column]] = away[row, column]
        weights[:, label, y[row], x[column]] = share[:, None]
    return weighted(heatmaps, weights)


def agreement_weights(peaks: Float32s, boxes: Floats, labels: Ints, width: int) -> Floats:
    """How much each teacher counts for each object, by how well its best peak agrees with it.

    A teacher's agreement q with an object is its highest score times IoU over its peaks of the object's
    class, its loss L = -log q, and its weight (1 - exp(L) / sum of all exp(L)) / (T - 1).

    Args:
        peaks: (T, K, 7) as `find_peaks` returns them.
        boxes: (n, 4) x1, y1, x2, y2 in cells.
        labels: (n,) classes.
        width: of the map, in cells.

    Returns:
        (T, n) that add up to 1 over the teachers.

    Reference: Zhang, Chen, Wang, "Confidence-aware multi-teacher knowledge distillation" (2022), where L is
        the cross-entropy of a classifier.
    """
    agreed = np.full((len(peaks), len(boxes)), LEAST)
    teacher, rank, number = np.nonzero((peaks[:, :, 1, None] == labels) & (peaks[:, :, 2, None] > 0))
    seen = peaks[teacher, rank].astype(np.float64)
    objects = np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
    np.maximum.at(agreed, (teacher, number), seen[:, 2] * box_iou(peak_boxes(seen, width), objects[number]))
    difficulty = 1 / agreed
    weights: Floats = (1 - difficulty / difficulty.sum(axis=0)) / (len(peaks) - 1)
    return weights


def rule_of(
    kind: str, *, shares: Floats | None = None, truth: NDArray[np.floating] | None = None
) -> Rule:
    """The rule of a kind, a value of `ensembles.NAME.heatmap`.

    Args:
        kind: "mean", "max", "confidence", "class-ap" or "agreement".
        shares: for class-ap, what `class_weights` returned.
        truth: for agreement, the view's objects.
    """
    if kind == "class-ap":
        assert shares is not None, "class-ap needs the teachers' AP"
        return partial(_by_class, shares=shares)
    if kind == "agreement":
        assert truth is not None, "agreement needs the view's objects"
        return partial(agreement, truth=np.asarray(truth, np.float64))
    return {"mean": mean, "max": maximum, "confidence": confidence}[kind]


def _by_class(heatmaps: Float32s, peaks: Float32s, shares: Floats) -> Weighed:
    return weighted(heatmaps, shares[:, :, None, None])
