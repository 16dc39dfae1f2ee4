"""The one type that flows between models, losses, distillation and the dump."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class DenseOutputs(NamedTuple):
    """What a detector says of a batch, at stride s (4 unless the architecture says otherwise).

    Attributes:
        heatmap: (B, C, H/s, W/s) float logits of object centres, one plane per class.
        wh: (B, 2, H/s, W/s) float box width and height, in cells, x then y.
        offset: (B, 2, H/s, W/s) float centre minus its integer cell, in cells, x then y.
        features: (B, F, H/s, W/s) float, the map that the heads read.
    """

    heatmap: "Tensor"
    wh: "Tensor"
    offset: "Tensor"
    features: "Tensor"
