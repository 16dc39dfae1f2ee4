"""What a detector is worth: VOC and COCO average precision, and what it costs to run."""

from pipeline.evaluation.coco import coco_ap
from pipeline.evaluation.cost import cost
from pipeline.evaluation.metrics import evaluate_detections, voc_detections, voc_objects
from pipeline.evaluation.voc import voc_ap

__all__ = ["coco_ap", "cost", "evaluate_detections", "voc_ap", "voc_detections", "voc_objects"]
