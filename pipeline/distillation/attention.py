"""Distillation attention: where, and in which channels, a student is to listen.

Every kind has mean weight 1 per image, so that W keeps its meaning. Those that come from a map are a
softmax at temperature 0.5 of how strong the map is.

Shape suffixes: B batch, C classes, F channels, H and W cells, T teachers.

Reference: Yang et al., "Focal and Global Knowledge Distillation" (2022), eq. 5-8, for spatial and
channel attention; the paper that this project follows names its attention and does not publish it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.5


def spatial(map_BFHW: Tensor) -> Tensor:
    """(B, 1, H, W): where a standardised map is strong, by its mean magnitude over channels."""
    return _softmax(map_BFHW.abs().mean(1, keepdim=True))


def channel(map_BFHW: Tensor) -> Tensor:
    """(B, F, 1, 1): the channels in which a standardised map is strong, by their mean magnitude over cells."""
    return _softmax(map_BFHW.abs().mean((2, 3), keepdim=True))


def heatmap(heatmap_BCHW: Tensor) -> Tensor:
    """(B, 1, H, W): where a heatmap of probabilities sees an object, by its maximum over classes.

    The centre of a sure object weighs e^2 = 7.4 times what background does.
    """
    return _softmax(heatmap_BCHW.amax(1, keepdim=True))


def agreement(heatmaps_TBCHW: Tensor) -> Tensor:
    """(B, 1, H, W): how far several teachers' heatmaps agree, by the class in which they differ most.

    1 - 2 x their mean absolute deviation from their mean, which is 1 where all say the same and 0
    where one half is sure and the other half of the contrary; divided by its mean over the cells.
    """
    deviation_BCHW = (heatmaps_TBCHW - heatmaps_TBCHW.mean(0)).abs().mean(0)
    return mean_one(1 - 2 * deviation_BCHW.amax(1, keepdim=True))


def mean_one(weights_B1HW: Tensor) -> Tensor:
    """The weights divided by their mean over the cells of each image."""
    return weights_B1HW / weights_B1HW.mean((2, 3), keepdim=True).clamp(min=1e-6)


def on_grid(weights_B1HW: Tensor, grid_hw: Sequence[int]) -> Tensor:
    """The weights on another grid over the same views, with mean 1 again."""
    if list(weights_B1HW.shape[2:]) == list(grid_hw):
        return weights_B1HW
    return mean_one(F.interpolate(weights_B1HW, list(grid_hw), mode="bilinear", antialias=True))


def _softmax(strength: Tensor) -> Tensor:
    """Over all but the first axis, with mean 1."""
    flat = strength.flatten(1)
    return (torch.softmax(flat / TEMPERATURE, 1) * flat.shape[1]).view_as(strength)
