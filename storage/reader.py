"""Opening a store, and reading a local one: one `pread` per array and view, straight into the batch."""

import math
import os
import resource
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakMethod

import numpy as np

from storage import manifest as manifests
from storage.base import Array, Indices, Store
from storage.content import content_of
from storage.encodings import decode, encoding_of
from storage.errors import CorruptStore, FingerprintMismatch
from storage.files import is_url, read_start
from storage.layout import shard_key
from storage.manifest import Manifest
from storage.shards import Index, ShardFile, shard_tag
from storage.spec import ArraySpec, StoreSpec, differences
from storage.threads import in_parts

P = ParamSpec("P")
T = TypeVar("T")


def open_store(path: str | os.PathLike[str], expect: Mapping[str, Any] | None = None) -> Store:
    """Open a finished store.

    Args:
        path: its folder, or a URL that fsspec knows, e.g. `s3://bucket/x.zarr`.
        expect: fields of the identity that have to be so, nested or with dotted keys.

    Raises:
        IncompleteStore: it is not finished.
        FingerprintMismatch: it was made from something else; names every differing field.
        FormatError: it is no store, or one of another format version.
        CorruptStore: its metadata is damaged.
        RemoteError: it is elsewhere and cannot be read from there.
    """
    store = open_unchecked(path)
    if problems := store.check_files():
        raise CorruptStore(problems[0])
    if different := differences(store.spec.identity, expect or {}, both_ways=False):
        raise FingerprintMismatch(f"{store.path}: this store was made from something else: {'; '.join(different)}")
    return store


def open_unchecked(path: str | os.PathLike[str]) -> "ShardedStore":
    """A store of which nothing but the manifest was looked at; raises what `open_store` raises for that."""
    if is_url(path):
        from storage.remote import RemoteStore  # who has none need not wait for fsspec

        return RemoteStore(path)
    path = Path(os.path.abspath(path))
    manifest, spec = manifests.load(path)
    if spec.backend == "zarr":
        return ZarrStore(path, manifest, spec)
    from storage.hdf5 import Hdf5Store  # who has no HDF5 store need not wait for h5py

    return Hdf5Store(path, manifest, spec)


def check_shards(store: Store, rows: Iterable[int]) -> None:
    """Checks every byte of the shards that some views are in.

    Raises:
        CorruptStore: a file is not the one that was written.
    """
    for shard in sorted({row // store.spec.shard_views for row in rows}):
        for array in store.spec.arrays:
            store.check_shard(array.name, shard)


def _reopen(path: Path | str, content: str) -> Store:
    store = open_store(path)
    if store.content != content:
        raise FingerprintMismatch(f"{path}: the store was replaced while it was in use: its content is "
                                  f"{store.content}, expected {content}")
    return store


class ShardedStore(ABC):
    """A store of shards, wherever they lie; see `storage.base.Store`. A subclass knows where and fills rows."""

    def __init__(self, path: Path | str, manifest: Manifest, spec: StoreSpec) -> None:
        self.path, self.manifest, self.spec = path, manifest, spec
        self._sound = set[tuple[str, int]]()

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def content(self) -> str:
        return content_of(self.fingerprint, (shard["content"] for shard in self.manifest["shards"]))

    def __len__(self) -> int:
        return self.spec.views

    def __repr__(self) -> str:
        arrays = [array.name for array in self.spec.arrays]
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} views of {arrays})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.content)

    def read(self, array: str, indices: Indices, out: Array | None = None) -> Array:
        spec, rows = self.spec[array], _rows(indices, len(self), self.path)
        shape = (len(rows), *spec.shape)
        if out is None:
            out = np.empty(shape, spec.code_dtype)
        elif out.shape != shape or out.dtype != spec.code_dtype or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype.name} {out.shape}, expected C-contiguous {spec.dtype} "
                             f"{shape}")
        self._fill(spec, rows, out)
        return out

    @abstractmethod
    def _fill(self, array: ArraySpec, rows: list[int], out: Array) -> None:
        """Writes the codes of each of `rows` to its place in `out`."""

    def check_files(self) -> list[str]:
        """What is wrong with the metadata files beside the manifest, one line each."""
        return manifests.check_files(str(self.path), self.manifest, self._read_start)

    @abstractmethod
    def _read_start(self, name: str, most: int) -> bytes | None:
        """The first `most` bytes of a file of the store; None where there is no such file."""

    @abstractmethod
    def sha256(self, array: str, shard: int) -> str:
        """Of the whole file of a shard."""

    def check_shard(self, array: str, shard: int) -> None:
        spec = self.spec[array]
        if (array, shard) in self._sound:
            return
        try:
            if self.sha256(array, shard) != self.manifest["shards"][shard]["arrays"][array]["sha256"]:
                raise CorruptStore("has a wrong checksum")
        except CorruptStore as error:
            raise self._bad_shard(spec, shard, error) from None
        self._sound.add((array, shard))

    def shard_path(self, array: ArraySpec, shard: int) -> str:
        """Where a shard lies."""
        return f"{self.path}/{shard_key(self.spec, array, shard)}"

    def _shard_entry(self, array: ArraySpec, shard: int) -> tuple[int, bytes]:
        """The bytes that a shard has by the manifest, and its tag."""
        entry = self.manifest["shards"][shard]["arrays"][array.name]
        return entry["bytes"], shard_tag(self.fingerprint, array.name, shard)

    def _bad_shard(self, array: ArraySpec, shard: int, what: Exception) -> CorruptStore:
        views = self.spec.shard_range(shard)
        return CorruptStore(f"{self.shard_path(array, shard)}: the shard of views {views.start} to {views[-1]} {what}")

    def decode(self, array: str, codes: Array) -> Array:
        return decode(self.spec[array], codes)


class LocalStore(ShardedStore):
    """A store in a local folder. A backend opens its shards."""

    path: Path

    def _read_start(self, name: str, most: int) -> bytes | None:
        return read_start(self.path / name, most)

    def sha256(self, array: str, shard: int) -> str:
        spec = self.spec[array]
        return ShardFile(self.shard_path(spec, shard), self._shard_entry(spec, shard)[0]).sha256()


def descriptors() -> int:
    """Files that a store keeps open: several are open at once, and the process needs more for other things."""
    return max(4, min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def kept_open(method: Callable[P, T]) -> Callable[P, T]:
    """A method that opens a file, with its latest results kept; they go with the object that it belongs to."""
    weak = WeakMethod(method)  # a reference in the cache would keep the files open until the next garbage collection

    def call(*key: P.args, **named: P.kwargs) -> T:
        bound = weak()
        assert bound is not None, "the object is in use"
        return bound(*key, **named)

    return cast("Callable[P, T]", lru_cache(descriptors())(call))


class ZarrStore(LocalStore):
    """Shards of Zarr v3."""

    def __init__(self, path: Path, manifest: Manifest, spec: StoreSpec) -> None:
        super().__init__(path, manifest, spec)
        self._indexes: dict[tuple[str, int], Index] = {}
        self._shard = kept_open(self._open)

    def _open(self, name: str, shard: int) -> tuple[ShardFile, Index]:
        array, views = self.spec[name], self.spec.shard_range(shard)
        size, tag = self._shard_entry(array, shard)
        try:
            opened = ShardFile(self.shard_path(array, shard), size)
            index = self._indexes.get((name, shard))
            if index is None:
                index = opened.read_index(tag, array, self.spec.shard_views, len(views))
                self._indexes[name, shard] = index
        except CorruptStore as error:
            raise self._bad_shard(array, shard, error) from None
        return opened, index

    def _fill(self, array: ArraySpec, rows: list[int], out: Array) -> None:
        flat = out.reshape(len(rows), math.prod(array.shape))
        decompress = encoding_of(array.encoding).compressor.decompress

        def decode(part: Sequence[tuple[int, int]]) -> None:
            for row, view in part:
                shard, slot = divmod(view, self.spec.shard_views)
                file, index = self._shard(array.name, shard)
                offset, nbytes = index[slot].tolist()
                try:
                    decompress(file.read_chunk(offset, nbytes), flat[row])
                except CorruptStore as error:
                    raise CorruptStore(f"{file.path}: view {view} {error}") from None

        in_parts(decode, list(enumerate(rows)), out.nbytes)


def _rows(indices: Indices, views: int, path: Path | str) -> list[int]:
    rows = np.asarray(indices)
    if rows.size == 0:
        return []
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError(f"{path}: indices are one list of whole numbers, not {rows.dtype.name} {rows.shape}")
    if int(rows.min()) < 0 or int(rows.max()) >= views:
        raise IndexError(f"{path}: index {rows.min() if rows.min() < 0 else rows.max()} is not in "
                         f"[0, {views})")
    return [int(row) for row in rows]
