"""What a dump takes over from an older one, whose views come first among those that are wanted now."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.inference.sampling import Sample
from storage import ShardClaim, Store, StoreError, StoreSpec, copy_views, open_store

if TYPE_CHECKING:
    from pipeline.data.recorded import RecordedViews


def older_dump(paths: Iterable[Path], wanted: StoreSpec, views: "RecordedViews", code: str) -> Store | None:
    """Of the stores at `paths`, the one with the most views that a dump may copy.

    It is of the same teacher and params (its identity is that of `wanted` but for data and views), the same code
    wrote it, and all its views come first in `views`, or are all of them.
    """
    found, known = [], {**views.grown_from, views.fingerprint: len(views)}
    for path in paths:
        try:
            store = open_store(path)
        except (StoreError, OSError):
            continue
        identity = store.spec.identity
        if (_kept(identity) == _kept(wanted.identity) and store.manifest["created"].get("code") == code
                and known.get(identity["views"]) == len(store)):
            found.append(store)
    return max(found, key=len, default=None)


def _kept(identity: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in ("data", "views")}


def sample_of(old: Store) -> Sample:
    """What the sample of an older dump said."""
    fitted = {array.name: array.parameters for array in old.spec.arrays}.get("features", {})
    return Sample(fitted, old.spec.attributes["flip"])


def taken_over(claim: ShardClaim, old: Store) -> int:
    """Copies the views of a shard that an older dump has, and says so where one of them is damaged.

    Returns:
        How many views of the shard need not be computed.
    """
    copied = copy_views(claim, old)
    if copied < len(claim.views[: max(0, len(old) - claim.views.start)]):
        row = claim.views.start + copied
        warnings.warn(f"{old.path}: the shard of view {row} is damaged. Views {row} to {claim.views[-1]} are computed "
                      f"again; 'pipeline store verify {old.path}' says more.", stacklevel=2)
    return copied
