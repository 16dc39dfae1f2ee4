"""One shard file of the Zarr v3 codec `sharding_indexed`, with its index at the end.

    tag (32 bytes) | chunk of the 1st view | … | chunk of the last view | index
    chunk = compressed codes, crc32c of them
    index = (offset, bytes) as uint64 for every slot of the shard, crc32c of them

The tag says of which store, array and shard the file is, so that a file from elsewhere is
noticed even where its index looks the same. To Zarr it is unused space, which the codec allows.
"""

import contextlib
import hashlib
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c

from storage.encodings import encoding_of
from storage.errors import CorruptStore
from storage.files import write_all
from storage.spec import ArraySpec, StoreSpec, canonical

TAG_BYTES = 32
_MAGIC = b"CNDSHRD1"
_ABSENT = 2**64 - 1
Index = np.ndarray[Any, np.dtype[np.int64]]


class Written(NamedTuple):
    """A shard file as it was written: its length and the sha256 of all its bytes."""

    bytes: int
    sha256: str


def shard_tag(fingerprint: str, array: str, shard: int) -> bytes:
    """The first 32 bytes of a shard of the store with this fingerprint."""
    return _MAGIC + hashlib.sha256(canonical([fingerprint, array, shard]).encode()).digest()[:24]


def index_bytes(slots: int) -> int:
    """Bytes of the index at the end of a shard."""
    return slots * 16 + 4


def check_index(head: bytes, tail: bytes, size: int, tag: bytes, spec: ArraySpec, slots: int, views: int) -> Index:
    """The (offset, bytes) of each of the first `views` slots; the chunks are within the file.

    Args:
        head: the first TAG_BYTES of the shard.
        tail: its last `index_bytes(slots)`.
        size: its bytes in all.
        tag: that it has to have.

    Raises:
        CorruptStore: the shard is another store's, damaged, or made to mislead.
    """
    if size < TAG_BYTES + index_bytes(slots):
        raise CorruptStore(f"has {size} bytes, too few for its index")
    if head != tag:
        raise CorruptStore("belongs to another store, array or place")
    if len(tail) != index_bytes(slots) or crc32c(tail[:-4]) != struct.unpack("<I", tail[-4:])[0]:
        raise CorruptStore("has a damaged index")
    entries = np.frombuffer(tail, "<u8", slots * 2).reshape(slots, 2)
    used = entries[:views]
    largest = spec.nbytes + spec.nbytes // 64 + 1024  # no compressor adds more than that
    if (entries[views:] != _ABSENT).any() or (used > size).any() or (used[:, 1] > largest).any():
        raise CorruptStore("has an index that points outside of it")
    ends = used.sum(axis=1)
    order = np.argsort(used[:, 0])
    if (used[order[0], 0] < TAG_BYTES or ends[order[-1]] > size - len(tail)
            or (ends[order[:-1]] > used[order[1:], 0]).any()):
        raise CorruptStore("has an index with overlapping chunks")
    return used.astype(np.int64)


def check_chunk(raw: bytes, nbytes: int) -> memoryview:
    """The compressed codes of a view.

    Args:
        raw: what lies where the index says that its chunk is.
        nbytes: that the chunk has by the index.

    Raises:
        CorruptStore: its checksum is wrong.
    """
    chunk = memoryview(raw)
    if len(chunk) != nbytes or crc32c(chunk[:-4]) != int.from_bytes(chunk[-4:], "little"):
        raise CorruptStore("fails its checksum")
    return chunk[:-4]


class ShardWriter:
    """Streams chunks into a temporary file; what it holds in memory is the index alone.

    Nothing is buffered, so a forked child has nothing to write into the parent's file.

    Args:
        path: of the temporary file; an older one is overwritten.
        spec: of the store.
    """

    def __init__(self, path: Path, spec: StoreSpec, array: ArraySpec, shard: int) -> None:
        self.path = path
        self._fd: int | None = None
        self._compress = encoding_of(array.encoding).compressor.compress
        self._index = np.full((spec.shard_views, 2), _ABSENT, "<u8")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._size, self._sha256 = 0, hashlib.sha256()
        try:
            self._write(shard_tag(spec.fingerprint, array.name, shard))
        except BaseException:
            self.abandon()
            raise

    def _write(self, data: bytes) -> None:
        assert self._fd is not None
        self._sha256.update(data)
        self._size += len(data)
        try:
            write_all(self._fd, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def append(self, slot: int, codes: np.ndarray[Any, Any]) -> None:
        """Write the codes of the view in `slot`."""
        chunk = self._compress(np.ascontiguousarray(codes))
        self._index[slot] = self._size, len(chunk) + 4
        self._write(chunk + struct.pack("<I", crc32c(chunk)))

    def close(self) -> Written:
        """Write the index; returns once everything is on the disk."""
        index = self._index.tobytes()
        self._write(index + struct.pack("<I", crc32c(index)))
        assert self._fd is not None
        os.fsync(self._fd)
        self._close()
        return Written(self._size, self._sha256.hexdigest())

    def abandon(self) -> None:
        """Remove the temporary file, whatever state it is in."""
        with contextlib.suppress(OSError):
            self._close()
            self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    __del__ = _close


class ShardFile:
    """An open shard. Reads have no position and no lock: threads and forks may share it."""

    def __init__(self, path: str, size: int) -> None:
        """
        Args:
            size: bytes that the manifest says it has.

        Raises:
            CorruptStore: it is missing or of another size.
        """
        self.path = path
        try:
            # To open a pipe would wait for somebody to write into it; a file never waits.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise CorruptStore("is missing") from None
        try:
            found = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._named(error) from None
        if found != size:
            raise CorruptStore(f"has {found} bytes, expected {size}")
        self._size = size

    def __del__(self) -> None:
        # Not `close()`: another thread may still be reading when this one leaves the cache.
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def _named(self, error: OSError) -> OSError:
        """The error with the file in it: a descriptor does not know what it was opened by."""
        return OSError(error.errno, error.strerror, self.path)

    def _read(self, nbytes: int, offset: int) -> bytes:
        """The bytes from `offset` on, fewer only where the file ends: the system may give them piece by piece."""
        data = b""
        try:
            while len(data) < nbytes and (more := os.pread(self._fd, nbytes - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise self._named(error) from None
        return data

    def read_index(self, tag: bytes, spec: ArraySpec, slots: int, views: int) -> Index:
        """As `check_index`."""
        tail = index_bytes(slots)
        return check_index(self._read(TAG_BYTES, 0), self._read(tail, max(0, self._size - tail)), self._size, tag, spec,
                           slots, views)

    def read_chunk(self, offset: int, nbytes: int) -> memoryview:
        """As `check_chunk`."""
        return check_chunk(self._read(nbytes, offset), nbytes)

    def sha256(self) -> str:
        """Of the whole file."""
        sha256 = hashlib.sha256()
        for offset in range(0, self._size, 1 << 20):
            sha256.update(self._read(1 << 20, offset))
        return sha256.hexdigest()
