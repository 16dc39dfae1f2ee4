"""What every store can do, whatever holds its bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from storage.manifest import Manifest
from storage.spec import StoreSpec

Array = np.ndarray[Any, np.dtype[Any]]
Indices = Sequence[int] | np.ndarray[Any, np.dtype[np.integer[Any]]]


class Store(Protocol):
    """A finished store, open for reading; it may be pickled, forked and used by several threads."""

    @property
    def path(self) -> Path | str:
        """Its folder, or its URL where it is read from elsewhere."""
        ...

    @property
    def spec(self) -> StoreSpec: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def fingerprint(self) -> str:
        """Of what was asked for: sha256 of the identity and the arrays."""
        ...

    @property
    def content(self) -> str:
        """Of what is stored; of two stores of one fingerprint it differs where other code or another machine wrote."""
        ...

    def __len__(self) -> int:
        """Views."""
        ...

    def read(self, array: str, indices: Indices, out: Array | None = None) -> Array:
        """The stored codes (n, *shape) of n views, in the order asked.

        Args:
            indices: views, each in [0, len(store)); repetitions are fine.
            out: written to and returned instead of a new array: C-contiguous, of the same shape
                and dtype.

        Raises:
            IndexError: an index is outside of the store.
            CorruptStore: a view asked for is damaged or missing; names it. `out` is then undefined.
            RemoteError: the store is elsewhere and cannot be read from there.
        """
        ...

    def check_shard(self, array: str, shard: int) -> None:
        """Looks at every byte of an array's shard, once: `read` knows of its views only that each is whole.

        Raises:
            CorruptStore: its file is not the one that was written.
        """
        ...

    def decode(self, array: str, codes: Array) -> Array:
        """The float32 values that codes (…, *shape) stand for."""
        ...
