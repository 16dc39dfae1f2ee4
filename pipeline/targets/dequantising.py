"""Codes to values on the training device, as `storage.decode` does it in numpy."""

from typing import TYPE_CHECKING

from pipeline.arithmetic import constant
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
        low, step = (constant(tuple(array.parameters[key]), codes.device).view(-1, 1, 1) for key in ("low", "step"))
        return low + codes.float() * step
    raise unknown("encoding", array.encoding, (*AS_THEY_ARE, *ROOTS, CHANNELS))
