"""Decoding a batch with all cores, where nobody else does."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

T = TypeVar("T")

THREADS = min(4, os.cpu_count() or 1)
#: Less than this is decoded before another thread has woken up.
LEAST_BYTES = 2**20


def in_parts(work: Callable[[Sequence[T]], None], items: Sequence[T], nbytes: int) -> None:
    """Calls `work` with parts of `items` that make up all of them, at once or one after the other.

    A loader's worker works alone: there is already one worker per core.

    Args:
        nbytes: that all items decode to.

    Raises:
        Exception: the first that `work` raised; all parts have ended by then.
    """
    if THREADS == 1 or nbytes < LEAST_BYTES or multiprocessing.parent_process() is not None:
        work(items)
        return
    parts = [items[number::THREADS] for number in range(THREADS)]
    others = [_pool(os.getpid()).submit(work, part) for part in parts[1:]]
    try:
        work(parts[0])
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error:
            raise error


@cache
def _pool(_process: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork, so every process has its own.
    return ThreadPoolExecutor(THREADS - 1, "storage")
