"""Reading a store that lies elsewhere: s3://, https:// and whatever else fsspec knows.

Whatever is checked in a local store is checked here too, by the same code. What differs is how bytes come: a request
may take longer than everything else, so those of a batch go out together.
"""

import hashlib
import math

from storage import manifest as manifests
from storage.base import Array
from storage.encodings import encoding_of
from storage.errors import CorruptStore, IncompleteStore, RemoteError
from storage.layout import shard_key
from storage.manifest import MAX_BYTES, NAME
from storage.reader import ShardedStore, descriptors
from storage.remote_files import Part, RemoteFolder
from storage.shards import TAG_BYTES, Index, check_chunk, check_index, index_bytes
from storage.spec import ArraySpec

_PIECE = 2**23  # bytes of a shard that are fetched at once for its sha256


class RemoteStore(ShardedStore):
    """A Zarr store elsewhere.

    Raises:
        IncompleteStore: it is not finished, or there is none.
        FormatError: it is no store, or one of another format version.
        CorruptStore: its manifest is damaged.
        RemoteError: it cannot be reached, or has another backend.
    """

    path: str

    def __init__(self, url: str) -> None:
        self._folder = RemoteFolder(url)
        raw = self._read_start(NAME, MAX_BYTES + 1)
        if raw is None:
            raise IncompleteStore(f"{url}: there is no {NAME}, so there is no store, or none that is finished")
        super().__init__(url, *manifests.from_bytes(raw, f"{url}/{NAME}"))
        if self.spec.backend != "zarr":
            raise RemoteError(f"{url}: a store of {self.spec.backend} is read from a local disk only; copy its folder "
                              "here")
        self._indexes: dict[tuple[str, int], Index] = {}

    def _read_start(self, name: str, most: int) -> bytes | None:
        return self._folder.fetch([(name, 0, most)])[0]

    def _fill(self, array: ArraySpec, rows: list[int], out: Array) -> None:
        flat = out.reshape(len(rows), math.prod(array.shape))
        step = descriptors() // 2  # each request may be a connection, and a new shard takes two
        for start in range(0, len(rows), step):
            self._fill_some(array, rows[start : start + step], flat[start : start + step])

    def _fill_some(self, array: ArraySpec, rows: list[int], flat: Array) -> None:
        decompress = encoding_of(array.encoding).compressor.decompress
        self._read_indexes(array, {view // self.spec.shard_views for view in rows})
        parts: list[Part] = []
        for view in rows:
            shard, slot = divmod(view, self.spec.shard_views)
            offset, nbytes = self._indexes[array.name, shard][slot].tolist()
            parts.append((shard_key(self.spec, array, shard), offset, offset + nbytes))
        for view, row, part, raw in zip(rows, flat, parts, self._folder.fetch(parts), strict=True):
            try:
                if raw is None:
                    raise CorruptStore("is missing")
                decompress(check_chunk(raw, part[2] - part[1]), row)
            except CorruptStore as error:
                raise CorruptStore(f"{self.path}/{part[0]}: view {view} {error}") from None

    def _read_indexes(self, array: ArraySpec, shards: set[int]) -> None:
        new = sorted(shard for shard in shards if (array.name, shard) not in self._indexes)
        entries = [self._shard_entry(array, shard) for shard in new]
        slots, parts = self.spec.shard_views, list[Part]()
        for shard, (size, _) in zip(new, entries, strict=True):
            key = shard_key(self.spec, array, shard)
            # One byte more than there should be, so that a shard that is too long is noticed.
            parts += [(key, 0, TAG_BYTES), (key, max(0, size - index_bytes(slots)), size + 1)]
        found = self._folder.fetch(parts) if parts else []
        for shard, (size, tag), head, tail in zip(new, entries, found[::2], found[1::2], strict=True):
            try:
                if head is None or tail is None:
                    raise CorruptStore("is missing")
                if len(tail) != min(size, index_bytes(slots)):
                    has = self._folder.size(shard_key(self.spec, array, shard))
                    raise CorruptStore(f"has {'other' if has is None else has} bytes, expected {size}")
                self._indexes[array.name, shard] = check_index(head, tail, size, tag, array, slots,
                                                               len(self.spec.shard_range(shard)))
            except CorruptStore as error:
                raise self._bad_shard(array, shard, error) from None

    def sha256(self, array: str, shard: int) -> str:
        size, sha256 = self._shard_entry(self.spec[array], shard)[0], hashlib.sha256()
        for start in range(0, size, _PIECE):
            part = (shard_key(self.spec, self.spec[array], shard), start, min(size, start + _PIECE))
            sha256.update(self._folder.fetch([part])[0] or b"")
        return sha256.hexdigest()
