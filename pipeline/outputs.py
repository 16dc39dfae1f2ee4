"""The one type that flows between models, losses, distillation and the dump, and how its maps are read."""

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


def gather_cells(map_BCHW: "Tensor", indices_BM: "Tensor") -> "Tensor":
    """Values of a map at flat cell indices y * W + x: (B, C, H, W) and (B, M) int64 -> (B, M, C)."""
    flat_BCN = map_BCHW.flatten(2)
    return flat_BCN.gather(2, indices_BM.unsqueeze(1).expand(-1, flat_BCN.shape[1], -1)).transpose(1, 2)
