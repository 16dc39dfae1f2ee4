"""Encodings: how values become the codes that are stored, with the error that this may cost.

An encoding is a pure function of the values and the array's parameters. It works on the last
axes, those of one view; any axes before them are a batch. Each states a bound on its error, in
the units that `measure` uses, and the compressor that suits its codes. Encodings of feature maps
may begin with a reduction: see `storage.features`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.compressors import LZ4_BITSHUFFLE, ZSTD, ZSTD_SHUFFLE, Compressor
from storage.errors import StoreError

if TYPE_CHECKING:
    from storage.spec import ArraySpec, StoreSpec

Array = np.ndarray[Any, np.dtype[Any]]

#: Error bound of the 8-bit codes, and the least probability that u8-sqrt-sparse keeps.
LEAST = 1 / 255
#: wh_offset is kept around cells where some class is at least this probable.
MATTERS = 0.05


@dataclass(frozen=True)
class Encoding:
    """How one kind of array is stored.

    Attributes:
        dtype: of the codes; None takes whatever dtype the array has.
        encode: (spec, values) -> codes.
        decode: (spec, codes) -> float32.
        error: (spec, values, decoded), both floating -> elementwise error in the bound's units.
        bound: largest `error` that encoding and decoding may cause.
        unit: what `error` means, for people.
        compressor: of the codes.
        loses: how much, by rank: a store cannot give back what it lost, so values only go to a greater number.
    """

    dtype: str | None
    encode: "Callable[[ArraySpec, Array], Array]"
    decode: "Callable[[ArraySpec, Array], Array]"
    error: "Callable[[ArraySpec, Array, Array], Array]"
    bound: float
    unit: str
    compressor: Compressor
    loses: int


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


def _root_codes(spec: "ArraySpec", values: Array) -> Array:
    if not bool(np.all((values >= 0) & (values <= 1))):
        raise StoreError(f"array {spec.name!r}: {spec.encoding} stores probabilities, and some values are "
                         "not in 0..1")
    # The square root spends the codes where small probabilities are told apart.
    root = np.sqrt(values, dtype=np.float32)
    root *= 255
    codes: Array = np.rint(root, out=root).astype(np.uint8)
    return codes


def _sparse_root_codes(spec: "ArraySpec", values: Array) -> Array:
    codes = _root_codes(spec, values)
    codes[values < LEAST] = 0
    return codes


def _squares(_: "ArraySpec", codes: Array) -> Array:
    return np.square(codes.astype(np.float32) / 255)


def _absolute(_: "ArraySpec", values: Array, decoded: Array) -> Array:
    return np.asarray(np.abs(decoded - values))


def _relative(least: float) -> "Callable[[ArraySpec, Array, Array], Array]":
    def error(_: "ArraySpec", values: Array, decoded: Array) -> Array:
        return np.asarray(np.abs(decoded - values) / np.maximum(np.abs(values), least))

    return error


_FP16 = _relative(2.0**-14)
_FP16_UNIT = "relative to max(|value|, 2**-14)"

#: Encodings of whole names. Half precision has 11 significant bits down to 2**-14, and equal steps of
#: 2**-24 below.
ENCODINGS: dict[str, Encoding] = {
    "raw": Encoding(None, _as_is, _as_float32, _absolute, 0.0, "absolute", LZ4_BITSHUFFLE, 0),
    "exact-fp16": Encoding("float16", _to_float, _as_float32, _FP16, 2.0**-11,
                           _FP16_UNIT, LZ4_BITSHUFFLE, 1),
    "exact-fp32": Encoding("float32", _to_float, _as_float32, _relative(2.0**-126), 2.0**-24,
                           "relative to max(|value|, 2**-126)", LZ4_BITSHUFFLE, 0),
    "exact-fp16-sparse": Encoding("float16", _to_float, _as_float32, _FP16, 2.0**-11,
                                  f"{_FP16_UNIT}, at the cells kept", ZSTD_SHUFFLE, 2),
    "u8-sqrt": Encoding("uint8", _root_codes, _squares, _absolute, LEAST, "of probability", LZ4_BITSHUFFLE, 2),
    "u8-sqrt-sparse": Encoding("uint8", _sparse_root_codes, _squares, _absolute, LEAST, "of probability", ZSTD, 3),
}


def encoding_of(name: str, where: str = "") -> Encoding:
    """The encoding of that name.

    Raises:
        StoreError: there is none; lists what there is.
    """
    from storage.features import FEATURE_ENCODINGS, feature_encoding

    if isinstance(name, str):
        found = ENCODINGS.get(name) or feature_encoding(name)
        if found:
            return found
    raise StoreError(f"{where + ': ' if where else ''}encoding {name!r} is unknown. "
                     f"Available: {', '.join([*ENCODINGS, *FEATURE_ENCODINGS])}")


def encode(spec: "ArraySpec", values: Array) -> Array:
    """The codes of `values` (..., *shape): (..., *shape of the codes), of `spec.code_dtype`.

    Values of a feature map are reduced ones (`storage.reduce`); those of exact-fp16-sparse are
    already zero where they are not kept (`encode_views` sees to that).
    """
    return encoding_of(spec.encoding).encode(spec, values)


def decode(spec: "ArraySpec", codes: Array) -> Array:
    """The values that `codes` (..., *shape) stand for, float32: the reference for all readers."""
    return encoding_of(spec.encoding).decode(spec, codes)


def compressed_size(spec: "ArraySpec", codes: Array) -> int:
    """Bytes that the codes (*shape) of a view take in a store."""
    return len(encoding_of(spec.encoding).compressor.compress(np.ascontiguousarray(codes)))


def measure(spec: "ArraySpec", values: Array, codes: Array) -> float:
    """The largest error that `codes` make of `values`, in the units of the encoding's bound."""
    if spec.encoding == "raw":
        return 0.0
    encoding = encoding_of(spec.encoding)
    return float(np.max(encoding.error(spec, values, encoding.decode(spec, codes)), initial=0.0))


def encode_views(spec: "StoreSpec", values: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """The codes of a batch of views, and the largest error of each array.

    Args:
        spec: of the store.
        values: (n, *shape) of every array; feature maps are reduced ones (`storage.reduce`).

    Returns:
        {array: (n, *shape of its codes)}, {array: error in its encoding's units}.

    Raises:
        StoreError: values do not fit their encoding, or have another shape.
    """
    codes, errors = {}, {}
    for name, given in values.items():
        array, wanted = spec[name], given
        if given.shape[1:] != array.shape:
            raise StoreError(f"array {name!r}: a view of {array.encoding} has shape {array.shape}, not "
                             f"{given.shape[1:]}; maps of features are reduced first (storage.reduce)")
        if array.encoding == "exact-fp16-sparse":
            wanted = wanted * near_objects(values["heatmap"])[:, None]
        codes[name] = encode(array, wanted)
        errors[name] = measure(array, wanted, codes[name])
    return codes, errors


def near_objects(heatmap: Array) -> Array:
    """Which cells lie within one cell of one where some class matters: (n, h, w) bool.

    Args:
        heatmap: (n, C, h, w) probabilities.
    """
    matters: Array = heatmap.max(axis=1) >= MATTERS
    wide = matters.copy()
    wide[:, 1:] |= matters[:, :-1]
    wide[:, :-1] |= matters[:, 1:]
    near = wide.copy()
    near[:, :, 1:] |= wide[:, :, :-1]
    near[:, :, :-1] |= wide[:, :, 1:]
    return np.asarray(near)
