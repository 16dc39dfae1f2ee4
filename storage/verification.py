"""Is a store whole? Every byte of it is looked at, and every problem is named."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.content import ShardContent
from storage.errors import CorruptStore, RemoteError, StoreError
from storage.files import is_url
from storage.layout import documents, shard_key
from storage.manifest import NAME, WORK
from storage.reader import LocalStore, ShardedStore, open_unchecked
from storage.spec import ArraySpec, StoreSpec

#: Views that are read at once, for each request to a server takes its time; fewer where they are large.
_VIEWS, _BYTES = 64, 2**26


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        path: of the store.
        problems: one line each; empty for a sound store.
        bad_views: views of which some array cannot be read, ascending.
        views, bytes: what the manifest says there is; 0 where it cannot be read.
        fingerprint: of the store, "" where the manifest cannot be read.
    """

    path: Path | str
    problems: list[str]
    bad_views: list[int]
    views: int = 0
    bytes: int = 0
    fingerprint: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: str | os.PathLike[str]) -> Report:
    """Check the manifest, the metadata, and of every shard length, checksums and each view.

    Raises:
        RemoteError: the store is elsewhere and cannot be read from there.
    """
    try:
        store = open_unchecked(path)
    except RemoteError:
        raise
    except StoreError as error:
        return Report(path if is_url(path) else Path(os.path.abspath(path)), [str(error)], [])
    spec, bad, problems = store.spec, set[int](), store.check_files()
    if isinstance(store, LocalStore):  # elsewhere not every server lists its files
        problems += [f"{store.path / name}: does not belong to the store" for name in _strangers(store.path, spec)]
    for shard in range(spec.shards):
        before, content = len(problems), ShardContent()
        for array in spec.arrays:
            if found := _check_views(store, array, shard, bad, content):
                problems += found
                continue
            try:  # the views are sound, and so are tag and index; but are they what was written?
                store.check_shard(array.name, shard)
            except CorruptStore as error:
                problems.append(f"{error}, that of every view is right")
        # Where something else is wrong, the content is too, or cannot be told.
        if len(problems) == before and str(content) != store.manifest["shards"][shard]["content"]:
            problems.append(f"{store.path}: the content of shard {shard} is not what the manifest says")
    return Report(store.path, problems, sorted(bad), spec.views, store.manifest["counts"]["bytes"], spec.fingerprint)


def _check_views(store: ShardedStore, array: ArraySpec, shard: int, bad: set[int], content: ShardContent) -> list[str]:
    """What is wrong with the views of a shard: they go to `content`, those that cannot be read to `bad`."""
    problems: list[str] = []
    views, step = store.spec.shard_range(shard), max(1, min(_VIEWS, _BYTES // array.nbytes))
    rows = np.empty((step, *array.shape), array.code_dtype)
    for start in views[::step]:
        some = views[start - views.start :][:step]
        try:
            store.read(array.name, some, rows[: len(some)])
            for view, codes in zip(some, rows[: len(some)], strict=True):
                content.add(view, array.name, codes)
        except (CorruptStore, OSError):
            for view in some:
                try:
                    store.read(array.name, [view], rows[:1])
                except (CorruptStore, OSError) as error:
                    bad.add(view)
                    if str(error) not in problems:  # a shard that cannot be opened says so once
                        problems.append(str(error))
    return problems


def _strangers(path: Path, spec: StoreSpec) -> list[str]:
    known = {NAME, *documents(spec), *(array.name for array in spec.arrays)}
    known |= {shard_key(spec, array, shard) for array in spec.arrays for shard in range(spec.shards)}
    found = (str(file.relative_to(path)) for file in path.rglob("*"))
    # What is left of WORK belongs to a writer that was killed before it had tidied up, or comes late.
    return sorted(name for name in found if name not in known and not name.startswith(WORK))
