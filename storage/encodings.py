"""Encodings: how values become the codes that are stored, with the error that this may cost.

An encoding is a pure function of the values and the array's parameters. It works on the last
axes, those of one view; any axes before them are a batch. Each states a bound on its error, in
the units that `measure` uses, and the compressor that suits its codes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.compressors import LZ4_BITSHUFFLE, Compressor
from storage.errors import StoreError

if TYPE_CHECKING:
    from storage.spec import ArraySpec

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Encoding:
    """How one kind of array is stored.

    Attributes:
        dtype: of the codes; None takes whatever dtype the array has.
        encode: (spec, values) -> codes.
        decode: (spec, codes) -> float32.
        error: (values, decoded), both floating -> elementwise error in the bound's units.
        bound: largest `error` that encoding and decoding may cause.
        unit: what `error` means, for people.
        compressor: of the codes.
    """

    dtype: str | None
    encode: "Callable[[ArraySpec, Array], Array]"
    decode: "Callable[[ArraySpec, Array], Array]"
    error: Callable[[Array, Array], Array]
    bound: float
    unit: str
    compressor: Compressor


def _to_float(spec: "ArraySpec", values: Array) -> Array:
    limit = np.finfo(spec.code_dtype).max
    # False for NaN too. A teacher that diverged must not become a store.
    if not bool(np.all(np.abs(values) <= limit)):
        raise StoreError(f"array {spec.name!r}: values beyond ±{limit:g}, or not finite, cannot be "
                         f"stored as {spec.encoding}")
    return values.astype(spec.code_dtype)


def _as_float32(_: "ArraySpec", codes: Array) -> Array:
    return codes.astype(np.float32)


def _as_is(spec: "ArraySpec", values: Array) -> Array:
    if values.dtype != spec.code_dtype:
        raise StoreError(f"array {spec.name!r}: raw values have to be {spec.dtype}, not {values.dtype.name}")
    return values


def _absolute(values: Array, decoded: Array) -> Array:
    return np.asarray(np.abs(decoded - values))


def _relative(least: float) -> Callable[[Array, Array], Array]:
    def error(values: Array, decoded: Array) -> Array:
        return np.asarray(np.abs(decoded - values) / np.maximum(np.abs(values), least))

    return error


#: Every encoding there is. Half precision has 11 significant bits down to 2**-14, and equal
#: steps of 2**-24 below.
ENCODINGS: dict[str, Encoding] = {
    "raw": Encoding(None, _as_is, _as_float32, _absolute, 0.0, "absolute", LZ4_BITSHUFFLE),
    "exact-fp16": Encoding("float16", _to_float, _as_float32, _relative(2.0**-14), 2.0**-11,
                           "relative to max(|value|, 2**-14)", LZ4_BITSHUFFLE),
    "exact-fp32": Encoding("float32", _to_float, _as_float32, _relative(2.0**-126), 2.0**-24,
                           "relative to max(|value|, 2**-126)", LZ4_BITSHUFFLE),
}


def encoding_of(name: str, where: str = "") -> Encoding:
    """The encoding of that name.

    Raises:
        StoreError: there is none; lists what there is.
    """
    if not isinstance(name, str) or name not in ENCODINGS:
        raise StoreError(f"{where + ': ' if where else ''}encoding {name!r} is unknown. "
                         f"Available: {', '.join(ENCODINGS)}")
    return ENCODINGS[name]


def encode(spec: "ArraySpec", values: Array) -> Array:
    """The codes of `values` (..., *shape): (..., *shape of the codes), of `spec.code_dtype`."""
    return encoding_of(spec.encoding).encode(spec, values)


def decode(spec: "ArraySpec", codes: Array) -> Array:
    """The values that `codes` (..., *shape) stand for, float32: the reference for all readers."""
    return encoding_of(spec.encoding).decode(spec, codes)


def measure(spec: "ArraySpec", values: Array, codes: Array) -> float:
    """The largest error that `codes` make of `values`, in the units of the encoding's bound."""
    if spec.encoding == "raw":
        return 0.0
    encoding = encoding_of(spec.encoding)
    return float(np.max(encoding.error(values, encoding.decode(spec, codes)), initial=0.0))
