"""The numbers of metrics.json from a detector's boxes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.coco import coco_ap
from pipeline.evaluation.voc import voc_ap

if TYPE_CHECKING:
    from pipeline.data.dataset import ImageRecord

#: From 0-based continuous edges to VOC's 1-based inclusive pixels.
TO_VOC = np.array([1.0, 1.0, 0.0, 0.0])


def voc_detections(detections: NDArray[np.floating]) -> NDArray[np.float64]:
    """Detections as `voc_ap` wants them.

    Args:
        detections: (n, 7) rows image, class, score, x1, y1, x2, y2 in source pixels (0-based
            continuous edges).

    Returns:
        The same rows in VOC pixels.
    """
    rows = np.array(detections, np.float64).reshape(-1, 7)
    rows[:, 3:] += TO_VOC
    return rows


def voc_objects(records: "Sequence[ImageRecord]") -> NDArray[np.float64]:
    """The ground truth of `records` as `voc_ap` wants it: (m, 7) rows in VOC pixels."""
    parts = [np.empty((0, 7))]
    for row, record in enumerate(records):
        image = np.full(len(record.labels), row)
        parts.append(np.column_stack([image, record.labels, record.difficult, record.boxes + TO_VOC]))
    return np.concatenate(parts)


def evaluate_detections(
    detections: NDArray[np.floating], records: "Sequence[ImageRecord]", classes: Sequence[str]
) -> dict[str, Any]:
    """VOC AP by area and by 11 points at IoU .5, and COCO's AP and AP75.

    Args:
        detections: (n, 7) rows image, class, score, x1, y1, x2, y2 in source pixels, as `detect`
            returns them.
        records: the images that `image` counts.
        classes: names of the labels.

    Returns:
        {"map_area", "map07", "ap", "ap75"} in percent, means over the classes with an object that
        counts, and "per_class": {name: area AP in percent}; None where no object counts.
    """
    found, objects = voc_detections(detections), voc_objects(records)
    area = voc_ap(found, objects, len(classes), metric="area")
    eleven = voc_ap(found, objects, len(classes), metric="07")
    coco = coco_ap(detections, records, len(classes))
    return {
        "map_area": mean_percent(area),
        "map07": mean_percent(eleven),
        "ap": mean_percent(coco["ap"]),
        "ap75": mean_percent(coco["ap75"]),
        "per_class": {name: mean_percent(value) for name, value in zip(classes, area, strict=True)},
    }


def mean_percent(values: NDArray[np.float64] | float) -> float | None:
    """NaN is no JSON, so None stands for it."""
    defined = np.atleast_1d(values)
    defined = defined[~np.isnan(defined)]
    return float(100.0 * defined.mean()) if defined.size else None
