"""Contenders for `make bench-store`: ways to keep and read the same head records, and to write them.

A record is a heatmap (20, h, h) and a wh_offset (4, h, h) of one view. Every contender but the memmap holds
the same codes of the same views, and answers a batch of rows with arrays as its library gives them.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zarr
from numcodecs import blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from storage import ArraySpec, StoreSpec, create_store, encode, open_store

CLASSES, SHARD = 20, 64
HALF = {"heatmap": "u8-sqrt", "wh_offset": "raw"}
SPARSE = {"heatmap": "u8-sqrt-sparse", "wh_offset": "exact-fp16-sparse"}
Values = dict[str, NDArray[np.float32]]
Codes = dict[str, NDArray[Any]]


class Contender(Protocol):
    """Something that was written once and is read at random; picklable, for loader workers."""

    def read(self, rows: Sequence[int]) -> object: ...


def synthetic(side: int, count: int, seed: int = 0) -> Values:
    """Maps that compress about as a teacher's do: smooth noise for background, a few round peaks."""
    rng = np.random.default_rng(seed)
    grid = np.arange(side)
    noise = _smooth(rng.standard_normal((count, CLASSES, side, side)), 2)
    heatmap = np.exp(noise / noise.std() - 6)
    for view in heatmap:
        for _ in range(4):
            label, (y, x), spread = rng.integers(CLASSES), rng.uniform(0, side, 2), rng.uniform(1, side / 12)
            bump = np.exp(-(((grid[:, None] - y) ** 2) + (grid - x) ** 2) / (2 * spread**2))
            view[label] = np.maximum(view[label], 0.9 * bump)
    boxes = 10 + 4 * _smooth(rng.standard_normal((count, 4, side, side)), 3)
    return {"heatmap": heatmap.clip(0, 1).astype(np.float32), "wh_offset": boxes.astype(np.float32)}


def _smooth(values: NDArray[np.float64], passes: int) -> NDArray[np.float64]:
    for _ in range(passes):
        for axis in (-1, -2):
            values = (np.roll(values, 1, axis) + values + np.roll(values, -1, axis)) / 3
    return values


def codes_of(values: Values, encodings: dict[str, str]) -> tuple[StoreSpec, Callable[[int], StoreSpec]]:
    """The spec for the values' shapes, and the same for any number of views."""
    shapes = {name: rows.shape[1:] for name, rows in values.items()}

    def spec(views: int) -> StoreSpec:
        arrays = tuple(ArraySpec(name, shape, "uint8" if encodings[name] == "raw" else "", encodings[name])
                       for name, shape in shapes.items())
        return StoreSpec(arrays, views, SHARD, {"kind": "benchmark"})

    return spec(len(values["heatmap"])), spec


def encoded(spec: StoreSpec, values: Values) -> Codes:
    """The codes; wh and offset as `raw` are eighths of a cell in 8 bits, which stand for any u8 of theirs."""
    from storage import encode_views

    if spec["wh_offset"].encoding != "raw":
        return encode_views(spec, values)[0]
    return {"heatmap": encode(spec["heatmap"], values["heatmap"]),
            "wh_offset": (values["wh_offset"] * 8).clip(0, 255).astype(np.uint8)}


def repeated(codes: Codes, views: int) -> Iterator[tuple[int, Codes]]:
    """Shards of `views` views, which repeat the given ones in turn."""
    have = len(codes["heatmap"])
    for start in range(0, views, SHARD):
        rows = np.arange(start, min(start + SHARD, views)) % have
        yield start, {name: array[rows] for name, array in codes.items()}


class Memmap:
    """A plain fp16 array of whole records."""

    def __init__(self, path: Path, values: Values, views: int) -> None:
        _, planes, side, _ = (np.concatenate([values["heatmap"][:1], values["wh_offset"][:1]], 1)).shape
        self.path, self.shape = path, (views, planes, side, side)
        records = np.concatenate([values["heatmap"], values["wh_offset"]], 1).astype(np.float16)
        file = np.memmap(path, np.float16, "w+", shape=self.shape)
        for start, part in repeated({"heatmap": records}, views):
            file[start : start + SHARD] = part["heatmap"]
        file.flush()
        self.nbytes = file.nbytes
        self._open()

    def _open(self) -> None:
        self.file = np.memmap(self.path, np.float16, "r", shape=self.shape)

    def read(self, rows: Sequence[int]) -> NDArray[np.float16]:
        return self.file[rows]

    def __getstate__(self) -> dict[str, Any]:  # a pickled memmap is a copy of all of it
        return {"path": self.path, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._open()


class Ours:
    """A store, read our own way."""

    def __init__(self, path: Path, codes: Codes, spec: StoreSpec) -> None:
        write_ours(path, codes, spec)
        self.store = open_store(path)
        self.nbytes = self.store.manifest["counts"]["bytes"]

    def read(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        return [self.store.read(array.name, rows) for array in self.store.spec.arrays]


def write_ours(path: Path, codes: Codes, spec: StoreSpec) -> None:
    """Every shard whole on the disk, as a store always writes it."""
    writer = create_store(path, spec)
    for (_, part), shard in zip(repeated(codes, spec.views), range(spec.shards), strict=True):
        claim = writer.claim(shard)
        assert claim is not None
        with claim:
            for row in zip(*part.values(), strict=True):
                claim.append(dict(zip(part, row, strict=True)))
    writer.finish()


class ZarrPython:
    """The same shards through zarr-python, one view at a time, which is its fastest way.

    Args:
        pipeline: the codec pipeline's class, or None for zarr-python's own.
    """

    def __init__(self, path: Path, pipeline: str | None = None) -> None:
        self.path, self.pipeline = path, pipeline
        self._open()

    def _open(self) -> None:
        if self.pipeline:
            importlib.import_module(self.pipeline.rpartition(".")[0])
            with zarr.config.set({"codec_pipeline.path": self.pipeline}):
                group = zarr.open_group(self.path, mode="r")
                self.arrays = [group["heatmap"], group["wh_offset"]]
        else:
            group = zarr.open_group(self.path, mode="r")
            self.arrays = [group["heatmap"], group["wh_offset"]]

    def read(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        return [np.stack([array[int(row)] for row in rows]) for array in self.arrays]


def write_zarr(path: Path, codes: Codes, spec: StoreSpec) -> None:
    """The same shards by zarr-python, a whole shard at a time, each brought to the disk."""
    group = zarr.open_group(path, mode="w")
    arrays = {array.name: group.create_array(
        array.name, shape=(spec.views, *array.shape), chunks=(1, *array.shape), shards=(SHARD, *array.shape),
        dtype=array.dtype, compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."}) for array in spec.arrays}
    for start, part in repeated(codes, spec.views):
        for name, out in arrays.items():
            out[start : start + SHARD] = part[name]
    for file in path.rglob("*"):
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


class H5py:
    """Chunks of one view, shuffled and lzf, with fletcher32, one at a time."""

    def __init__(self, path: Path, codes: Codes, spec: StoreSpec) -> None:
        import h5py

        with h5py.File(path, "w", libver="latest") as file:
            for array in spec.arrays:
                out = file.create_dataset(array.name, (spec.views, *array.shape), array.dtype,
                                          chunks=(1, *array.shape), fletcher32=True, shuffle=True, compression="lzf")
                for start, part in repeated(codes, spec.views):
                    out[start : start + SHARD] = part[array.name]
        self.file, self.names = h5py.File(path, "r"), [array.name for array in spec.arrays]
        self.nbytes = path.stat().st_size

    def read(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        return [np.stack([self.file[name][int(row)] for row in rows]) for name in self.names]


class LitData:
    """Records of the same compressed chunks in litdata's own format, one at a time."""

    def __init__(self, path: Path, codes: Codes, spec: StoreSpec) -> None:
        from litdata.streaming import Cache, StreamingDataset

        cache = Cache(str(path), chunk_bytes="64MB")
        number = 0
        for _, part in repeated(codes, spec.views):
            for row in zip(*part.values(), strict=True):
                cache[number] = {array.name: bytes(blosc.compress(np.ascontiguousarray(data), b"lz4", 5, 2))
                                 for array, data in zip(spec.arrays, row, strict=True)}
                number += 1
        cache.done()
        cache.merge()
        self.spec, self.data = spec, StreamingDataset(str(path))

    def read(self, rows: Sequence[int]) -> list[NDArray[Any]]:
        found = [self.data[int(row)] for row in rows]
        return [np.stack([np.frombuffer(blosc.decompress(one[array.name]), array.dtype).reshape(array.shape)
                          for one in found]) for array in self.spec.arrays]


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
