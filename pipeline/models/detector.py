"""What every detector is: a configuration that says how to feed it, and a forward pass."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import nn

from pipeline.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.heads import Heads
    from pipeline.outputs import DenseOutputs


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """How a detector is built and fed; it travels with its weights.

    Attributes:
        model: name in the registry.
        num_classes: planes of the heatmap.
        arch: every option of the architecture, resolved.
        stride: input pixels per output cell.
        size_multiple: input height and width are multiples of it.
        feature_channels: channels of the map that the heads read.
        color_order: order of the input planes.
        mean, std: of the planes in that order, for pixels in 0..1.
        classes: names in the order of the planes, once the detector was trained on some.
        known: those of `classes` that it was trained on, where these are not all.
    """

    model: str
    num_classes: int
    arch: dict[str, Any]
    stride: int
    size_multiple: int
    feature_channels: int
    color_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    classes: tuple[str, ...] | None = None
    known: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values; `known` depends on the data that it is used on, and does not travel."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del values["known"]
        return values

    def trained_as(self, values: dict[str, Any], classes: Sequence[str] | None) -> Self:
        """This configuration with the input of another, given as JSON values, and with class names."""
        return replace(self, color_order=values["color_order"], mean=tuple(values["mean"]),
                       std=tuple(values["std"]), classes=None if classes is None else tuple(classes))

    def with_official_input(self) -> Self:
        """This configuration with the input of the official checkpoints.

        They were trained on OpenCV's BGR planes, normalised with COCO's mean and deviation in that order.
        """
        return replace(self, color_order="bgr", mean=(0.408, 0.447, 0.470), std=(0.289, 0.274, 0.278))


class Detector(nn.Module, ABC):
    """A CenterNet: images in, dense outputs out.

    Heads are the only parameters whose names start with `heads.`; all others are independent of
    the class count.
    """

    config: DetectorConfig

    @abstractmethod
    def features(self, images: "Tensor") -> "list[Tensor]":
        """The maps that heads read, without the heads: (B, config.feature_channels, h, w) of each stack."""

    @property
    @abstractmethod
    def heads_of_stacks(self) -> "Sequence[Heads]":
        """In the order of `features`."""

    def forward(self, images: "Tensor") -> "list[DenseOutputs]":
        """Run the network.

        Args:
            images: (B, 3, H, W) float, from `preprocess`; H and W pass `check_size`.

        Returns:
            One DenseOutputs per stack; the last one is the answer.
        """
        return [heads(features) for heads, features in zip(self.heads_of_stacks, self.features(images), strict=True)]


def check_size(config: DetectorConfig, size_hw: tuple[int, int]) -> None:
    """Refuse an input size that the network cannot halve down to its deepest map.

    Raises:
        UserError: a side is not a positive multiple of `config.size_multiple`.
    """
    height, width = size_hw
    m = config.size_multiple
    if any(side < m or side % m for side in size_hw):
        nearest = [max(m, round(side / m) * m) for side in size_hw]
        raise UserError(f"Input size [{height}, {width}] does not fit {config.model}: expected sides "
                        f"in multiples of {m}; the nearest is {nearest} (views.size, or the student's own size).")
