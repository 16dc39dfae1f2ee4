"""What a store is: its arrays, how many views, and everything that was asked for."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage.errors import StoreError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # becomes a folder: no separators, no dots
#: Of codes. By name alone: what else numpy reads as a dtype is a language of its own.
_DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
           "float64")
BACKENDS = ("zarr", "hdf5")
MAX_VIEW_BYTES = 2**28  # of one array; a crafted spec must not make a reader allocate more
MAX_AXES = 31  # of one view; with the axis of views they are 32, the most that HDF5 has
MAX_SHARD_VIEWS = 2**20  # the index of a shard is held in memory


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN.

    Raises:
        StoreError: `value` holds something that JSON cannot express.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot be written as JSON: {error}") from None


def fingerprint(value: Any) -> str:
    """The sha256 of the canonical JSON of `value`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts as (dotted key, value); lists and empty dicts are leaves."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store, seen from one view.

    Attributes:
        name: letters, digits, "_" and "-"; the name of the array's folder.
        shape: of the codes of one view, without the view axis.
        dtype: of the codes, by its name in numpy; left out, it is the one that the encoding has.
        encoding: a name that `storage.encodings.encoding_of` takes: of `ENCODINGS`, or of features (pca-K+…).
        parameters: JSON, what the encoding needs to know beside the codes.

    Raises:
        StoreError: a name, shape or dtype that cannot be stored, or an encoding that is unknown or
            not for this array.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = ""
    encoding: str = "raw"
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from storage.encodings import encoding_of  # they need ArraySpec themselves
        from storage.features import check_parameters

        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise StoreError(f"array name {self.name!r}: expected letters, digits, '_' and '-' only")
        where = f"array {self.name!r}"
        if self.encoding == "exact-fp16-sparse" and self.name != "wh_offset":
            raise StoreError(f"{where}: exact-fp16-sparse is for wh_offset alone")
        shape = tuple(self.shape)
        if len(shape) > MAX_AXES:
            raise StoreError(f"{where}: its shape has {len(shape)} axes, more than {MAX_AXES}")
        if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1 for n in shape):
            raise StoreError(f"{where}: shape {shape} is not made of positive whole numbers")
        dtype = self._checked_dtype(encoding_of(self.encoding, where).dtype)
        if math.prod(map(int, shape)) * dtype.itemsize > MAX_VIEW_BYTES:
            raise StoreError(f"{where}: shape {shape} takes more than {MAX_VIEW_BYTES} bytes per view")
        object.__setattr__(self, "shape", tuple(map(int, shape)))
        object.__setattr__(self, "dtype", dtype.name)
        object.__setattr__(self, "parameters", json.loads(canonical(dict(self.parameters))))
        check_parameters(self)

    def _checked_dtype(self, fixed: str | None) -> np.dtype[Any]:
        name = self.dtype or fixed or ""
        if name not in ((fixed,) if fixed else _DTYPES):
            raise StoreError(f"array {self.name!r}: dtype {str(self.dtype)!r} does not fit encoding "
                             f"{self.encoding!r}, expected {fixed or 'a bool, int, uint or float'}")
        return np.dtype(name)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The dtype of the codes, little-endian as they lie on disk."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def nbytes(self) -> int:
        """Bytes of the codes of one view, uncompressed."""
        return math.prod(self.shape) * self.code_dtype.itemsize

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype,
                "encoding": self.encoding, "parameters": self.parameters}


@dataclass(frozen=True)
class StoreSpec:
    """A whole store.

    Attributes:
        arrays: written together, one row per view each.
        views: length of axis 0 of every array.
        shard_views: views per shard file; layout only, not part of the fingerprint.
        identity: JSON, everything that was asked for.
        attributes: JSON that is no part of the fingerprint: classes, and those that teachers know; licence.
        backend: "zarr" or "hdf5"; layout like `shard_views`.
    """

    arrays: tuple[ArraySpec, ...]
    views: int
    shard_views: int
    identity: dict[str, Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    backend: str = "zarr"

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", tuple(self.arrays))
        names = [array.name for array in self.arrays]
        if not names or len({name.lower() for name in names}) < len(names):
            raise StoreError(f"arrays {names}: expected at least one, each with a name of its own")
        for key, most in (("views", 2**48), ("shard_views", MAX_SHARD_VIEWS)):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
                raise StoreError(f"{key} is {value!r}, expected a whole number from 1 to {most}")
            object.__setattr__(self, key, int(value))
        if self.backend not in BACKENDS:
            raise StoreError(f"backend {self.backend!r} is unknown. Available: {', '.join(BACKENDS)}")
        for key in ("identity", "attributes"):  # tuples become lists, as they will be when read back
            object.__setattr__(self, key, json.loads(canonical(dict(getattr(self, key)))))

    def __getitem__(self, name: str) -> ArraySpec:
        for array in self.arrays:
            if array.name == name:
                return array
        raise StoreError(f"array {name!r} is not in this store; it has "
                         f"{', '.join(array.name for array in self.arrays)}")

    @property
    def fingerprint(self) -> str:
        """Of everything that was asked for; the same whatever the shards or the backend."""
        return fingerprint({"identity": self.identity, **self.form})

    @property
    def form(self) -> dict[str, Any]:
        """What beside the identity a reader has to know, whatever the layout."""
        return {"views": self.views, "arrays": {array.name: array.to_json() for array in self.arrays}}

    @property
    def shards(self) -> int:
        """How many shards each array has; the last one may be shorter."""
        return -(-self.views // self.shard_views)

    def shard_range(self, shard: int) -> range:
        """The views of a shard."""
        start = shard * self.shard_views
        return range(start, min(start + self.shard_views, self.views))

    def to_json(self) -> dict[str, Any]:
        return {"arrays": [array.to_json() for array in self.arrays], "views": self.views,
                "shard_views": self.shard_views, "identity": self.identity,
                "attributes": self.attributes, "backend": self.backend}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "StoreSpec":
        """Inverse of `to_json`.

        Raises:
            StoreError: anything is missing, superfluous or out of range.
        """
        try:
            return cls(**{**data, "arrays": tuple(ArraySpec(**array) for array in data["arrays"])})
        except StoreError:
            raise
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise StoreError(f"this is no description of a store: {error!r}") from None


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], *, both_ways: bool) -> list[str]:
    """Every dotted field in which `found` is not as `wanted`, with both values.

    Args:
        both_ways: also name the fields of `found` that `wanted` does not mention.
    """
    wanted = json.loads(canonical(dict(wanted)))
    has, wants = dict(flatten(found)), dict(flatten(wanted))
    keys = [key for key in wants if key not in has or has[key] != wants[key]]
    if both_ways:
        keys += [key for key in has if key not in wants]
    return [f"{key} is {_show(has, key)}, expected {_show(wants, key)}" for key in keys]


def in_short(different: Sequence[str]) -> str:
    """The first three of `differences`, and how many more there are."""
    more = [f"and {len(different) - 3} more"] if len(different) > 3 else []
    return "; ".join([*different[:3], *more])


def _show(values: dict[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = canonical(values[key])
    return text if len(text) <= 80 else text[:77] + "..."
