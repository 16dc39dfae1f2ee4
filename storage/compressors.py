"""Compressors of chunks, each a standard Zarr codec that any Zarr client can undo."""

import struct
from typing import Any, Protocol

import numpy as np
from numcodecs import blosc

from storage.errors import CorruptStore

# A chunk is small: threads inside it gain nothing, and blosc's pool does not survive a fork.
blosc.use_threads = False


class Compressor(Protocol):
    """Turns the bytes of one chunk into fewer."""

    def to_json(self, itemsize: int, nbytes: int) -> dict[str, Any]:
        """The codec in zarr.json, for chunks of `nbytes` bytes of numbers of `itemsize` bytes."""
        ...

    def compress(self, codes: np.ndarray[Any, Any]) -> bytes: ...

    def decompress(self, data: memoryview, out: np.ndarray[Any, Any]) -> None:
        """Fill the contiguous `out`, and not a byte more.

        Raises:
            CorruptStore: `data` does not hold exactly the bytes of `out`.
        """
        ...


class _Blosc:
    def __init__(self, name: str, level: int, shuffle: str) -> None:
        self._name, self._level, self._shuffle = name, level, shuffle
        self._mode = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[shuffle]

    def to_json(self, itemsize: int, nbytes: int) -> dict[str, Any]:
        return {"name": "blosc", "configuration": {
            "cname": self._name, "clevel": self._level, "shuffle": self._shuffle,
            "typesize": self._typesize(itemsize, nbytes), "blocksize": 0}}

    def _typesize(self, itemsize: int, nbytes: int) -> int:
        # blosc gathers the bits of single bytes without vector instructions. In pairs it takes two thirds of the
        # time to undo, for 2 % more bytes.
        paired = self._shuffle == "bitshuffle" and itemsize == 1 and nbytes % 2 == 0
        return 2 if paired else itemsize

    def compress(self, codes: np.ndarray[Any, Any]) -> bytes:
        if self._typesize(codes.itemsize, codes.nbytes) == 2:
            codes = codes.reshape(-1).view(np.uint16)
        return bytes(blosc.compress(codes, self._name.encode(), self._level, self._mode))

    def decompress(self, data: memoryview, out: np.ndarray[Any, Any]) -> None:
        # blosc believes the sizes in its header, and reads beyond a cut buffer.
        if len(data) < 16:
            raise CorruptStore("a compressed chunk of less than 16 bytes")
        decoded, _, encoded = struct.unpack_from("<III", data, 4)
        if decoded != out.nbytes or encoded != len(data):
            raise CorruptStore(f"a chunk claims {decoded} bytes from {encoded}, expected {out.nbytes} "
                               f"from {len(data)}")
        try:
            blosc.decompress(data, out)
        except (RuntimeError, ValueError) as error:
            raise CorruptStore(f"a chunk does not decompress: {error}") from None


LZ4_BITSHUFFLE: Compressor = _Blosc("lz4", 5, "bitshuffle")
#: For codes that are mostly zeros: zstd finds the long runs that lz4 has to spell out.
ZSTD: Compressor = _Blosc("zstd", 3, "noshuffle")
ZSTD_SHUFFLE: Compressor = _Blosc("zstd", 3, "shuffle")
