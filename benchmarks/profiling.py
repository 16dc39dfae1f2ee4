"""Where the time of reading one view goes: part of `make bench-store`."""

import cProfile
import pstats
from collections.abc import Sequence

from common import Row
from reading import Contender

#: Functions of C, by what cProfile calls them.
PARTS = {"decompressing": "blosc.decompress", "pread": "posix.pread", "crc32c": "_crc32c.crc32c"}
NUMCODECS = "numcodecs/compat.py"


def read_profile(name: str, store: Contender, rows: Sequence[int]) -> list[Row]:
    """Milliseconds of a view in each part, views read one by one (on one core: a single view has no threads).

    A profiler slows Python down and leaves C alone, so that the share of Python is its upper bound.
    """
    profile = cProfile.Profile()
    for view in rows:
        store.read([view])  # warm
    profile.enable()
    for view in rows:
        store.read([view])
    profile.disable()
    spent = dict.fromkeys((*PARTS, "numcodecs' checks of its arguments", "the rest"), 0.0)
    for (file, _, function), (_, _, own, *_) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        part = next((part for part, known in PARTS.items() if known in function), "the rest")
        spent["numcodecs' checks of its arguments" if file.endswith(NUMCODECS) else part] += own
    return [Row(f"{name}: u8, ms of a view in {part}", 1e3 * seconds / len(rows)) for part, seconds in spent.items()]
