"""From pixels to what a detector expects."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

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
    mean, std = (_per_plane(values, images.device) for values in (config.mean, config.std))
    return planes.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)


@lru_cache
def _per_plane(values: tuple[float, ...], device: torch.device) -> "Tensor":
    """(3, 1, 1) on the device; kept, since bringing it there makes a GPU wait for the CPU in each step."""
    with torch.inference_mode(False):  # it also serves training
        return torch.tensor(values, device=device).view(3, 1, 1)
