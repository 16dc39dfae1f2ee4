"""Loading ahead: threads make the next batches while this one is computed."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

#: Decoding and rendering release the interpreter lock; few threads keep any network busy.
THREADS = min(4, os.cpu_count() or 1)


def prefetched(make: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """make(item) for each item in order, a few items ahead of what is asked for.

    Raises:
        Exception: what `make` raised for an item, when its turn comes.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        coming: deque[Future[U]] = deque(pool.submit(make, item) for item in islice(waiting, THREADS + 1))
        try:
            while coming:
                result = coming.popleft().result()
                coming.extend(pool.submit(make, item) for item in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
