"""What is stored, in one sha256: the same whatever the shards, the compressor and the backend.

A fingerprint says what was asked for. Corrected code or another machine may store something else for it, and what was
made from that is stale.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from storage.spec import canonical, fingerprint

_END = 2**256


class ShardContent:
    """The content of a shard: the sum of the sha256s of all views' codes, so that shards may be cut anywhere."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, view: int, array: str, codes: "np.ndarray[Any, Any]") -> None:
        """Counts the codes of one view, once."""
        digest = hashlib.sha256(canonical([view, array]).encode())
        digest.update(np.ascontiguousarray(codes).data)
        self._sum = (self._sum + int.from_bytes(digest.digest())) % _END

    def __str__(self) -> str:
        return f"{self._sum:064x}"


def content_of(store: str, shards: Iterable[str]) -> str:
    """Of a store with this fingerprint, from the contents of its shards."""
    total = sum(int(shard, 16) for shard in shards) % _END
    return fingerprint([store, f"{total:064x}"])
