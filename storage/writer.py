"""Writing a store: several processes, each owning whole shards, any of which may die."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from storage import manifest as manifests
from storage.content import ShardContent
from storage.encodings import encode_views, encoding_of
from storage.errors import FingerprintMismatch, IncompleteStore, StoreError
from storage.files import Lock, local_path, sync_folder, write_whole
from storage.journal import Journal, finished, is_finished
from storage.layout import documents, shard_key
from storage.manifest import BEGUN, NAME, WORK, Manifest
from storage.shards import ShardWriter
from storage.spec import ArraySpec, StoreSpec, differences, in_short

if TYPE_CHECKING:
    from storage.hdf5 import Hdf5ShardWriter


def create_store(path: str | os.PathLike[str], spec: StoreSpec) -> "StoreWriter":
    """Begin a store, or take up an unfinished one of the same fingerprint.

    A finished one gives a writer with `complete` set and nothing pending. What is taken up keeps
    its own `shard_views` and attributes: the writer's spec is the store's.

    Raises:
        FingerprintMismatch: what lies at `path` is of another spec; names every difference.
        StoreError: what lies there is something else, or `path` is a URL.
        CorruptStore: its metadata is damaged.
    """
    path = local_path(path)
    work = path / WORK
    if path.exists() and not (path / NAME).exists() and not work.exists() and (
            not path.is_dir() or any(path.iterdir())):
        raise StoreError(f"{path}: there is something else than a store; remove it or choose another path")
    while not (path / NAME).exists():
        work.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock.take(work / "lock", wait=True)
        except FileNotFoundError:  # another writer finished the store and tidied up just now
            continue
        assert lock is not None
        with lock:
            if not (path / NAME).exists():
                return StoreWriter(path, _begin(path, spec))
    writer = StoreWriter(path, _same(path, manifests.load(path)[1], spec))
    _tidy(path)  # whoever wrote the manifest may have died before this
    return writer


def _tidy(path: Path) -> None:
    """Takes away what a finished store was written with, at once: a lock that is opened too late finds no folder."""
    with suppress(OSError):
        os.rename(path / WORK, path / f"{WORK}-{token_hex(4)}")
    for left in path.glob(f"{WORK}-*"):  # also by a writer that died while it tidied up
        shutil.rmtree(left, ignore_errors=True)


def _begin(path: Path, spec: StoreSpec) -> StoreSpec:
    if (path / WORK / BEGUN).exists():
        return _same(path, manifests.load_begun(path), spec)
    document, files = manifests.render_begun(spec), spec.shards * len(spec.arrays)
    if len(document) + files * manifests.ENTRY_BYTES > manifests.MAX_BYTES:
        raise StoreError(f"{path}: a manifest cannot list {files:,} files of {spec.shard_views} views each; choose a "
                         "larger shard_views")
    for array in spec.arrays:
        (path / array.name).mkdir(exist_ok=True)
    write_whole(path / WORK / BEGUN, document, path / WORK)
    sync_folder(path)
    sync_folder(path.parent)
    return spec


def _same(path: Path, found: StoreSpec, wanted: StoreSpec) -> StoreSpec:
    if found.backend != wanted.backend:
        raise StoreError(f"{path}: the store there is {found.backend}, not {wanted.backend}. Choose another path or "
                         "remove it")
    if different := (differences(found.identity, wanted.identity, both_ways=True)
                     + differences(found.form, wanted.form, both_ways=True)):
        raise FingerprintMismatch(f"{path}: the store there is another one: {in_short(different)}. "
                                  "Choose another path or remove it")
    return found


def _shard_writer(partial: Path, spec: StoreSpec, array: ArraySpec, shard: int) -> "ShardWriter | Hdf5ShardWriter":
    if spec.backend == "zarr":
        return ShardWriter(partial, spec, array, shard)
    from storage.hdf5 import Hdf5ShardWriter  # who has no HDF5 store need not wait for h5py

    return Hdf5ShardWriter(partial, spec, array, shard)


class StoreWriter:
    """One process's hand on a store that is being written.

    Attributes:
        path, spec: of the store.
    """

    def __init__(self, path: Path, spec: StoreSpec) -> None:
        self.path, self.spec = path, spec
        self._work = path / WORK
        self._journal = Journal(self._work)

    @property
    def complete(self) -> bool:
        """Nothing is left to write: the store has its manifest."""
        return (self.path / NAME).exists()

    def pending(self) -> list[int]:
        """The shards that nobody has finished. Some may be claimed: `claim` tells."""
        if self.complete:
            return []
        done = finished(self._work, self.path, self.spec)
        return [shard for shard in range(self.spec.shards) if shard not in done]

    def claim(self, shard: int, *, processes: int = 1) -> "ShardClaim | None":
        """Take a shard of all arrays; None where another writer has it or finished it.

        It stays claimed until its `with` block ends, or this process does.

        Args:
            processes: that write shards side by side now; what a shard cost is its share of their time.
        """
        if not 0 <= shard < self.spec.shards:
            raise IndexError(f"{self.path}: shard {shard} is not one of {self.spec.shards}")
        lock = self._lock(f"shard-{shard:06d}.lock", wait=False)
        # Only under the lock is it certain that nobody is about to finish it. Who completes the store takes the
        # journals away, so that is looked at last.
        if lock is None or is_finished(self._work, self.path, self.spec, shard) or self.complete:
            return None
        return ShardClaim(self, shard, lock, processes)

    def finish(self, **information: Any) -> Manifest:
        """Write the manifest; from then on the store can be opened.

        Args:
            information: JSON for the manifest's "created": costs, versions.

        Raises:
            IncompleteStore: shards are missing; names them.
        """
        lock = self._lock("lock", wait=True)
        if lock is None or self.complete:
            return manifests.load(self.path)[0]
        with lock:
            done = finished(self._work, self.path, self.spec)
            if missing := [str(shard) for shard in range(self.spec.shards) if shard not in done]:
                raise IncompleteStore(
                    f"{self.path}: {len(missing)} of {self.spec.shards} shards are missing, or still being written by "
                    f"another process, which then finishes the store: {', '.join(missing[:10])}"
                    f"{', …' * (len(missing) > 10)}. Run it again if there is no other")
            created = {"at": datetime.now(UTC).isoformat(timespec="seconds"),
                       "shard_seconds": round(sum(record["seconds"] for record in done.values()), 3),
                       "shared_seconds": round(sum(record["seconds"] / record.get("processes", 1)
                                                   for record in done.values()), 3),
                       **information}
            files = documents(self.spec)
            for name, data in files.items():
                write_whole(self.path / name, data, self._work)
            manifest = manifests.build(self.spec, list(done.values()), files, created)
            write_whole(self.path / NAME, manifests.render(manifest), self._work)
            _tidy(self.path)
        return manifest

    def _lock(self, name: str, *, wait: bool) -> Lock | None:
        """None where somebody else has it, or the store is complete and the folder gone."""
        try:
            return Lock.take(self._work / name, wait=wait)
        except FileNotFoundError:
            if self.complete:
                return None
            raise


class ShardClaim:
    """A shard that this process alone writes: `with claim: claim.append(…)` for each view in order.

    Attributes:
        views: that belong to it.
    """

    def __init__(self, writer: StoreWriter, shard: int, lock: Lock, processes: int) -> None:
        self.views = writer.spec.shard_range(shard)
        self._processes = processes
        self._writer, self._shard, self._lock = writer, shard, lock
        self._files: dict[str, ShardWriter | Hdf5ShardWriter] = {}
        self._errors: dict[str, float] = {}
        self._measured = Counter[str]()
        self._count, self._content = 0, ShardContent()

    def __enter__(self) -> "ShardClaim":
        spec, self._started = self._writer.spec, time.monotonic()
        try:
            for array in spec.arrays:
                key = shard_key(spec, array, self._shard).replace("/", ".")
                partial = self._writer._work / f"{key}.partial"
                self._files[array.name] = _shard_writer(partial, spec, array, self._shard)
        except BaseException:
            self._abandon()
            raise
        return self

    def append(self, codes: Mapping[str, np.ndarray[Any, Any]],
               errors: Mapping[str, float] | None = None) -> None:
        """Add the next view.

        Args:
            codes: of every array, in its shape and dtype.
            errors: what `encodings.measure` found for this view, by array. An array's largest error is
                known where it is given for all views.
        """
        spec = self._writer.spec
        assert self._count < len(self.views), f"shard {self._shard} has {len(self.views)} views"
        assert set(codes) == set(self._files), f"codes of {sorted(codes)}, expected {sorted(self._files)}"
        for array in spec.arrays:
            row = codes[array.name]
            if row.shape != array.shape or row.dtype != array.code_dtype:
                raise StoreError(f"{self._writer.path}: array {array.name!r} takes {array.dtype} codes of "
                                 f"shape {array.shape}, not {row.dtype.name} {row.shape}")
            self._files[array.name].append(self._count, row)
            self._content.add(self.views[self._count], array.name, row)
        for name, error in (errors or {}).items():
            bound = encoding_of(spec[name].encoding).bound
            if not error <= bound * (1 + 1e-6):  # NaN is wrong too; the error itself is rounded
                raise StoreError(f"{self._writer.path}: view {self.views[self._count]} of {name!r} is off by "
                                 f"{error:.3g}, {spec[name].encoding} promises {bound:.3g}")
            self._errors[name] = max(self._errors.get(name, 0.0), float(error))
            self._measured[name] += 1
        self._count += 1

    def extend(self, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Encode and add the next views.

        Args:
            values: as `encode_views` takes them.

        Raises:
            StoreError: values do not fit their encoding.
        """
        self.add(*encode_views(self._writer.spec, values))

    def add(self, codes: Mapping[str, np.ndarray[Any, Any]], errors: Mapping[str, float]) -> None:
        """Add the next views, which `encode_views` has encoded: it may do so for several batches at once."""
        for row in zip(*codes.values(), strict=True):
            self.append(dict(zip(codes, row, strict=True)), errors)

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
            os.replace(self._files[array.name].path, path / shard_key(spec, array, self._shard))
            sync_folder(path / array.name)
        # A largest error that leaves views out would be no largest error.
        errors = {name: error for name, error in self._errors.items() if self._measured[name] == self._count}
        self._writer._journal.add(self._shard, {
            "arrays": {name: entry._asdict() for name, entry in written.items()},
            "content": str(self._content), "errors": errors,
            "seconds": round(time.monotonic() - self._started, 3), "processes": self._processes})

    def _abandon(self) -> None:
        for file in self._files.values():
            file.abandon()
        self._lock.release()
