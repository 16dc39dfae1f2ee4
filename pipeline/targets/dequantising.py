"""Codes to values on the training device, as `storage.decode` does it in numpy."""

from typing import TYPE_CHECKING

from pipeline.errors import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from storage import ArraySpec

#: Encodings whose codes are the values.
AS_THEY_ARE = ("raw", "exact-fp16", "exact-fp32")


def dequantise(codes: "Tensor", array: "ArraySpec") -> "Tensor":
    """The float32 values that codes stand for, on their device.

    Args:
        codes: (B, *shape) as stored.
        array: the store's description of them.

    Raises:
        UserError: the encoding is not known here.
    """
    if array.encoding not in AS_THEY_ARE:
        raise unknown("encoding", array.encoding, AS_THEY_ARE)
    return codes.float()
