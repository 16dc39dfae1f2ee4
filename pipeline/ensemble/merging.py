"""Merging what several teachers say of one view.

Offsets and sizes are trained at centre cells alone, so where two teachers peak in neighbouring cells
a mean of their maps mixes coordinates. Heatmaps are merged cell by cell, by a rule; boxes are matched,
fused as absolute boxes and written back where the merged heatmap peaks.

Shapes: T teachers, C classes, h x w cells, K peaks of a teacher, N peaks of all, G objects.
"""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Ints = NDArray[np.int64]

#: Columns of a peak: cell, class, score, w, h, dx, dy.
_CELL, _CLASS, _SCORE, _SIZE, _OFFSET = 0, 1, 2, slice(3, 5), slice(5, 7)
_TINY = 1e-6


class Merged(NamedTuple):
    """One view's merged outputs.

    Attributes:
        heatmap: (C, h, w) float32 probabilities.
        wh_offset: (4, h, w) float32 w, h, dx, dy in cells.
        peaks: (K, 7) float32 cell, class, score, w, h, dx, dy by descending score; unused rows 0.
    """

    heatmap: Float32s
    wh_offset: Float32s
    peaks: Float32s


class Weighed(NamedTuple):
    """What a rule says of one view.

    Attributes:
        heatmap: (C, h, w) float32 merged probabilities.
        trust: positive float64 that broadcasts to (T, C, h, w): how much a teacher's box counts that it
            has for a class in a cell, beside its score.
    """

    heatmap: Float32s
    trust: Floats


#: From (T, C, h, w) probabilities and (T, K, 7) peaks; the others are in `weighting`.
Rule = Callable[[Float32s, Float32s], Weighed]


def mean(heatmaps: Float32s, peaks: Float32s) -> Weighed:
    """The mean of the probabilities; all teachers' boxes count alike."""
    # In double precision, or the order of three teachers would decide which of two equal peaks is higher.
    return Weighed(heatmaps.mean(axis=0, dtype=np.float64).astype(np.float32), np.ones((1, 1, 1, 1)))


def merge_view(
    heatmaps: Float32s, wh_offsets: Float32s, peaks: Float32s, *, iou: float, threshold: float, rule: Rule = mean
) -> Merged:
    """Merges the teachers' outputs for one view; their order does not matter.

    The rule merges the heatmaps. The teachers' peaks of one object (`match_peaks`) become one box, the
    mean of their boxes weighted by score and by what the rule trusts them; the peak of a single teacher
    keeps its box. The box is written into wh_offset at every cell where the merged heatmap may peak for it, so
    that decoding the merged maps finds it: at the teachers' own peaks, at the cell of the fused
    centre and in the rectangle between those. Where several objects want a cell, one that has a peak
    or its centre there comes before one that has the cell between, then the one whose class is more
    probable there, then the one with the higher score. All other cells hold the mean of the maps,
    weighted by each teacher's highest probability in the cell; a teacher whose store kept nothing there
    (four zeros, exact-fp16-sparse) does not count.

    A merged peak stands at the cell of its fused centre. Its score is the merged heatmap's highest
    value over the object's cells, where decoding the merged heatmap finds the object: by the mean that of the
    teachers' scores where all peak in one cell, less where they disagree on it. It is no more than the highest
    score of its own peaks: a weak box in a cell of a strong one's flank stays weak.

    Args:
        heatmaps: (T, C, h, w) probabilities.
        wh_offsets: (T, 4, h, w) w, h, dx, dy in cells.
        peaks: (T, K, 7) as `find_peaks` returns them.
        iou: least IoU of two boxes of one object.
        threshold: least score of a peak that takes part.
        rule: how the heatmaps are merged.

    Reference: weighted box fusion is Solovyev et al., "Weighted boxes fusion" (2021).
    """
    grid = heatmaps.shape[2:]
    heatmap, trust = rule(heatmaps, peaks)
    kept = wh_offsets.any(axis=1, keepdims=True)
    confidence = (heatmaps.max(axis=1, keepdims=True) + np.float32(_TINY)) * kept
    total = confidence.sum(axis=0)
    wh_offset = np.divide((confidence * wh_offsets).sum(axis=0), total, out=np.zeros_like(wh_offsets[0]),
                          where=total > 0)
    merged = Merged(heatmap, wh_offset, np.zeros(peaks.shape[1:], np.float32))

    rows, teacher = _ranked(peaks, threshold)
    if not len(rows):
        return merged
    member_of, weight = _box_weights(rows, teacher, trust, heatmaps.shape, iou)
    boxes = _weighted_sums(peak_boxes(rows, grid[1]), weight, member_of)
    labels = np.zeros(len(boxes), np.int64)
    labels[member_of] = rows[:, _CLASS]
    home = _cell_of(boxes[:, :2], grid)

    owner, cell, peaked = _claims(member_of, rows[:, _CELL].astype(np.int64), home, grid[1])
    value = heatmap.reshape(len(heatmap), -1)[labels[owner], cell]
    score, own = np.zeros((2, len(boxes)), np.float32)
    np.maximum.at(score, owner, value)
    np.maximum.at(own, member_of, rows[:, _SCORE].astype(np.float32))
    score = np.minimum(score, own)

    last_wins = np.lexsort((score[owner], value, peaked))
    owner, cell = owner[last_wins], cell[last_wins]
    wh_offset.reshape(4, -1)[:, cell] = _size_and_offset(boxes[owner], cell, grid[1]).T
    best = np.argsort(-score, kind="stable")[: len(merged.peaks)]
    merged.peaks[: len(best)] = np.column_stack([
        home[best], labels[best], score[best], _size_and_offset(boxes[best], home[best], grid[1])])
    return merged


def merge_views(heatmaps: Float32s, wh_offsets: Float32s, peaks: Float32s, *, iou: float, threshold: float,
                rules: Iterable[Rule] = repeat(mean)) -> Merged:
    """`merge_view` of each view of a batch, by a rule for each: (views, T, ...) in, (views, ...) out."""
    views = [merge_view(*view, iou=iou, threshold=threshold, rule=rule)
             for *view, rule in zip(heatmaps, wh_offsets, peaks, rules, strict=False)]
    return Merged(*(np.stack(values) for values in zip(*views, strict=True)))


def box_shares(
    heatmaps: Float32s, peaks: Float32s, *, iou: float, threshold: float, rule: Rule = mean
) -> Floats:
    """How much each teacher counts in the fused boxes of one view: 0 where it has no peak for an object.

    Args:
        heatmaps, peaks, iou, threshold, rule: as of `merge_view`.

    Returns:
        (N, T) for the N objects that `merge_view` finds; each row adds up to 1.
    """
    rows, teacher = _ranked(peaks, threshold)
    if not len(rows):
        return np.zeros((0, len(peaks)))
    trust = rule(heatmaps, peaks).trust
    member_of, weight = _box_weights(rows, teacher, trust, heatmaps.shape, iou)
    shares = np.zeros((member_of.max() + 1, len(peaks)))
    shares[member_of, teacher] = weight  # an object has one peak of a teacher at most
    return shares


def match_peaks(rows: Floats, teacher: Ints, width: int, iou: float) -> Ints:
    """Which object each peak belongs to.

    Peaks are taken by descending score. One that no object has yet starts one and takes, from every
    other teacher, the free peak of its class that it overlaps most, by at least `iou`.

    Args:
        rows: (N, 7) peaks by descending score.
        teacher: (N,) whose peak it is.
        width: of the map, in cells.
        iou: least IoU with the object's first peak.

    Returns:
        (N,) int64 number of the object, counted by its first peak.
    """
    first = np.arange(len(rows))
    for leader, follower in _candidates(rows, teacher, width, iou):
        # Leaders come in order, so the follower leads nobody yet.
        free = first[leader] == leader and first[follower] == follower
        if free and teacher[follower] not in teacher[first == leader]:
            first[follower] = leader
    return np.unique(first, return_inverse=True)[1]


def _candidates(rows: Floats, teacher: Ints, width: int, iou: float) -> list[tuple[int, int]]:
    """Pairs of peaks that may be one object, by the first of them, then by descending overlap."""
    label = rows[:, _CLASS]
    one, other = np.nonzero(np.triu((label[:, None] == label) & (teacher[:, None] != teacher)))
    boxes = peak_boxes(rows, width)
    overlap = box_iou(boxes[one], boxes[other])
    order = np.lexsort((-overlap, one))
    order = order[(overlap[order] >= iou) & (overlap[order] > 0)]
    return list(zip(one[order].tolist(), other[order].tolist(), strict=True))


def _ranked(peaks: Float32s, threshold: float) -> tuple[Floats, Ints]:
    """All teachers' peaks above the threshold, by descending score, and whose they are.

    Equal scores are ordered by what else the rows say, and not by the teachers' order.
    """
    score = peaks[..., _SCORE]
    teacher, rank = np.nonzero((score >= threshold) & (score > 0))
    rows = peaks[teacher, rank].astype(np.float64)
    order = np.lexsort((*rows[:, 3:].T, rows[:, _CELL], rows[:, _CLASS], -rows[:, _SCORE]))
    return rows[order], teacher[order]


def peak_boxes(rows: Floats, width: int) -> Floats:
    """(N, 4) cx, cy, w, h in cells."""
    y, x = np.divmod(rows[:, _CELL], width)
    return np.column_stack([np.column_stack([x, y]) + rows[:, _OFFSET], rows[:, _SIZE]])


def _box_weights(
    rows: Floats, teacher: Ints, trust: Floats, shape: tuple[int, ...], iou: float
) -> tuple[Ints, Floats]:
    """Which object each ranked peak belongs to, and its share of the object's box, both (N,)."""
    member_of = match_peaks(rows, teacher, shape[3], iou)
    weight = rows[:, _SCORE] * _at_peaks(trust, shape, rows, teacher)
    return member_of, weight / np.bincount(member_of, weight)[member_of]


def _at_peaks(trust: Floats, shape: tuple[int, ...], rows: Floats, teacher: Ints) -> Floats:
    """(N,) what a rule trusts each peak."""
    cell, label = rows[:, _CELL].astype(np.int64), rows[:, _CLASS].astype(np.int64)
    trusted: Floats = np.broadcast_to(trust, shape)[teacher, label, *np.divmod(cell, shape[3])]
    return trusted


def _size_and_offset(boxes: Floats, cell: Ints, width: int) -> Floats:
    """(N, 4) w, h, dx, dy of (N, 4) cx, cy, w, h as seen from a cell."""
    y, x = np.divmod(cell, width)
    return np.column_stack([boxes[:, 2:], boxes[:, :2] - np.column_stack([x, y])])


def box_iou(a: Floats, b: Floats) -> Floats:
    """(P,) IoU of (P, 4) cx, cy, w, h each; boxes without area overlap nothing."""
    size_a, size_b = a[:, 2:].clip(0), b[:, 2:].clip(0)
    low = np.maximum(a[:, :2] - size_a / 2, b[:, :2] - size_b / 2)
    high = np.minimum(a[:, :2] + size_a / 2, b[:, :2] + size_b / 2)
    shared = (high - low).clip(0).prod(axis=1)
    union = size_a.prod(axis=1) + size_b.prod(axis=1) - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros(len(a)), where=shared > 0)
    return overlap


def _weighted_sums(values: Floats, weight: Floats, group: Ints) -> Floats:
    return np.column_stack([np.bincount(group, weight * column) for column in values.T])


def _cell_of(centres: Floats, grid: tuple[int, ...]) -> Ints:
    """The cell that holds each (x, y), or the nearest one of the grid."""
    x, y = np.floor(centres).clip(0, [grid[1] - 1, grid[0] - 1]).astype(np.int64).T
    cells: Ints = y * grid[1] + x
    return cells


def _claims(member_of: Ints, peaks: Ints, home: Ints, width: int) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """(object, cell) for every cell that wants an object's box, and whether it peaks or is centred there."""
    owner = np.concatenate([member_of, np.arange(len(home))])
    cell = np.concatenate([peaks, home])
    between = _between(owner, cell, width)
    peaked = np.repeat([True, False], [len(owner), len(between[0])])
    return np.concatenate([owner, between[0]]), np.concatenate([cell, between[1]]), peaked


def _between(owner: Ints, cell: Ints, width: int) -> tuple[Ints, Ints]:
    """(object, cell) for every cell of the rectangle that an object's (object, cell) pairs span."""
    low, high = np.full((2, owner.max() + 1, 2), [[[np.iinfo(np.int64).max]], [[-1]]])
    place = np.column_stack(np.divmod(cell, width))
    np.minimum.at(low, owner, place)
    np.maximum.at(high, owner, place)
    sides = high - low + 1
    apart = np.flatnonzero((sides > 1).any(axis=1))  # most objects have one cell and span nothing
    count = sides[apart].prod(axis=1)
    owners = np.repeat(apart, count)
    down, along = np.divmod(np.arange(count.sum()) - np.repeat(count.cumsum() - count, count), sides[owners, 1])
    return owners, (low[owners, 0] + down) * width + low[owners, 1] + along
