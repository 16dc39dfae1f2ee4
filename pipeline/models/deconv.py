"""CenterNet on a classifier's body: deconvolutions bring its last map up to stride 4."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.bodies import BODY_STRIDE, build_body
from pipeline.models.detector import Detector, DetectorConfig
from pipeline.models.heads import Heads

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DeconvArch:
    """Options of a body with deconvolutions.

    Attributes:
        deconv: channels of each deconvolution; every one doubles the map, three make stride 4.
        head_channels: channels inside a head, 0 for a single 1x1.
    """

    deconv: tuple[int, ...] = (256, 256, 256)
    head_channels: int = 64

    def __post_init__(self) -> None:
        if not 1 <= len(self.deconv) <= 5:
            raise UserError(f"arch.deconv has {len(self.deconv)} entries, expected 1 to 5 channel counts; "
                            "three make stride 4.")


class DeconvDetector(Detector):
    """A torchvision body, 4x4 deconvolutions with BatchNorm and ReLU, and heads.

    Reference: Xiao et al., Simple Baselines (2018); Zhou et al., Objects as Points (2019).
    """

    def __init__(self, name: str, num_classes: int, arch: DeconvArch) -> None:
        super().__init__()
        self.body, channels = build_body(name)
        self.neck = nn.Sequential()
        for width in arch.deconv:
            self.neck.extend(_double(channels, width))
            channels = width
        self.heads = Heads(channels, num_classes, arch.head_channels)
        self.config = DetectorConfig(
            model=name, num_classes=num_classes, arch=asdict(arch), stride=BODY_STRIDE >> len(arch.deconv),
            size_multiple=BODY_STRIDE, feature_channels=channels)

    def features(self, images: "Tensor") -> "list[Tensor]":
        """See Detector.features; one stack."""
        return [self.neck(self.body(images))]

    @property
    def heads_of_stacks(self) -> list[Heads]:
        """See Detector."""
        return [self.heads]


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    _init_as_interpolation(deconv.weight)
    return nn.Sequential(deconv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


@torch.no_grad()
def _init_as_interpolation(weight: "Tensor") -> None:
    """Start as bilinear upsampling of a random 1x1 projection: no checkerboard to unlearn."""
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25], device=weight.device)
    projection = torch.randn(*weight.shape[:2], 1, 1, device=weight.device) * (2 / weight.shape[0]) ** 0.5
    weight.copy_(projection * ramp[:, None] * ramp)
