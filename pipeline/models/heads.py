"""The three heads of a CenterNet."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import conv2d, relu

from pipeline.outputs import DenseOutputs

if TYPE_CHECKING:
    from torch import Tensor

#: Logit of an untrained heatmap: p about 0.1, so that the background does not swamp the first steps.
HEATMAP_BIAS = -2.19


class Heads(nn.Module):
    """Heatmap, wh and offset from one feature map: 3x3 + ReLU + 1x1 each.

    Args:
        in_channels: channels of the feature map.
        num_classes: planes of the heatmap.
        hidden: channels between the two convolutions; 0 for a single 1x1.

    Reference: Zhou et al., Objects as Points (2019), section 5; the bias is that of the official
    code, as is the small last layer of a ResNet's wh and offset; here every head has one.
    """

    def __init__(self, in_channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.heatmap = _head(in_channels, hidden, num_classes, HEATMAP_BIAS)
        self.wh = _head(in_channels, hidden, 2, 0.0)
        self.offset = _head(in_channels, hidden, 2, 0.0)

    def forward(self, features: "Tensor") -> DenseOutputs:
        """(B, F, h, w) features -> DenseOutputs of the same h, w.

        The 3x3 convolutions are one with three times the planes: reading the map once saves a ResNet-18 7 % of its
        step at 512 px (bfloat16 on a CPU).
        """
        heads, parts = [self.heatmap, self.wh, self.offset], [features] * 3
        if len(self.heatmap) > 1:
            weight, bias = (torch.cat([head.get_parameter(f"0.{key}") for head in heads]) for key in ("weight", "bias"))
            parts = [relu(part) for part in conv2d(features, weight, bias, padding=1).chunk(3, dim=1)]
        heatmap, wh, offset = (head[-1](part) for head, part in zip(heads, parts, strict=True))
        return DenseOutputs(heatmap, wh, offset, features)


def _head(in_channels: int, hidden: int, out_channels: int, bias: float) -> nn.Sequential:
    last = nn.Conv2d(hidden or in_channels, out_channels, 1)
    assert last.bias is not None
    nn.init.normal_(last.weight, std=0.001)
    nn.init.constant_(last.bias, bias)
    if hidden == 0:
        return nn.Sequential(last)
    return nn.Sequential(nn.Conv2d(in_channels, hidden, 3, padding=1), nn.ReLU(inplace=True), last)
