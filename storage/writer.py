"""Writing a store: several processes, each owning whole shards, any of which may die."""

import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from storage import manifest as manifests
from storage.encodings import encoding_of
from storage.errors import FingerprintMismatch, IncompleteStore, StoreError
from storage.files import Lock, sync_folder, write_whole
from storage.journal import Journal, finished
from storage.manifest import NAME, WORK, Manifest
from storage.shards import ShardWriter, shard_tag
from storage.spec import StoreSpec, differences
from storage.zarr_format import documents, shard_key


def create_store(path: str | os.PathLike[str], spec: StoreSpec) -> "StoreWriter":
    """Begin a store, or take up an unfinished one of the same spec.

    A finished one of the same spec gives a writer with `complete` set and nothing pending.

    Raises:
        FingerprintMismatch: what lies at `path` is of another spec; names every difference.
        StoreError: what lies there is something else.
        CorruptStore: its metadata is damaged.
    """
    path = Path(os.path.abspath(path))
    if (path / NAME).exists():
        return _finished(path, spec)
    work = path / WORK
    if path.exists() and not work.is_dir() and (not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path}: there is something else than a store; remove it or choose another path")
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock.take(work / "lock", wait=True)
        except FileNotFoundError:  # another writer finished the store and tidied up just now
            continue
        break
    assert lock is not None
    with lock:
        if (path / NAME).exists():
            shutil.rmtree(work, ignore_errors=True)
            return _finished(path, spec)
        begun = work / "spec.json"
        if begun.exists():
            _same(path, StoreSpec.from_json(manifests.parse(begun.read_bytes())), spec)
        else:
            for name, data in documents(spec).items():
                (path / name).parent.mkdir(exist_ok=True)
                write_whole(path / name, data)
            write_whole(begun, manifests.render(spec.to_json()))
            sync_folder(path.parent)
    return StoreWriter(path, spec, complete=False)


def _finished(path: Path, spec: StoreSpec) -> "StoreWriter":
    _same(path, manifests.load(path)[1], spec)
    return StoreWriter(path, spec, complete=True)


def _same(path: Path, found: StoreSpec, wanted: StoreSpec) -> None:
    def described(spec: StoreSpec) -> dict[str, Any]:
        arrays = {array.name: {k: v for k, v in array.to_json().items() if k != "name"} for array in spec.arrays}
        return {**spec.identity, "arrays": arrays, "views": spec.views, "shard_views": spec.shard_views}

    if different := differences(described(found), described(wanted), both_ways=True):
        raise FingerprintMismatch(f"{path}: the store there is another one: {'; '.join(different)}. "
                                  "Choose another path or remove it")


class StoreWriter:
    """One process's hand on an unfinished store.

    Attributes:
        path, spec: of the store.
        complete: nothing is left to write, the store has its manifest.
    """

    def __init__(self, path: Path, spec: StoreSpec, *, complete: bool) -> None:
        self.path, self.spec, self.complete = path, spec, complete
        self._work = path / WORK
        self._journal = Journal(self._work)

    def pending(self) -> list[int]:
        """The shards that nobody has finished. Some may be claimed: `claim` tells."""
        if self._is_complete():
            return []
        done = finished(self._work, self.path, self.spec)
        return [shard for shard in range(self.spec.shards) if shard not in done]

    def claim(self, shard: int) -> "ShardClaim | None":
        """Take a shard of all arrays; None where another writer has it or finished it.

        It stays claimed until its `with` block ends, or this process does.
        """
        if not 0 <= shard < self.spec.shards:
            raise IndexError(f"{self.path}: shard {shard} is not one of {self.spec.shards}")
        try:
            lock = Lock.take(self._work / f"shard-{shard:06d}.lock")
        except FileNotFoundError:
            if self._is_complete():
                return None
            raise
        if lock is None:
            return None
        # Only now is it certain that nobody is about to finish it.
        if shard in self.pending():
            return ShardClaim(self, shard, lock)
        lock.release()
        return None

    def finish(self, **information: Any) -> Manifest:
        """Write the manifest; from then on the store can be opened.

        Args:
            information: JSON for the manifest's "created": costs, versions.

        Raises:
            IncompleteStore: shards are missing; names them.
        """
        lock = None if self._is_complete() else Lock.take(self._work / "lock", wait=True)
        if lock is None or self._is_complete():
            return manifests.load(self.path)[0]
        with lock:
            done = finished(self._work, self.path, self.spec)
            if missing := [str(shard) for shard in range(self.spec.shards) if shard not in done]:
                raise IncompleteStore(
                    f"{self.path}: {len(missing)} of {self.spec.shards} shards are missing or still being "
                    f"written by another process: {', '.join(missing[:10])}{', …' * (len(missing) > 10)}")
            created = {"at": datetime.now(UTC).isoformat(timespec="seconds"),
                       "shard_seconds": round(sum(record["seconds"] for record in done.values()), 3),
                       **information}
            manifest = manifests.build(self.spec, list(done.values()), documents(self.spec), created)
            write_whole(self.path / NAME, manifests.render(manifest))
            shutil.rmtree(self._work, ignore_errors=True)
        self.complete = True
        return manifest

    def _is_complete(self) -> bool:
        self.complete = self.complete or (self.path / NAME).exists()
        return self.complete

    def _commit(self, shard: int, record: dict[str, Any]) -> None:
        self._journal.add(shard, record)


class ShardClaim:
    """A shard that this process alone writes: `with claim: claim.append(…)` for each view in order.

    Attributes:
        views: that belong to it.
    """

    def __init__(self, writer: StoreWriter, shard: int, lock: Lock) -> None:
        self.views = writer.spec.shard_range(shard)
        self._writer, self._shard, self._lock = writer, shard, lock
        self._files: dict[str, ShardWriter] = {}
        self._errors: dict[str, float] = {}
        self._count = 0

    def __enter__(self) -> "ShardClaim":
        spec, self._started = self._writer.spec, time.monotonic()
        try:
            for array in spec.arrays:
                key = shard_key(array, self._shard)
                self._files[array.name] = ShardWriter(
                    self._writer._work / f"{key.replace('/', '.')}.partial",
                    shard_tag(spec.fingerprint, array.name, self._shard), spec.shard_views)
        except BaseException:
            self._abandon()
            raise
        return self

    def append(self, codes: Mapping[str, np.ndarray[Any, Any]],
               errors: Mapping[str, float] | None = None) -> None:
        """Add the next view.

        Args:
            codes: of every array, in its shape and dtype.
            errors: what `encodings.measure` found for this view, by array; once it is given for an
                array, it has to be for all its views.
        """
        spec = self._writer.spec
        assert self._count < len(self.views), f"shard {self._shard} has {len(self.views)} views"
        assert set(codes) == set(self._files), f"codes of {sorted(codes)}, expected {sorted(self._files)}"
        for array in spec.arrays:
            row = codes[array.name]
            if row.shape != array.shape or row.dtype != array.code_dtype:
                raise StoreError(f"{self._writer.path}: array {array.name!r} takes {array.dtype} codes of shape "
                                 f"{array.shape}, not {row.dtype.name} {row.shape}")
            chunk = encoding_of(array.encoding).compressor.compress(np.ascontiguousarray(row))
            self._files[array.name].append(self._count, chunk)
        for name, error in (errors or {}).items():
            self._errors[name] = max(self._errors.get(name, 0.0), float(error))
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._abandon()

    def _commit(self) -> None:
        if self._count < len(self.views):
            raise StoreError(f"{self._writer.path}: shard {self._shard} got {self._count} of "
                             f"{len(self.views)} views")
        spec, path = self._writer.spec, self._writer.path
        written = {array.name: self._files[array.name].close() for array in spec.arrays}
        for array in spec.arrays:
            os.replace(self._files[array.name].path, path / shard_key(array, self._shard))
            sync_folder(path / array.name)
        self._writer._commit(self._shard, {
            "arrays": {name: entry._asdict() for name, entry in written.items()},
            "errors": self._errors, "seconds": round(time.monotonic() - self._started, 3)})

    def _abandon(self) -> None:
        for file in self._files.values():
            file.abandon()
        self._lock.release()
