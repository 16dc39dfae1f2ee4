"""Codes to values on the training device, as `storage.decode` does it in numpy."""

from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from pipeline.errors import unknown
from storage import codec

if TYPE_CHECKING:
    from torch import Tensor

    from storage import ArraySpec

#: Encodings whose codes are the values; those of features may begin with a reduction, which stays.
AS_THEY_ARE = ("raw", "exact-fp16", "exact-fp32", "exact-fp16-sparse")
ROOTS = ("u8-sqrt", "u8-sqrt-sparse")
CHANNELS = "u8-channel"


def dequantise(codes: "Tensor", array: "ArraySpec") -> "Tensor":
    """The float32 values that codes stand for, on their device.

    Args:
        codes: (B, *shape) as stored.
        array: the store's description of them.

    Raises:
        UserError: the encoding is not known here.
    """
    kind = codec(array.encoding)
    if kind in AS_THEY_ARE:
        return codes.float()
    if kind in ROOTS:
        return (codes.float() / 255).square()
    if kind == CHANNELS:
        low, step = _scale(tuple(array.parameters["low"]), tuple(array.parameters["step"]), codes.device)
        return low + codes.float() * step
    raise unknown("encoding", array.encoding, (*AS_THEY_ARE, *ROOTS, CHANNELS))


@lru_cache(64)  # or every batch would copy them to the device again
def _scale(low: tuple[float, ...], step: tuple[float, ...], device: torch.device) -> "tuple[Tensor, Tensor]":
    def column(values: tuple[float, ...]) -> "Tensor":
        return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)

    return column(low), column(step)
