"""Ground-truth losses of CenterNet."""

from pipeline.losses.centernet import GroundTruthLoss, focal_loss, l1_at

__all__ = ["GroundTruthLoss", "focal_loss", "l1_at"]
