"""Answers of `pipeline store`, and how people read them."""

import os
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from stages.inputs import store_exists
from storage import IncompleteStore, StoreError, open_store, unfinished, verify

SHOWN = 20  # problems that people are shown
#: The backend that a name's ending asks for.
ENDINGS = {".zarr": "zarr", ".h5": "hdf5", ".hdf5": "hdf5"}


def info(path: Path | str) -> dict[str, Any]:
    """What a store holds, in what form, and where it came from; an unfinished one says how far it is.

    Raises:
        UserError: there is no store.
        StoreError: its metadata is damaged.
    """
    store_exists(path)
    try:
        store = open_store(path)
        manifest, spec, views, complete, content = store.manifest, store.spec, len(store), True, store.content
    except IncompleteStore:
        found = None if isinstance(path, str) else unfinished(path)
        if found is None:
            raise
        manifest, spec, views = found
        complete, content = False, ""
    written, arrays = manifest["counts"]["bytes"], {}
    for array in spec.arrays:
        about = manifest["arrays"][array.name]
        arrays[array.name] = {
            "shape": list(array.shape), "dtype": str(array.code_dtype), "encoding": array.encoding,
            "bytes": about["bytes"], "bytes_per_view": round(about["bytes"] / max(views, 1)), "error": about["error"],
        }
    return {
        "path": str(path), "backend": spec.backend, "complete": complete, "views": spec.views, "shards": spec.shards,
        "shards_written": len(manifest["shards"]), "shard_views": spec.shard_views,
        "bytes": written, "bytes_per_view": round(written / max(views, 1)),
        "fingerprint": spec.fingerprint, "content": content, "arrays": arrays, "identity": dict(spec.identity),
        "licence": spec.attributes.get("licence"), "attributes": dict(spec.attributes), "created": manifest["created"],
    }


def info_lines(answer: Mapping[str, Any]) -> list[str]:
    """`info` for people."""
    shards = f"{answer['shards_written']:,} of {answer['shards']:,} shards"
    lines = [
        f"path: {answer['path']} ({answer['backend']})",
        f"complete: {'yes' if answer['complete'] else 'no'}, {shards} of {answer['shard_views']:,} views",
        f"views: {answer['views']:,}",
        f"bytes: {_size(answer['bytes'])}, {_size(answer['bytes_per_view'])} per view",
        "arrays:",
    ]
    rows = [("", "of a view", "encoding", "per view", "in all", "largest error", "bound")]
    for name, array in answer["arrays"].items():
        error = array["error"]
        rows.append((name, f"{'x'.join(map(str, array['shape'])) or 'one'} {array['dtype']}", array["encoding"],
                     _size(array["bytes_per_view"]), _size(array["bytes"]), _number(error["measured"]),
                     f"{_number(error['bound'])} {error['unit']}" if error["bound"] else "exact"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += [f"fingerprint: {answer['fingerprint']}", f"content: {answer['content'] or 'not known yet'}", "made from:"]
    lines += [f"  {key}: {_value(value)}" for key, value in answer["identity"].items()]
    if known := answer["attributes"].get("known"):
        lines.append(f"classes that teachers know: {', '.join(known)}")
    if answer["licence"]:
        lines.append(f"licence of the data: {answer['licence']}")
    if answer["created"]:
        lines.append(f"created: {_value(answer['created'])}")
    return lines


def check(path: Path | str) -> dict[str, Any]:
    """Every problem of a store; raises nothing for a damaged one.

    Raises:
        UserError: there is no store.
        StoreError: it is not finished, or it is elsewhere and cannot be reached.
    """
    store_exists(path)
    try:
        open_store(path)
    except IncompleteStore:
        raise
    except StoreError:
        pass  # a damaged store: `verify` says so
    report = verify(path)
    return {"path": str(path), "ok": report.ok, "views": report.views, "bytes": report.bytes,
            "fingerprint": report.fingerprint, "bad_views": report.bad_views, "problems": report.problems}


def check_lines(answer: Mapping[str, Any]) -> list[str]:
    """`check` for people."""
    lines = [f"path: {answer['path']}", f"ok: {'yes' if answer['ok'] else 'no'}"]
    if answer["fingerprint"]:  # the manifest could be read
        bad = answer["bad_views"]
        named = f"{', '.join(ranges(bad))} ({len(bad):,} of {answer['views']:,})" if bad else "-"
        lines += [f"views: {answer['views']:,}", f"bytes: {_size(answer['bytes'])}",
                  f"fingerprint: {answer['fingerprint']}", f"bad views: {named}"]
    problems = answer["problems"]
    if problems:
        lines += ["problems:", *(f"  - {problem}" for problem in problems[:SHOWN])]
    if len(problems) > SHOWN:
        lines.append(f"  - and {len(problems) - SHOWN:,} more: --json lists all")
    return lines + (live_lines(answer["live"]) if "live" in answer else [])


def live_lines(found: Mapping[str, Any]) -> list[str]:
    """What `stages.verify_live` found, for people."""
    from pipeline.verification import LEAST_COSINE, MOST_AP, MOST_LOSS

    apart = found["ap_difference"]
    boxes = "no object counts in these views" if apart is None else (
        f"{apart:.3f} (below {MOST_AP:g}): {found['ap_stored']:.2f} from the store, {found['ap_exact']:.2f} live; "
        f"{found['ap_maps']:.2f} from its maps without the peaks")
    return [
        f"live: {found['views']} views of seed {found['seed']}, {'within' if found['ok'] else 'NOT within'} the bounds",
        f"  loss difference: {100 * found['loss_difference']:.3f} % (below {100 * MOST_LOSS:g} %)",
        f"  gradient cosine: {found['gradient_cosine']:.6f} (above {LEAST_COSINE:g})",
        f"  AP difference: {boxes}",
        f"  at the outputs of: {found['student']}, W = {found['weights']}",
    ]


def convert(source: Path | str, out: Path | str, *, backend: str | None, encodings: Iterable[str],
            shard_views: int | None) -> dict[str, Any]:
    """Writes a store again and checks it; says what was written and what that takes.

    Args:
        backend: of the new store; None goes by the ending of `out`.
        encodings: "ARRAY=NAME" of those that change.

    Raises:
        UserError: there is no store, or an encoding is not given as ARRAY=NAME.
        StoreError: as of `storage.convert`.
    """
    from pipeline.errors import UserError
    from pipeline.inform import progress_bar
    from storage import convert

    chosen = {}
    for given in encodings:
        array, equals, name = given.partition("=")
        if not (array and equals and name):
            raise UserError(f"--encoding {given!r}: expected ARRAY=NAME, e.g. heatmap=u8-sqrt-sparse.")
        chosen[array] = name
    store_exists(source)
    store = open_store(source)
    with progress_bar("store convert") as progress:
        manifest = convert(store, out, backend=backend or ENDINGS.get(os.path.splitext(out)[1]), encodings=chosen,
                           shard_views=shard_views, progress=progress)
    counts = manifest["counts"]
    return {"path": str(out), "backend": manifest["spec"]["backend"], "views": counts["views"],
            "bytes": counts["bytes"], "bytes_before": store.manifest["counts"]["bytes"],
            "fingerprint": manifest["fingerprint"], "same_content": open_store(out).content == store.content}


def ranges(numbers: Iterable[int]) -> list[str]:
    """Ascending numbers with neighbours joined: 4, 5, 6, 7, 12 are "4-7", "12"."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def _value(value: Any) -> str:
    """JSON on one line, as a person would write it; long lists keep their ends."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list):
        shown = [*value[:30], "…", *value[-2:]] if len(value) > 40 else value
        return f"[{', '.join(map(_value, shown))}]"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
