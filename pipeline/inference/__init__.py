"""Running detectors over images: detections for evaluation, and the teachers' dump."""

from pipeline.inference.detection import detect
from pipeline.inference.dump import dump_teacher
from pipeline.inference.planning import plan_dump

__all__ = ["detect", "dump_teacher", "plan_dump"]
