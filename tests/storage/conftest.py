"""A small store with every kind of array, and what was put into it."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class _Files(BaseHTTPRequestHandler):
    """Files of this machine, whole or in part."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement
    ranges = True

    def do_GET(self) -> None:
        file = Path(self.path)
        status = 200 if file.is_file() else 404 if file.parent.name != "forbidden" else 403
        data = file.read_bytes() if status == 200 else b""
        if status == 200 and self.ranges and "Range" in self.headers:
            start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            first = int(start) if start else len(data) - int(last)
            status = 206 if first < len(data) else 416
            data = data[first : int(last) + 1 if start and last else None]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


class _WholeFiles(_Files):
    """What a server does that has never heard of ranges, as `python -m http.server`."""

    ranges = False


def _serve(handler: type[_Files]) -> Iterator[Callable[[Path], str]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
        server.shutdown()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """serve(path) -> the URL that a server on this machine gives it."""
    yield from _serve(_Files)


@pytest.fixture
def serve_whole() -> Iterator[Callable[[Path], str]]:
    """As `serve`, of a server that sends whole files only."""
    yield from _serve(_WholeFiles)
