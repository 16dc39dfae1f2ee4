"""Reading a local store: one `pread` per array and view, straight into the batch."""

import math
import os
import resource
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from storage import manifest as manifests
from storage.base import Array, Indices, Store
from storage.encodings import decode, encoding_of
from storage.errors import CorruptStore, FingerprintMismatch
from storage.layout import shard_key
from storage.manifest import Manifest
from storage.shards import Index, ShardFile, shard_tag
from storage.spec import ArraySpec, StoreSpec, differences
from storage.threads import in_parts


def open_store(path: str | os.PathLike[str], expect: Mapping[str, Any] | None = None) -> Store:
    """Open a finished store.

    Args:
        expect: fields of the identity that have to be so, nested or with dotted keys.

    Raises:
        IncompleteStore: it is not finished.
        FingerprintMismatch: it was made from something else; names every differing field.
        FormatError: it is no store, or one of another format version.
        CorruptStore: its metadata is damaged.
    """
    path = Path(os.path.abspath(path))
    manifest, spec = manifests.load(path)
    if problems := manifests.check_files(path, manifest):
        raise CorruptStore(problems[0])
    if different := differences(spec.identity, expect or {}, both_ways=False):
        raise FingerprintMismatch(f"{path}: this store was made from something else: {'; '.join(different)}")
    return store_of(path, manifest, spec)


def store_of(path: Path, manifest: Manifest, spec: StoreSpec) -> "LocalStore":
    """The store of a manifest that was checked."""
    if spec.backend == "zarr":
        return ZarrStore(path, manifest, spec)
    from storage.hdf5 import Hdf5Store  # who has no HDF5 store need not wait for h5py

    return Hdf5Store(path, manifest, spec)


def _reopen(path: Path, fingerprint: str) -> Store:
    store = open_store(path)
    if store.fingerprint != fingerprint:
        raise FingerprintMismatch(f"{path}: the store was replaced while it was in use: its fingerprint is "
                                  f"{store.fingerprint}, expected {fingerprint}")
    return store


class LocalStore:
    """A store in a local folder; see `storage.base.Store`. A backend opens shards and fills rows from them."""

    def __init__(self, path: Path, manifest: Manifest, spec: StoreSpec) -> None:
        self.path, self.manifest, self.spec = path, manifest, spec

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    def __len__(self) -> int:
        return self.spec.views

    def __repr__(self) -> str:
        arrays = [array.name for array in self.spec.arrays]
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} views of {arrays})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

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

    def _fill(self, array: ArraySpec, rows: list[int], out: Array) -> None:
        """Writes the codes of each of `rows` to its place in `out`."""
        raise NotImplementedError

    def decode(self, array: str, codes: Array) -> Array:
        return decode(self.spec[array], codes)


def descriptors() -> int:
    """Files that a store keeps open: several are open at once, and the process needs more for other things."""
    return max(4, min(128, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


class ZarrStore(LocalStore):
    """Shards of Zarr v3."""

    def __init__(self, path: Path, manifest: Manifest, spec: StoreSpec) -> None:
        super().__init__(path, manifest, spec)
        self._indexes: dict[tuple[str, int], Index] = {}
        self._shard = lru_cache(descriptors())(self._open)

    def _open(self, name: str, shard: int) -> tuple[ShardFile, Index]:
        array, views = self.spec[name], self.spec.shard_range(shard)
        entry = self.manifest["shards"][shard]
        file = f"{self.path}/{shard_key(self.spec, array, shard)}"
        try:
            opened = ShardFile(file, entry["arrays"][name]["bytes"])
            index = self._indexes.get((name, shard))
            if index is None:
                index = opened.read_index(shard_tag(entry["origin"], name, shard), array,
                                          self.spec.shard_views, len(views))
                self._indexes[name, shard] = index
        except CorruptStore as error:
            raise CorruptStore(f"{file}: the shard of views {views.start} to {views[-1]} {error}") from None
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


def _rows(indices: Indices, views: int, path: Path) -> list[int]:
    rows = np.asarray(indices)
    if rows.size == 0:
        return []
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise IndexError(f"{path}: indices are one list of whole numbers, not {rows.dtype.name} {rows.shape}")
    if int(rows.min()) < 0 or int(rows.max()) >= views:
        raise IndexError(f"{path}: index {rows.min() if rows.min() < 0 else rows.max()} is not in "
                         f"[0, {views})")
    return [int(row) for row in rows]
