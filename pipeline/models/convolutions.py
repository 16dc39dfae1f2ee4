"""Convolutions that PyTorch trains slowly on a CPU, and what they are there instead, with the same parameters.

Only training on a CPU differs from torch's own; evaluation, export and other devices do not.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel alone, in float32 where a CPU's autocast would train it in bfloat16.

    oneDNN has no fast gradient of it in bfloat16: with stride 2 or few cells one takes 2 to 20 times as long as
    in float32, and a MobileNetV2's training step at 64 px 1.4 times, an EfficientNet-b0's 1.6 times. What it answers
    has the type that autocast says, as of any other convolution; without gradients bfloat16 is faster, and stays.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * multiplier, H', W')."""
        if not (_trains_on_cpu(self, input) and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(torch.get_autocast_dtype("cpu"))


class FewCellsConv2d(nn.Conv2d):
    """A convolution that a CPU trains as a product of matrices where its map has fewer cells than channels.

    There the weights are what is large, and oneDNN brings them into its own order in each pass: with 512 channels of
    2x2 cells and 16 images a step takes three times as long as the product.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        assert not isinstance(self.padding, str)
        (high, wide), (down, right), (top, left) = self.kernel_size, self.stride, self.padding
        size = (input.shape[2] + 2 * top - high) // down + 1, (input.shape[3] + 2 * left - wide) // right + 1
        if not (_trains_on_cpu(self, input) and _few(input.shape[0] * size[0] * size[1], self)):
            return super().forward(input)
        seen = F.pad(input.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
        cells = seen.unfold(1, high, down).unfold(2, wide, right).permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
        found = F.linear(cells, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)
        return found.view(input.shape[0], *size, -1).permute(0, 3, 1, 2)


class FewCellsConvTranspose2d(nn.ConvTranspose2d):
    """The same of a deconvolution; 2 to 10 times as fast as oneDNN's."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        assert not isinstance(self.padding, str)
        batch, channels, height, width = input.shape
        if output_size is not None or not (_trains_on_cpu(self, input) and _few(batch * height * width, self)):
            return super().forward(input, output_size)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        parts = (input.permute(0, 2, 3, 1).reshape(-1, channels) @ weight).view(
            batch, height * width, -1, self.out_channels)
        size = tuple((side - 1) * stride - 2 * padding + kernel for side, stride, padding, kernel in zip(
            (height, width), self.stride, self.padding, self.kernel_size, strict=True))
        found = F.fold(parts.permute(0, 3, 2, 1).flatten(1, 2), size, self.kernel_size, 1, self.padding, self.stride)
        return found.contiguous(memory_format=torch.channels_last)


def suit_cpus(network: nn.Module) -> None:
    """Have each convolution of `network` be the one of these that it can be."""
    for layer in network.modules():
        if type(layer) is nn.Conv2d and layer.groups == layer.in_channels > 1:
            layer.__class__ = DepthwiseConv2d
        elif type(layer) is nn.Conv2d and _is_simple(layer) and not isinstance(layer.padding, str):
            layer.__class__ = FewCellsConv2d
        elif type(layer) is nn.ConvTranspose2d and _is_simple(layer) and layer.bias is None and not any(
                layer.output_padding):
            layer.__class__ = FewCellsConvTranspose2d


def _is_simple(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"


def _trains_on_cpu(layer: nn.Module, input: Tensor) -> bool:
    return layer.training and input.device.type == "cpu" and torch.is_grad_enabled()


def _few(cells: int, layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether a batch has fewer cells than the layer reads channels, or the answer has."""
    return cells < max(layer.in_channels, layer.out_channels)
