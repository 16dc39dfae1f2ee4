"""Answers of `pipeline store`."""

from pathlib import Path
from typing import Any

from storage import StoreError, open_store, verify

SHOWN = 20  # views that are listed by number


def info(path: Path) -> dict[str, Any]:
    """What a store holds, in what form, and where it came from."""
    store = open_store(path)
    manifest, views = store.manifest, max(len(store), 1)
    arrays = {}
    for array in store.spec.arrays:
        about = manifest["arrays"][array.name]
        arrays[array.name] = {
            "shape": list(array.shape), "dtype": str(array.code_dtype), "encoding": array.encoding,
            "bytes": about["bytes"], "bytes_per_view": round(about["bytes"] / views), "error": about["error"],
        }
    return {
        "path": str(path), "views": len(store), "shards": manifest["counts"]["shards"],
        "bytes": manifest["counts"]["bytes"], "bytes_per_view": round(manifest["counts"]["bytes"] / views),
        "fingerprint": store.fingerprint, "arrays": arrays, "identity": dict(store.spec.identity),
        "attributes": dict(store.spec.attributes), "created": manifest["created"],
    }


def check(path: Path) -> dict[str, Any]:
    """Every problem of a store; raises nothing for a damaged one."""
    if not path.exists():
        raise StoreError(f"{path} does not exist.")
    report = verify(path)
    bad = report.bad_views
    shown = [*bad[:SHOWN], f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else bad
    return {"path": str(path), "ok": report.ok, "views": report.views, "bytes": report.bytes,
            "fingerprint": report.fingerprint, "bad_views": shown, "problems": report.problems}
