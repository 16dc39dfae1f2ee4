"""manifest.json, the last file that is written: a folder without it is no finished store.

It protects itself: its text is the one rendering of its content, the content holds the sha256
of the rest, and it lists length and sha256 of every other file.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.encodings import encoding_of
from storage.errors import CorruptStore, FormatError, IncompleteStore, StoreError
from storage.files import read_start
from storage.journal import finished
from storage.layout import documents
from storage.spec import StoreSpec, fingerprint

FORMAT = "centernet-distill store"
VERSION = 3
NAME = "manifest.json"
WORK = ".writing"  # an unfinished store's journals, locks and temporary files
BEGUN = "spec.json"
#: A crafted text may take 30 times as much memory when it is parsed.
MAX_BYTES = 2**24
ENTRY_BYTES = 320  # that a manifest needs for a shard of an array, at most

Manifest = dict[str, Any]


def render(content: dict[str, Any]) -> bytes:
    """The one text of a document: `content` with its checksum."""
    return json.dumps({**content, "checksum": fingerprint(content)}, indent=1, sort_keys=True,
                      allow_nan=False).encode() + b"\n"


def seconds_to_make(manifest: Manifest) -> float:
    """What a store cost: seconds of writing its shards, by the processes that shared them, and of what it took over."""
    created = manifest["created"]
    # Older manifests know the processes of the last run alone.
    shared = created.get("shared_seconds", created["shard_seconds"] / created.get("processes", 1))
    return float(shared + created.get("inherited_seconds", 0.0))


def parse(raw: bytes) -> dict[str, Any]:
    """Inverse of `render`.

    Raises:
        CorruptStore: `raw` is not exactly what `render` writes.
    """
    try:
        content = json.loads(raw)
        content.pop("checksum")
        if render(content) == raw:
            return dict(content)
    except (ValueError, AttributeError, KeyError, RecursionError):
        pass
    raise CorruptStore("was damaged or edited: its checksum does not fit")


def build(spec: StoreSpec, shards: list[dict[str, Any]], files: dict[str, bytes],
          created: dict[str, Any]) -> Manifest:
    """The manifest of a finished store.

    Args:
        shards: in order, {"arrays": {name: {"bytes", "sha256"}}, "content", "errors": {name: largest}}.
        files: the other files of the store by path.
        created: when, at what cost, by what; the only part that differs between two equal stores.
    """
    arrays: dict[str, Any] = {}
    for array in spec.arrays:
        encoding = encoding_of(array.encoding)
        errors = [shard["errors"][array.name] for shard in shards if array.name in shard["errors"]]
        arrays[array.name] = {
            "bytes": sum(shard["arrays"][array.name]["bytes"] for shard in shards),
            "error": {"bound": encoding.bound, "unit": encoding.unit,
                      # A largest error that leaves views out would be no largest error.
                      "measured": (0.0 if array.encoding == "raw" else
                                   max(errors, default=None) if len(errors) == len(shards) else None)}}
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": spec.fingerprint,
        "spec": spec.to_json(),
        "counts": _counts(spec, shards),
        "arrays": arrays,
        "shards": [{"content": shard["content"], "arrays": shard["arrays"]} for shard in shards],
        "files": {path: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                  for path, data in files.items()},
        "created": created,
    }


def load(path: Path) -> tuple[Manifest, StoreSpec]:
    """Read and check the manifest of the store at `path`.

    Raises:
        IncompleteStore: there is none yet.
        FormatError: it is of another program, or of another version of this one.
        CorruptStore: it is damaged.
    """
    raw = read_start(path / NAME, MAX_BYTES + 1)
    if raw is None:
        raise IncompleteStore(f"{path}: {_state(path)}")
    return from_bytes(raw, str(path / NAME))


def from_bytes(raw: bytes, file: str) -> tuple[Manifest, StoreSpec]:
    """The manifest that `raw` is the text of.

    Args:
        file: where it was read, for messages.

    Raises:
        FormatError: it is of another program, or of another version of this one.
        CorruptStore: it is damaged.
    """
    try:
        if len(raw) > MAX_BYTES:
            raise CorruptStore(f"has more than {MAX_BYTES} bytes")
        manifest = _parse_checked(raw)
        spec = StoreSpec.from_json(manifest["spec"])
        _check(manifest, spec)
    except FormatError as error:
        raise FormatError(f"{file}: {error}; use the program that wrote it, or write the store anew") from None
    except StoreError as error:
        raise CorruptStore(f"{file}: {error}") from None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CorruptStore(f"{file}: is not built as a manifest: {error!r}") from None
    return manifest, spec


def _state(path: Path) -> str:
    if not path.exists():
        return "there is no store"
    if (found := unfinished(path)) is None:
        return f"there is no {NAME}, so this is no finished store"
    manifest, spec, _ = found
    return (f"this store is not finished, {manifest['counts']['shards']} of {spec.shards} shards are written; run the "
            "command that writes it again, it continues where it stopped")


def render_begun(spec: StoreSpec) -> bytes:
    """What is known of a store from its first moment on: a document for WORK/BEGUN."""
    return render({"format": FORMAT, "version": VERSION, "spec": spec.to_json()})


def load_begun(path: Path) -> StoreSpec:
    """The spec of an unfinished store.

    Raises:
        FormatError: another version of this program began it.
        CorruptStore: it is damaged.
    """
    file = path / WORK / BEGUN
    try:
        raw = read_start(file, MAX_BYTES + 1) or b""
        if len(raw) > MAX_BYTES:
            raise CorruptStore(f"has more than {MAX_BYTES} bytes")
        return StoreSpec.from_json(_parse_checked(raw)["spec"])
    except FormatError as error:
        raise FormatError(f"{file}: {error}; remove {path} and write the store anew") from None
    except (StoreError, KeyError, TypeError) as error:
        raise CorruptStore(f"{file}: {error}; remove {path} and write the store anew") from None


def begun(path: str | os.PathLike[str]) -> StoreSpec | None:
    """The spec of the store at `path`, finished or not; None where nobody has begun one.

    Raises:
        FormatError: another version of this program began it.
        CorruptStore: its metadata is damaged.
    """
    path = Path(path)
    if (path / NAME).exists():
        return load(path)[1]
    return load_begun(path) if (path / WORK / BEGUN).exists() else None


def unfinished(path: Path) -> tuple[Manifest, StoreSpec, int] | None:
    """How far the unfinished store at `path` is; None where nobody has begun one.

    Returns:
        The manifest of the shards that are written, the spec, and the views in those shards.

    Raises:
        FormatError: another version of this program began it.
        CorruptStore: its metadata is damaged.
    """
    if not (path / WORK / BEGUN).exists():
        return None
    spec = load_begun(path)
    done = finished(path / WORK, path, spec)
    return build(spec, list(done.values()), {}, {}), spec, sum(len(spec.shard_range(shard)) for shard in done)


def _parse_checked(raw: bytes) -> dict[str, Any]:
    version = _version(raw)
    if version != VERSION:
        raise FormatError(f"format version is {version!r}, this program reads {VERSION}")
    return parse(raw)


def _version(raw: bytes) -> Any:
    """Looked at before the checksum: another version may compute that in another way."""
    try:
        head = json.loads(raw)
        return head["version"] if head["format"] == FORMAT else head["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CorruptStore("is not readable") from None


def _check(manifest: Manifest, spec: StoreSpec) -> None:
    names = {array.name for array in spec.arrays}
    if manifest["fingerprint"] != spec.fingerprint:
        raise CorruptStore("its fingerprint is not that of its spec")
    if len(manifest["shards"]) != spec.shards:
        raise CorruptStore(f"lists {len(manifest['shards'])} shards, expected {spec.shards}")
    for shard in manifest["shards"]:
        if set(shard["arrays"]) != names:
            raise CorruptStore("a shard does not list the arrays of the spec")
        if not re.fullmatch("[0-9a-f]{64}", shard["content"]):
            raise CorruptStore("a shard does not say what it holds")
        for entry in shard["arrays"].values():
            if set(entry) != {"bytes", "sha256"} or not _is_count(entry["bytes"]):
                raise CorruptStore("a shard does not have a length and a sha256")
    if manifest["counts"] != _counts(spec, manifest["shards"]):
        raise CorruptStore("its counts are not those of its shards")
    _check_arrays(manifest, names)
    _check_created(manifest["created"])
    if set(manifest["files"]) != set(documents(spec)) or any(
            set(entry) != {"bytes", "sha256"} or not _is_count(entry["bytes"]) for entry in manifest["files"].values()):
        raise CorruptStore("does not list the files beside the shards")


def _check_arrays(manifest: Manifest, names: set[str]) -> None:
    if set(manifest["arrays"]) != names:
        raise CorruptStore("does not say of each array how it is kept")
    for name, entry in manifest["arrays"].items():
        error = entry["error"]
        if entry["bytes"] != sum(shard["arrays"][name]["bytes"] for shard in manifest["shards"]):
            raise CorruptStore(f"its bytes of {name!r} are not those of the shards")
        if not _is_amount(error["bound"]) or not isinstance(error["unit"], str) or not (
                error["measured"] is None or _is_amount(error["measured"])):
            raise CorruptStore(f"does not say how large the errors of {name!r} are")


def _check_created(created: dict[str, Any]) -> None:
    """What is read of it; it may say more."""
    flip, processes = created.get("flip"), created.get("processes", 1)
    if not all(_is_amount(created.get(key, 0)) for key in ("shard_seconds", "shared_seconds", "inherited_seconds")) or (
            "shard_seconds" not in created or not _is_count(processes) or processes < 1):
        raise CorruptStore("does not say what the store cost")
    if flip is not None and (not {"views", "error"} <= set(flip) or not all(map(_is_amount, flip.values()))):
        raise CorruptStore("does not say what a mirror changes")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def _counts(spec: StoreSpec, shards: list[dict[str, Any]]) -> dict[str, int]:
    return {"views": spec.views, "shards": len(shards),
            "bytes": sum(entry["bytes"] for shard in shards for entry in shard["arrays"].values())}


def check_files(where: str, manifest: Manifest, read: Callable[[str, int], bytes | None]) -> list[str]:
    """What is wrong with the metadata files beside the manifest, one line each.

    Args:
        where: path or address of the store, for messages.
        read: (name, most) -> the file's first `most` bytes, None where there is no such file.
    """
    problems = []
    for name, entry in manifest["files"].items():
        data = read(name, min(entry["bytes"], MAX_BYTES) + 1)
        if data is None:
            problems.append(f"{where}/{name}: is missing")
        elif len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            problems.append(f"{where}/{name}: was damaged or edited: its checksum does not fit")
    return problems
