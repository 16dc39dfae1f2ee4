"""How often each fault happens, and what is written about it.

`make test` takes the small counts. `make test-faults` sets FAULTS=full, takes the full ones and writes what came out to
docs/faults.md.
"""

import os
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import storage
from storage import ArraySpec, StoreSpec, manifest
from storage.layout import shard_key
from storage.spec import BACKENDS

FULL = os.environ.get("FAULTS") == "full"
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
HEAD = """# Faults

What `make test-faults` did to stores, and how often the outcome was the right one.

| fault | times | right | seconds |
|---|--:|--:|--:|
"""
#: [what, times, right, seconds] of each test that counts.
_rows: list[tuple[str, int, int, float]] = []


class Tally:
    """Times that a fault happened, times that its outcome was right, and what else is to be said."""

    def __init__(self) -> None:
        self.times, self.right, self.note = 0, 0, ""


@pytest.fixture(scope="session")
def times():
    """times(small, full) -> the count that this run takes."""
    return lambda small, full: full if FULL else small


@pytest.fixture
def counted():
    """`with counted("what") as tally:` puts a row into the page."""

    @contextmanager
    def counted(what):
        tally, start = Tally(), time.monotonic()
        try:
            yield tally
        finally:
            _rows.append((what + tally.note, tally.times, tally.right, time.monotonic() - start))

    return counted


def pytest_sessionfinish(session):
    if not FULL or not _rows:
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True,
                            check=False).stdout.strip()
    table = "".join(f"| {what} | {times} | {right} | {seconds:.0f} |\n" for what, times, right, seconds in _rows)
    outcome = "All tests passed" if not session.testsfailed else f"{session.testsfailed} tests FAILED"
    PAGE.write_text(f"{HEAD}{table}\n{outcome}: {session.testscollected} in all, {datetime.now(UTC):%Y-%m-%d}, on "
                    f"commit {commit or 'unknown'}, {os.cpu_count()} cores.\n")


def make_spec(views=11, shard_views=4, backend="zarr", **identity):
    return StoreSpec(
        arrays=(ArraySpec("heatmap", (3, 8, 6), encoding="u8-sqrt-sparse"),
                ArraySpec("wh_offset", (4, 8, 6), encoding="exact-fp16"),
                ArraySpec("record", (8,), "int64"),
                ArraySpec("scale", (), "float64")),
        views=views, shard_views=shard_views, identity={"kind": "test", "teacher": "resnet50", **identity},
        backend=backend)


def make_rows(spec, seed=0):
    """Codes (views, *shape) of each array; view 1 is all zero, which is legal."""
    rng, rows = np.random.default_rng(seed), {}
    for array in spec.arrays:
        shape = (spec.views, *array.shape)
        codes = rng.integers(0, 256, shape) if array.code_dtype.kind in "ui" else rng.normal(0, 4, shape)
        rows[array.name] = codes.astype(array.code_dtype)
        rows[array.name][1] = 0
    return rows


def write_store(path, spec, rows, shards=None):
    writer = storage.create_store(path, spec)
    for shard in writer.pending() if shards is None else shards:
        with writer.claim(shard) as claim:
            for view in claim.views:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()})
    if shards is None:
        writer.finish(cost={"seconds": 1})
    return path


@pytest.fixture(name="make_spec")
def _make_spec():
    return make_spec


@pytest.fixture(name="make_rows")
def _make_rows():
    return make_rows


@pytest.fixture(name="write_store")
def _write_store():
    return write_store


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture
def spec(backend):
    return make_spec(backend=backend)


@pytest.fixture
def rows(spec):
    return make_rows(spec)


@pytest.fixture
def store_path(tmp_path, spec, rows):
    """A finished store of 11 views in three shards."""
    return write_store(tmp_path / "s", spec, rows)


@pytest.fixture
def shard_file(spec):
    """shard_file(path, array, shard) -> where a store at `path` has that shard."""
    return lambda path, array, shard: path / shard_key(spec, spec[array], shard)


@pytest.fixture
def edit_manifest():
    """edit_manifest(path, edit): an edit by somebody who knows how to make the checksum right again."""

    def edit_manifest(path, edit):
        content = manifest.parse((path / "manifest.json").read_bytes())
        edit(content)
        (path / "manifest.json").write_bytes(manifest.render(content))

    return edit_manifest


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    # No test can cut the power, and hundreds of small shards wait long for a busy disk.
    monkeypatch.setattr("os.fsync", lambda _: None)
