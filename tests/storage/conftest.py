"""A small store with every kind of array, and what was put into it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import storage
from storage import ArraySpec, StoreSpec, StoreWriter

Rows = dict[str, np.ndarray]


def make_spec(views: int = 11, shard_views: int = 4, *, backend: str = "zarr", **identity: object) -> StoreSpec:
    return StoreSpec(
        arrays=(ArraySpec("heatmap", (3, 8, 6), encoding="exact-fp16"),
                ArraySpec("peaks", (5, 7), encoding="exact-fp32"),
                ArraySpec("record", (8,), "int64"),
                ArraySpec("scale", (), "float64")),
        views=views, shard_views=shard_views,
        identity={"kind": "test", "teacher": {"name": "resnet50", "weights": "ab"}, "size": (32, 24), **identity},
        attributes={"classes": ["cat", "dog"]}, backend=backend)


def make_rows(spec: StoreSpec, seed: int = 0) -> Rows:
    """Codes of all views, by array; view 1 is all zero, which is legal."""
    rng = np.random.default_rng(seed)
    rows: Rows = {}
    for array in spec.arrays:
        shape = (spec.views, *array.shape)
        if array.code_dtype.kind == "f":
            rows[array.name] = storage.encode(array, rng.normal(0, 4, shape).astype(array.code_dtype))
        else:
            rows[array.name] = rng.integers(-2**60, 2**60, shape)
        rows[array.name][min(1, spec.views - 1)] = 0
    return rows


def write_shards(writer: StoreWriter, rows: Rows, shards: list[int] | None = None) -> None:
    for shard in writer.pending() if shards is None else shards:
        claim = writer.claim(shard)
        assert claim is not None
        with claim:
            for view in claim.views:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()},
                             {name: 0.0 for name in ["heatmap"] if name in rows})


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # No test can cut the power, and hundreds of small shards wait long for a busy disk.
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def backend() -> str:
    return "zarr"


@pytest.fixture(name="make_spec")
def _make_spec(backend: str) -> Callable[..., StoreSpec]:
    return partial(make_spec, backend=backend)


@pytest.fixture(name="make_rows")
def _make_rows() -> Callable[..., Rows]:
    return make_rows


@pytest.fixture
def write() -> Callable[..., None]:
    return write_shards


@pytest.fixture
def spec(backend: str) -> StoreSpec:
    return make_spec(backend=backend)


@pytest.fixture
def rows(spec: StoreSpec) -> Rows:
    return make_rows(spec)


@pytest.fixture
def store_path(tmp_path: Path, spec: StoreSpec, rows: Rows) -> Path:
    """A finished store."""
    writer = storage.create_store(tmp_path / "s.zarr", spec)
    write_shards(writer, rows)
    writer.finish(cost={"seconds": 1})
    return tmp_path / "s.zarr"
