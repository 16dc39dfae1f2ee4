"""Running detectors over images: detections for evaluation, and the teachers' dump."""

from pipeline.inference.detection import detect

__all__ = ["detect"]
