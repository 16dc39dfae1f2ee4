"""Writers and readers in processes of their own, some to be killed.

    writer_process.py write PATH [BACKEND] | read PATH OTHER SEED BACKEND | hold PATH SHARD | crash PATH

write: writes what is pending, one line per finished shard; finishes when nothing is left.
read: checks random batches of a finished store until another one is finished too; prints how many.
hold: claims a shard, forks a child that outlives it, prints both pids and waits.
crash: writes the store again and again, each time dying at the next system call that matters, and
    checks each time that the resumed store is the undisturbed one.
"""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import make_rows, make_spec, write_shards

import storage

VIEWS, SHARD_VIEWS = 24, 2
os.fsync = lambda _: None  # a kill does not lose what the kernel has, and a busy disk is slow


def write(path: Path, backend: str = "zarr") -> None:
    spec = make_spec(VIEWS, SHARD_VIEWS, backend=backend)
    rows = make_rows(spec)
    writer = storage.create_store(path, spec)
    print("ready", flush=True)
    for shard in writer.pending():
        if claim := writer.claim(shard):
            with claim:
                for view in claim.views:
                    claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()})
                    time.sleep(0.002)
            print(shard, flush=True)
    if not writer.pending():
        writer.finish()


def read(path: Path, other: str, seed: str, backend: str) -> None:
    rows = make_rows(make_spec(VIEWS, SHARD_VIEWS, backend=backend))
    random, batches = np.random.default_rng(int(seed)), 0
    store = storage.open_store(path)
    print("ready", flush=True)
    while not Path(other, "manifest.json").exists():
        views = random.integers(0, VIEWS, 8)
        for name, codes in rows.items():
            assert np.array_equal(store.read(name, views), codes[views]), name
        batches += 1
    print(batches)


def hold(path: Path, shard: str) -> None:
    claim = storage.create_store(path, make_spec(VIEWS, SHARD_VIEWS)).claim(int(shard))
    assert claim is not None
    with claim:
        if not os.fork():  # the child says so: by then it has let go of the lock
            print(os.getppid(), os.getpid(), flush=True)
        time.sleep(60)


def contents(path: Path) -> dict[str, bytes]:
    files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    manifest = storage.open_store(path).manifest
    return {**files, "manifest.json": storage.canonical({**manifest, "created": None, "checksum": None}).encode()}


def crash(path: Path) -> None:
    spec = replace(make_spec(3, 2), arrays=make_spec().arrays[1:3])
    rows = make_rows(spec)

    def run(folder: Path) -> None:
        writer = storage.create_store(folder, spec)
        write_shards(writer, rows)
        writer.finish()

    run(path / "whole")
    whole, calls, survived = contents(path / "whole"), 0, False
    while not survived:
        folder = path / f"crash-{calls}"
        child = os.fork()
        if not child:
            _die_at(calls)
            run(folder)
            os._exit(0)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert survived or not (folder / "manifest.json").exists() or contents(folder)
        run(folder)
        assert contents(folder) == whole, f"differs after a crash at call {calls}"
        assert storage.verify(folder).ok, storage.verify(folder)
        shutil.rmtree(folder)
        calls += 1
    print(calls)


def _die_at(count: int) -> None:
    """End this process without a trace at the `count`th call, in the middle of it if it writes."""
    left = [count]

    def dying(name: str):
        real = getattr(os, name)

        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                if name == "write":
                    real(arguments[0], arguments[1][:len(arguments[1]) // 2])
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in ("write", "replace", "rename", "fsync", "mkdir", "rmdir", "unlink"):
        setattr(os, name, dying(name))


if __name__ == "__main__":
    {"write": write, "read": read, "hold": hold, "crash": crash}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
