"""Is a store whole? Every byte of it is looked at, and every problem is named."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage import manifest as manifests
from storage.errors import CorruptStore, StoreError
from storage.layout import documents, shard_key
from storage.manifest import NAME
from storage.reader import LocalStore, store_of
from storage.shards import ShardFile
from storage.spec import StoreSpec


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

    path: Path
    problems: list[str]
    bad_views: list[int]
    views: int = 0
    bytes: int = 0
    fingerprint: str = ""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: str | os.PathLike[str]) -> Report:
    """Check the manifest, the metadata, and of every shard length, checksums and each view."""
    path = Path(os.path.abspath(path))
    try:
        manifest, spec = manifests.load(path)
    except StoreError as error:
        return Report(path, [str(error)], [])
    problems = manifests.check_files(path, manifest)
    problems += [f"{path / name}: does not belong to the store" for name in _strangers(path, spec)]
    store, bad = store_of(path, manifest, spec), set[int]()
    for shard, entry in enumerate(manifest["shards"]):
        for array in spec.arrays:
            found = _check_shard(store, array.name, shard, bad)
            if not found:  # the views are sound; so are tag and index, but not what lies between
                file = f"{path}/{shard_key(spec, array, shard)}"
                expected = entry["arrays"][array.name]
                if ShardFile(file, expected["bytes"]).checksum() != expected["crc32c"]:
                    found = [f"{file}: the checksum of the file is wrong, that of every view is right"]
            problems += found
    return Report(path, problems, sorted(bad), spec.views, manifest["counts"]["bytes"], spec.fingerprint)


def _check_shard(store: LocalStore, array: str, shard: int, bad: set[int]) -> list[str]:
    problems: list[str] = []
    spec, views = store.spec[array], store.spec.shard_range(shard)
    row = np.empty((1, *spec.shape), spec.code_dtype)
    for view in views:
        try:
            store.read(array, [view], row)
        except (CorruptStore, OSError) as error:
            bad.add(view)
            if str(error) not in problems:  # a shard that cannot be opened says so once
                problems.append(str(error))
    return problems


def _strangers(path: Path, spec: StoreSpec) -> list[str]:
    known = {NAME, *documents(spec), *(array.name for array in spec.arrays)}
    known |= {shard_key(spec, array, shard) for array in spec.arrays for shard in range(spec.shards)}
    return sorted(name for file in path.rglob("*") if (name := str(file.relative_to(path))) not in known)
