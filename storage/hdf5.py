"""Shards as HDF5 files, for those whose tools want that: one file per array and shard, one view per chunk.

A file holds one dataset, named as the array, with the views of the shard along axis 0; gzip and fletcher32, which
every HDF5 library undoes. Its attribute `tag` says of which store, array and shard it is, as the first bytes of
a Zarr shard do. Everything else about a store, the manifest above all, does not depend on the backend.

HDF5 finds the chunks, the filters are undone here: HDF5 does not check the unpacked size, so a short chunk exposes
uninitialised memory, and a crafted one may unpack to a thousand times a view.
"""

import contextlib
import errno
import hashlib
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numcodecs.fletcher32 import Fletcher32

from storage.base import Array
from storage.errors import CorruptStore
from storage.manifest import Manifest
from storage.reader import LocalStore, kept_open
from storage.shards import Written, shard_tag
from storage.spec import ArraySpec, StoreSpec
from storage.threads import in_parts

_GZIP_LEVEL = 1
_FLETCHER32 = Fletcher32()


def _filters(array: ArraySpec) -> list[int]:
    """The codes of the filters that a dataset has, in their order."""
    shuffle = [h5py.h5z.FILTER_SHUFFLE] if array.code_dtype.itemsize > 1 else []
    return [*shuffle, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32]


class Hdf5ShardWriter:
    """Streams views into a temporary file, chunk by chunk.

    Args:
        path: of the temporary file; an older one is overwritten.
        spec: of the store.
    """

    def __init__(self, path: Path, spec: StoreSpec, array: ArraySpec, shard: int) -> None:
        self.path = path
        with self._named():
            # A lock of its own would be one too many: the claim has it, and not every file system has locks.
            self._file = h5py.File(path, "w", libver="latest", locking=False, rdcc_nbytes=0)
            self._data = self._file.create_dataset(
                array.name, (len(spec.shard_range(shard)), *array.shape), array.code_dtype, chunks=(1, *array.shape),
                shuffle=array.code_dtype.itemsize > 1, compression="gzip", compression_opts=_GZIP_LEVEL,
                fletcher32=True)
            self._data.attrs["tag"] = np.void(shard_tag(spec.fingerprint, array.name, shard))
            self._data.attrs["encoding"] = array.encoding

    @contextlib.contextmanager
    def _named(self) -> Any:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.path)) from None
        except RuntimeError as error:  # of h5py, where what it kept back cannot be written as the file closes
            raise OSError(errno.EIO, str(error), str(self.path)) from None

    def append(self, slot: int, codes: np.ndarray[Any, Any]) -> None:
        """Write the codes of the view in `slot`."""
        with self._named():
            self._data[slot] = codes

    def close(self) -> Written:
        """Returns once everything is on the disk."""
        with self._named():
            self._file.close()
            with open(self.path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
                return Written(file.tell(), sha256)

    def abandon(self) -> None:
        """Remove the temporary file, whatever state it is in."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Hdf5Store(LocalStore):
    """Shards of HDF5; every process opens its own."""

    def __init__(self, path: Path, manifest: Manifest, spec: StoreSpec) -> None:
        super().__init__(path, manifest, spec)
        self._shard = kept_open(self._open)

    def _open(self, name: str, shard: int, _process: int) -> "h5py.Dataset":
        array = self.spec[name]
        size, tag = self._shard_entry(array, shard)
        try:
            return _checked(Path(self.shard_path(array, shard)), size, array, len(self.spec.shard_range(shard)), tag)
        except CorruptStore as error:
            raise self._bad_shard(array, shard, error) from None

    def _fill(self, array: ArraySpec, rows: list[int], out: Array) -> None:
        process, rest = os.getpid(), (0,) * len(array.shape)
        flat = out.reshape(len(rows), math.prod(array.shape))

        def decode(part: Sequence[tuple[int, int]]) -> None:
            buffer = np.empty(_largest(array), np.uint8)
            for row, view in part:
                shard, slot = divmod(view, self.spec.shard_views)
                data = self._shard(array.name, shard, process)
                try:
                    _unpack(*_read_chunk(data, (slot, *rest), buffer), flat[row])
                except CorruptStore as error:
                    raise CorruptStore(f"{data.file.filename}: view {view} {error}") from None

        in_parts(decode, list(enumerate(rows)), out.nbytes)


def _largest(array: ArraySpec) -> int:
    """Bytes that the filters make of a view at most."""
    return array.nbytes + array.nbytes // 64 + 1024


def _read_chunk(data: "h5py.Dataset", offsets: tuple[int, ...], buffer: Array) -> tuple[int, memoryview]:
    """The filters that a chunk was written without, as bits, and its bytes, which lie in `buffer`."""
    try:
        mask, raw = data.id.read_direct_chunk(offsets, out=buffer)
    except OSError as error:
        if error.errno:  # the disk's fault, not the file's
            raise OSError(error.errno, os.strerror(error.errno), data.file.filename) from None
        raise CorruptStore("cannot be read") from None
    except ValueError:
        raise CorruptStore(f"has a chunk of more than {buffer.nbytes} bytes") from None
    except RuntimeError:
        raise CorruptStore("cannot be read") from None
    return mask, raw


def _unpack(mask: int, raw: memoryview, out: Array) -> None:
    """Undoes the filters of a chunk into the contiguous `out`.

    Raises:
        CorruptStore: the chunk is damaged, or does not hold exactly the bytes of `out`.
    """
    if mask:
        raise CorruptStore("has a chunk that was written without its filters")
    try:
        packed = _FLETCHER32.decode(raw) if len(raw) > 4 else None
    except RuntimeError:
        packed = None
    if packed is None:
        raise CorruptStore("fails its checksum")
    inflate = zlib.decompressobj()
    try:
        codes = inflate.decompress(packed, out.nbytes + 1)
    except zlib.error:
        codes = b""
    if len(codes) != out.nbytes or not inflate.eof or inflate.unused_data:
        raise CorruptStore(f"has a chunk that does not unpack to exactly {out.nbytes} bytes")
    # Shuffled, the first bytes of all numbers come first, then the second ones.
    for place, part in enumerate(np.frombuffer(codes, np.uint8).reshape(out.itemsize, -1)):
        out.view(np.uint8)[place :: out.itemsize] = part


def _checked(path: Path, size: int, array: ArraySpec, views: int, tag: bytes) -> "h5py.Dataset":
    """The dataset of a shard, which is built exactly as a writer here builds it.

    Raises:
        CorruptStore: it is missing, damaged, another store's, or made to mislead.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise CorruptStore("is missing") from None
    if found != size:
        raise CorruptStore(f"has {found} bytes, expected {size}")
    try:
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        # A soft or external link would lead out of the store, and so would other layouts than chunks.
        data = file[array.name] if isinstance(file.get(array.name, getlink=True), h5py.HardLink) else None
        if not isinstance(data, h5py.Dataset) or not _as_written(data, array, views):
            raise CorruptStore("is not built as a shard of this array")
        found_tag = data.attrs["tag"]
        if not isinstance(found_tag, np.void) or found_tag.tobytes() != tag:
            raise CorruptStore("belongs to another store, array or place")
    except CorruptStore:
        raise
    except OSError as error:
        if error.errno:  # the disk's fault, not the file's
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise CorruptStore("is damaged") from None
    except (RuntimeError, KeyError, ValueError, TypeError):
        raise CorruptStore("is damaged") from None
    return data


def _as_written(data: "h5py.Dataset", array: ArraySpec, views: int) -> bool:
    plan = data.id.get_create_plist()
    filters = [plan.get_filter(number)[0] for number in range(plan.get_nfilters())]
    if (plan.get_layout() != h5py.h5d.CHUNKED or plan.get_external_count() or filters != _filters(array)
            or data.shape != (views, *array.shape) or data.chunks != (1, *array.shape)
            or data.dtype != array.code_dtype):
        return False
    # A chunk that was never written would read as zeros to others.
    return bool(data.id.get_num_chunks() == views)
