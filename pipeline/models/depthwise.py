"""Depthwise convolutions that are trained on a CPU in bfloat16."""

import torch
from torch import Tensor, nn


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel alone, in float32 where a CPU's autocast would train it in bfloat16.

    oneDNN has no fast gradient of it in bfloat16: with stride 2 or few cells one takes 2 to 20 times as long as
    in float32, and a MobileNetV2's training step at 64 px 1.4 times, an EfficientNet-b0's 1.6 times. What it answers
    has the type that autocast says, as of any other convolution; without gradients bfloat16 is faster, and stays.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * multiplier, H', W')."""
        if not (input.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(torch.get_autocast_dtype("cpu"))


def train_depthwise_in_float32(body: nn.Module) -> None:
    """Have every depthwise convolution of `body` be a DepthwiseConv2d, with its parameters and names as they are."""
    for conv in body.modules():
        if type(conv) is nn.Conv2d and conv.groups == conv.in_channels > 1:
            conv.__class__ = DepthwiseConv2d
