"""From one store to another: the same codes in another backend, or values that take less room."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from storage.base import Array, Store
from storage.encodings import encode_views, encoding_of
from storage.errors import CorruptStore, StoreError
from storage.features import codec, feature_encoding, fit_parameters, reduce, reduced_shape, reduction, sample_cells
from storage.files import local_path
from storage.manifest import Manifest, begun, seconds_to_make
from storage.reader import check_shards, open_store
from storage.spec import ArraySpec, StoreSpec
from storage.verification import verify
from storage.writer import create_store

#: Views read at a time.
BATCH = 16
#: Views that the parameters of features are fitted on.
SAMPLE = 64
HEATMAP, FEATURES, PEAKS = "heatmap", "features", "peaks"


def convert(
    source: Store, out: str | os.PathLike[str], *, backend: str | None = None,
    encodings: Mapping[str, str] | None = None, shard_views: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Manifest:
    """Writes a store again, and checks every byte of what was written.

    Without other encodings the codes are copied, and fingerprint and content stay. With others the new store has an
    identity of its own, which names the source's content as `converted_from`, and its errors are measured against
    the source's values. A killed conversion continues where it was; several may work at once.

    Args:
        source: what is converted.
        out: where to; a folder that does not exist, or an unfinished conversion.
        backend: "zarr" or "hdf5"; None keeps the source's.
        encodings: {array: encoding} of those that change.
        shard_views: views per shard; None keeps the source's, or what an unfinished conversion has.
        progress: called with views done, views in all and "views".

    Returns:
        The new store's manifest.

    Raises:
        StoreError: an encoding would need what the source has lost, `out` is something else, or the result is not
            what was meant.
        CorruptStore: the source is damaged; names the view or the file.
    """
    path, start = local_path(out), time.perf_counter()
    if path.exists() and path == source.path:
        raise StoreError(f"{path}: a store cannot be converted onto itself; name another path")
    changed = {name: encoding for name, encoding in (encodings or {}).items()
               if encoding != source.spec[name].encoding}
    for name, encoding in changed.items():
        _check(source.spec[name], encoding)
    spec = _spec(source, path, changed, backend, shard_views)
    writer = create_store(path, spec)
    if shard_views not in (None, writer.spec.shard_views):
        raise StoreError(f"{path}: the store there has {writer.spec.shard_views} views per shard, not {shard_views}. "
                         "Choose another path or remove it")
    for shard in writer.pending():
        claim = writer.claim(shard)
        if claim is None:
            continue
        with claim:
            for rows in _batches(claim.views):
                converted = _converted(source, writer.spec, list(changed), rows)
                check_shards(source, rows)
                claim.add(*converted)
                if progress:
                    progress(rows.stop, len(source), "views")
    kept = {key: source.manifest["created"][key] for key in ("flip", "code") if key in source.manifest["created"]}
    manifest = writer.finish(seconds=round(time.perf_counter() - start, 3), source=str(source.path),
                             inherited_seconds=seconds_to_make(source.manifest), **kept)
    _check_result(source, path, [array.name for array in source.spec.arrays if array.name not in changed])
    return manifest


def _check(array: ArraySpec, encoding: str) -> None:
    """Refuses an encoding that this array cannot get."""
    encoding_of(encoding, f"array {array.name!r}")
    if array.name == PEAKS or "raw" in (array.encoding, encoding):
        raise StoreError(f"array {array.name!r} is {array.encoding} in every store and has no other encoding")
    only = FEATURES if feature_encoding(encoding) else HEATMAP if encoding.startswith("u8-sqrt") else array.name
    if array.name != only:
        raise StoreError(f"array {array.name!r}: {encoding} is for {only} alone; choose another encoding")
    before, after = encoding_of(array.encoding).loses, encoding_of(encoding).loses
    grown = reduction(array.encoding) not in (reduction(encoding), (None, False))
    if grown or (before >= after and codec(array.encoding) != codec(encoding)):
        raise StoreError(f"array {array.name!r}: {array.encoding} cannot become {encoding}: the store has lost what "
                         "that would keep. Dump the teacher again with this encoding")


def _spec(source: Store, path: Path, changed: Mapping[str, str], backend: str | None,
          shard_views: int | None) -> StoreSpec:
    identity = source.spec.identity
    if changed:
        identity = {**identity, "encodings": {**identity.get("encodings", {}), **changed},
                    "converted_from": source.content}
    wanted = replace(source.spec, identity=identity, backend=backend or source.spec.backend,
                     shard_views=shard_views or source.spec.shard_views)
    found = begun(path)
    fitted = {array.name: array for array in found.arrays if array.name in changed} if found else {}  # that counts
    return replace(wanted, arrays=tuple(fitted.get(array.name) or _array(source, array, changed.get(array.name))
                                        for array in wanted.arrays))


def _array(source: Store, array: ArraySpec, encoding: str | None) -> ArraySpec:
    if encoding is None:
        return array
    if array.name != FEATURES:
        return ArraySpec(array.name, array.shape, encoding=encoding)
    kept = reduction(encoding) == reduction(array.encoding)
    # Of a map that is reduced already, only the codec is left to fit.
    fits = codec(encoding) if kept else encoding
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).round().astype(int))
    cells = [sample_cells(fits, source.decode(array.name, source.read(array.name, part)))
             for part in np.array_split(rows, -(-len(rows) // BATCH))]
    known = {key: value for key, value in array.parameters.items() if kept and key not in ("low", "step")}
    shape = array.shape if kept else reduced_shape(encoding, array.shape)
    return ArraySpec(array.name, shape, encoding=encoding,
                     parameters={**known, **fit_parameters(fits, np.concatenate(cells))})


def _converted(source: Store, spec: StoreSpec, changed: list[str],
               rows: range) -> tuple[dict[str, Array], dict[str, float]]:
    """The codes of some views in the new store, and the largest error of each array."""
    measured = {name: array["error"]["measured"] for name, array in source.manifest["arrays"].items()}
    codes = {array.name: source.read(array.name, rows) for array in source.spec.arrays}
    errors = {name: error for name, error in measured.items() if error is not None}
    if changed:
        # Which cells matter to wh_offset is read off the heatmap.
        needed = {*changed, *({HEATMAP} if "wh_offset" in changed else ())}
        values = {name: source.decode(name, codes[name]) for name in needed}
        for name in changed:
            if reduction(spec[name].encoding) != reduction(source.spec[name].encoding):
                values[name] = reduce(spec[name], values[name])
        encoded, found = encode_views(spec, values)
        codes.update({name: encoded[name] for name in changed})
        errors.update({name: found[name] for name in changed})
    return codes, errors


def _check_result(source: Store, path: Path, copied: list[str]) -> None:
    report = verify(path)
    if not report.ok:
        raise CorruptStore(f"{path}: the conversion is not sound: {report.problems[0]}. Delete it and convert again")
    result = open_store(path)
    for name in copied:
        for rows in _batches(range(len(source))):
            if source.read(name, rows).tobytes() != result.read(name, rows).tobytes():
                raise CorruptStore(f"{path}: views {rows.start} to {rows[-1]} of {name!r} are not those of "
                                   f"{source.path}. Delete it and convert again")


def _batches(views: range) -> Iterator[range]:
    return (views[at : at + BATCH] for at in range(0, len(views), BATCH))
