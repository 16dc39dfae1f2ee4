"""COCO average precision, by faster-coco-eval."""

from typing import TYPE_CHECKING

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.dataset import ImageRecord


def coco_ap(
    detections: NDArray[np.floating], records: "Sequence[ImageRecord]", num_classes: int
) -> dict[str, float]:
    """COCO's AP over IoU .5:.05:.95 and at .75, over all areas, 100 detections an image.

    A VOC object that is difficult becomes COCO's `iscrowd`, as the usual conversions do: it need not
    be found, and detections on it count neither way.

    Args:
        detections: (n, 7) rows image, class, score, x1, y1, x2, y2 in source pixels (0-based
            continuous edges); image is the row in `records`.
        records: the images with their ground truth.

    Returns:
        {"ap", "ap75"} in 0..1, means over the classes; NaN where no class has an object
        that counts.

    Reference: Lin et al., "Microsoft COCO: Common Objects in Context" (2014) and cocodataset.org.
    """
    truth = COCO({
        "info": {},
        "images": [
            {"id": row, "width": record.width, "height": record.height} for row, record in enumerate(records)
        ],
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
        "annotations": _annotations(records),
    })
    rows = np.asarray(detections, np.float64).reshape(-1, 7)
    # The library wants image, x, y, width, height, score, class.
    rows = np.column_stack([rows[:, [0, 3, 4]], rows[:, 5:7] - rows[:, 3:5], rows[:, [2, 1]]])
    run = COCOeval_faster(truth, truth.loadRes(rows), "bbox", print_function=_silent, extra_calc=False)
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
    run.params.maxDets = [100]
    run.evaluate()
    run.accumulate()
    precision = run.eval["precision"]  # (IoU, recall, class, area, maxDets), -1 where undefined
    return {"ap": _mean(precision), "ap75": _mean(precision[5])}


def _annotations(records: "Sequence[ImageRecord]") -> list[dict[str, object]]:
    annotations: list[dict[str, object]] = []
    for row, record in enumerate(records):
        for box, label, difficult in zip(record.boxes, record.labels, record.difficult, strict=True):
            x1, y1, x2, y2 = map(float, box)
            annotations.append({
                "id": len(annotations) + 1,  # COCO takes 0 for "no match"
                "image_id": row,
                "category_id": int(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(difficult),
            })
    return annotations


def _mean(precision: NDArray[np.float64]) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _silent(*_: object) -> None:
    """The library reports its progress by printing."""
