"""Pascal VOC average precision, by 11 points (2007) or by area (2010 and later).

Reference: Everingham et al., "The Pascal Visual Object Classes Challenge: a retrospective" (2015)
    and the development kit's VOCevaldet, whose `>=` on the IoU is strict here, as in the Python voc_eval.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import unknown

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Eleven recall points, as floats and not as exact tenths: recall .3 misses the fourth of them.
RECALL_POINTS = np.arange(0, 1.1, 0.1)


def voc_ap(
    detections: ArrayLike,
    ground_truth: ArrayLike,
    num_classes: int,
    *,
    iou: float = 0.5,
    metric: Literal["07", "area"] = "area",
) -> Floats:
    """Average precision of each class.

    Detections are taken by descending score, equal scores in their given order. Each meets only the
    box of its class and image that it overlaps best (the first of equals), whether that one is
    difficult or already found: overlap above `iou` finds a box, a second find of it is a false
    positive, and finding a difficult one counts neither way.

    Args:
        detections: (n, 7) rows image, class, score, x1, y1, x2, y2 in VOC pixels (1-based, both
            edges inclusive, so a box is x2 - x1 + 1 wide); may be empty.
        ground_truth: (m, 7) rows image, class, difficult, x1, y1, x2, y2 in VOC pixels.
        num_classes: classes are 0 .. num_classes - 1; rows of others are ignored.
        iou: a match overlaps strictly more than this.
        metric: "07" averages the best precision at 11 recalls, "area" is the area under the
            precision envelope.

    Returns:
        (num_classes,) float64 in 0..1; NaN where a class has no object that counts.

    Raises:
        UserError: `metric` is neither.
    """
    if metric not in ("07", "area"):
        raise unknown("VOC metric", metric, ["07", "area"])
    found = np.asarray(detections, np.float64).reshape(-1, 7)
    objects = np.asarray(ground_truth, np.float64).reshape(-1, 7)
    found = found[np.argsort(-found[:, 2], kind="stable")]
    average = _eleven_points if metric == "07" else _area
    result = np.full(num_classes, np.nan)
    for label in range(num_classes):
        of_class = objects[objects[:, 1] == label]
        countable = int(np.sum(of_class[:, 2] == 0))
        if countable:
            hits, misses = _matches(found[found[:, 1] == label], of_class, iou)
            result[label] = average(*_curve(hits, misses, countable))
    return result


def _matches(found: Floats, objects: Floats, iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """True and false positives among one class's detections, which come by descending score."""
    overlap, best = _best_overlap(found, objects)
    matched = overlap > iou
    difficult = objects[best, 2] != 0
    claims = np.flatnonzero(matched & ~difficult)
    hits = np.zeros(len(found), bool)
    hits[claims[np.unique(best[claims], return_index=True)[1]]] = True
    return hits, ~hits & ~(matched & difficult)


def _best_overlap(found: Floats, objects: Floats) -> tuple[Floats, Ints]:
    """Each detection's largest IoU with a box of its image, and that box's row (0, 0 without one)."""
    order = np.argsort(objects[:, 0], kind="stable")
    images = objects[order, 0]
    first = np.searchsorted(images, found[:, 0], "left")
    count = np.searchsorted(images, found[:, 0], "right") - first
    overlap, best = np.zeros(len(found)), np.zeros(len(found), np.int64)
    rows = np.flatnonzero(count)
    if not rows.size:
        return overlap, best
    # Every (detection, box of its image) pair in one flat list, a run of pairs per detection.
    first, count = first[rows], count[rows]
    starts = np.cumsum(count) - count
    run = np.repeat(np.arange(len(rows)), count)
    box = order[np.arange(len(run)) - starts[run] + first[run]]
    pair_iou = _iou(found[rows[run], 3:], objects[box, 3:])
    overlap[rows] = np.maximum.reduceat(pair_iou, starts)
    tops = np.flatnonzero(pair_iou == overlap[rows][run])
    best[rows] = box[tops[np.unique(run[tops], return_index=True)[1]]]
    return overlap, best


def _iou(a: Floats, b: Floats) -> Floats:
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]) + 1.0
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]) + 1.0
    inside = (width > 0) & (height > 0)
    shared = width * height
    area_a = (a[:, 2] - a[:, 0] + 1.0) * (a[:, 3] - a[:, 1] + 1.0)
    area_b = (b[:, 2] - b[:, 0] + 1.0) * (b[:, 3] - b[:, 1] + 1.0)
    iou: Floats = np.divide(shared, area_a + area_b - shared, out=np.zeros(len(a)), where=inside)
    return iou


def _curve(
    hits: NDArray[np.bool_], misses: NDArray[np.bool_], countable: int
) -> tuple[Floats, Floats]:
    """Recall and precision after each detection."""
    true, false = np.cumsum(hits, dtype=np.float64), np.cumsum(misses, dtype=np.float64)
    return true / countable, true / np.maximum(true + false, np.finfo(np.float64).eps)


def _eleven_points(recall: Floats, precision: Floats) -> float:
    best = [precision[recall >= point].max(initial=0.0) for point in RECALL_POINTS]
    return float(np.sum(best) / 11.0)


def _area(recall: Floats, precision: Floats) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
