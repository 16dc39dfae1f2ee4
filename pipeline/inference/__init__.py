"""Running detectors over images: detections for evaluation, and the teachers' dump.

The dump is imported from `pipeline.inference.dump`: whoever scores a detector runs no store.
"""

from pipeline.inference.detection import detect

__all__ = ["detect"]
