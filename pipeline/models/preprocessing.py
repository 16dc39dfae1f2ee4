"""From pixels to what a detector expects."""

from typing import TYPE_CHECKING

import torch

from pipeline.arithmetic import constant

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.detector import DetectorConfig


def preprocess(images: "Tensor", config: "DetectorConfig") -> "Tensor":
    """Normalise images for a detector, on their device.

    Args:
        images: (B, 3, H, W) uint8 RGB, 0..255.
        config: whose colour order, mean and std.

    Returns:
        (B, 3, H, W) float32 in the detector's colour order.
    """
    planes = images.flip(1) if config.color_order == "bgr" else images
    mean, std = (constant(values, images.device).view(3, 1, 1) for values in (config.mean, config.std))
    return planes.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)
