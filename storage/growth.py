"""Stores that grow: a new store whose first views are those of an older one, copied and not computed again."""

from storage.base import Store
from storage.errors import CorruptStore
from storage.reader import check_shards
from storage.spec import StoreSpec
from storage.writer import ShardClaim


def continues(old: Store, spec: StoreSpec) -> bool:
    """Whether the codes of an older store are what a store of `spec` would keep of the same views."""
    errors = (array["error"] for array in old.manifest["arrays"].values())
    return (old.spec.arrays == spec.arrays and len(old) <= spec.views
            and all(error["measured"] is not None for error in errors))


def copy_views(claim: ShardClaim, old: Store) -> int:
    """Adds to a claimed shard the views that an older store has in the same rows.

    Every byte of the shards that they are in is checked. The largest error that was measured in the older store counts
    for each.

    Args:
        claim: of a store that `old` continues, inside its `with`, before its first view.

    Returns:
        How many were added: fewer than `old` has where it is damaged; what follows is left out too.
    """
    names = [array.name for array in old.spec.arrays]
    errors = {name: old.manifest["arrays"][name]["error"]["measured"] for name in names}
    views = claim.views[: max(0, len(old) - claim.views.start)]
    for copied, view in enumerate(views):
        try:
            check_shards(old, [view])
            codes = {name: old.read(name, [view])[0] for name in names}
        except CorruptStore:
            return copied
        claim.append(codes, errors)
    return len(views)
