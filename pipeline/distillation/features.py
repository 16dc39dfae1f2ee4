"""The feature term's parts: standardised maps and attention.

Shape suffixes: B batch, C channels, H and W cells.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPERATURE = 0.5


def standardise(map_BCHW: Tensor, mean_over_ranks: "Callable[[Tensor], Tensor]") -> Tensor:
    """Each channel to mean 0 and variance 1 over the batch of all processes and space, in float32.

    Over the batch and not per image: a channel that is silent in an image stays silent there, and
    attention can see it. A channel that is constant becomes 0.

    Reference: Cao et al., "PKD" (2022): the mean square of two maps in this form is 2 (1 - r), with
    Pearson's correlation r; neither side's scale matters.
    """
    x = map_BCHW.float()
    mean_C11 = mean_over_ranks(x.mean((0, 2, 3))).view(-1, 1, 1)
    centred = x - mean_C11
    variance_C11 = mean_over_ranks(centred.square().mean((0, 2, 3))).view(-1, 1, 1)
    return centred * (variance_C11 + 1e-6).rsqrt()


def attention(map_BCHW: Tensor) -> Tensor:
    """Where and in which channels a standardised map is strong: (B, C, H, W) weights, mean 1 per image.

    The product of a spatial and a channel attention, each a softmax of the mean magnitude.

    Reference: Yang et al., "Focal and Global Knowledge Distillation" (2022), eq. 5-8.
    """
    magnitude = map_BCHW.abs()
    batch, channels, height, width = map_BCHW.shape
    spatial = torch.softmax(magnitude.mean(1).flatten(1) / TEMPERATURE, 1) * (height * width)
    channel = torch.softmax(magnitude.mean((2, 3)) / TEMPERATURE, 1) * channels
    return channel.view(batch, channels, 1, 1) * spatial.view(batch, 1, height, width)
