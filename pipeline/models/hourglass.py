"""CenterNet on stacked hourglasses, as in the official code, at any depth and width."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.models.detector import Detector, DetectorConfig
from pipeline.models.heads import Heads

if TYPE_CHECKING:
    from torch import Tensor

STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class HourglassArch:
    """Options of an hourglass; the defaults are Hourglass-104.

    Attributes:
        dims: width at stride 4 and after each halving.
        modules: residual blocks at each of those.
        stacks: hourglasses one after the other, each with heads of its own.
        stem_channels: width at stride 2.
        head_channels: channels inside a head, 0 for a single 1x1.
    """

    dims: tuple[int, ...] = (256, 256, 384, 384, 384, 512)
    modules: tuple[int, ...] = (2, 2, 2, 2, 2, 4)
    stacks: int = 2
    stem_channels: int = 128
    head_channels: int = 256

    def __post_init__(self) -> None:
        if len(self.dims) != len(self.modules) or len(self.dims) < 2:
            raise UserError(f"arch.dims has {len(self.dims)} entries and arch.modules {len(self.modules)}: "
                            "expected two or more, and as many of one as of the other.")


#: Three levels in one stack: what a small machine trains in minutes.
SMALL = HourglassArch(dims=(64, 96, 128, 192), modules=(1, 1, 1, 2), stacks=1, stem_channels=32,
                      head_channels=64)


class HourglassDetector(Detector):
    """Stem to stride 4, then hourglasses; each has heads, and all but the last feed the next.

    Reference: Newell et al., Stacked Hourglass Networks (2016); Law and Deng, CornerNet (2018).
    """

    def __init__(self, name: str, num_classes: int, arch: HourglassArch) -> None:
        super().__init__()
        width, between = arch.dims[0], range(arch.stacks - 1)
        self.stem = nn.Sequential(
            _conv_bn(3, arch.stem_channels, 7, stride=2), nn.ReLU(inplace=True),
            Residual(arch.stem_channels, width, stride=2))
        self.levels = nn.ModuleList(Level(arch.dims, arch.modules) for _ in range(arch.stacks))
        self.outs = nn.ModuleList(
            nn.Sequential(_conv_bn(width, width, 3), nn.ReLU(inplace=True)) for _ in range(arch.stacks))
        self.heads = nn.ModuleList(Heads(width, num_classes, arch.head_channels) for _ in range(arch.stacks))
        self.merge_in = nn.ModuleList(_conv_bn(width, width, 1) for _ in between)
        self.merge_out = nn.ModuleList(_conv_bn(width, width, 1) for _ in between)
        self.merged = nn.ModuleList(Residual(width, width) for _ in between)
        self.config = DetectorConfig(
            model=name, num_classes=num_classes, arch=asdict(arch), stride=STRIDE,
            size_multiple=STRIDE << (len(arch.dims) - 1), feature_channels=width)

    def features(self, images: "Tensor") -> "list[Tensor]":
        """See Detector.features; as many maps as stacks."""
        x = self.stem(images)
        maps = []
        for stack, (level, out) in enumerate(zip(self.levels, self.outs, strict=True)):
            maps.append(out(level(x)))
            if stack < len(self.merged):
                x = F.relu(self.merge_in[stack](x) + self.merge_out[stack](maps[-1]))
                x = self.merged[stack](x)
        return maps

    @property
    def heads_of_stacks(self) -> list[Heads]:
        """See Detector."""
        return cast("list[Heads]", list(self.heads))


class Level(nn.Module):
    """One level of an hourglass and, inside it, all deeper ones: (B, C, h, w) -> the same shape."""

    def __init__(self, dims: Sequence[int], modules: Sequence[int]) -> None:
        super().__init__()
        here, below, count = dims[0], dims[1], modules[0]
        self.beside = _residuals(here, count)
        self.down = nn.Sequential(Residual(here, below, stride=2), *_residuals(below, count - 1))
        self.inner = Level(dims[1:], modules[1:]) if len(dims) > 2 else _residuals(below, modules[1])
        self.up = nn.Sequential(*_residuals(below, count - 1), Residual(below, here))

    def forward(self, x: "Tensor") -> "Tensor":
        """(B, C, h, w) with h and w even -> (B, C, h, w)."""
        beside: Tensor = self.beside(x)
        deep = self.up(self.inner(self.down(x)))
        return beside + F.interpolate(deep, scale_factor=2.0, mode="nearest")


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        same = stride == 1 and in_channels == out_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.skip = nn.Identity() if same else _conv_bn(in_channels, out_channels, 1, stride)

    def forward(self, x: "Tensor") -> "Tensor":
        """(B, in, h, w) -> (B, out, h/stride, w/stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x), inplace=True)


def _residuals(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width, width) for _ in range(count)))


def _conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))
