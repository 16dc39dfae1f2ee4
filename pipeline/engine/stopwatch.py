"""How long a device works."""

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stopwatch:
    """Sums the seconds in which a device does what it was told while the watch runs.

    A GPU does it later than it is told, so there the time is taken by events among its work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._seconds = device, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> "Iterator[None]":
        """What is told in here counts."""
        if self.device.type == "cuda":
            before, after = (_event() for _ in range(2))
            before.record(torch.cuda.current_stream(self.device))
            yield
            after.record(torch.cuda.current_stream(self.device))
            self._events.append((before, after))
        else:
            began = monotonic()
            yield
            self._seconds += monotonic() - began

    def read(self) -> float:
        """Waits until the device has done everything; gives the seconds since the last reading."""
        if self._events:
            torch.cuda.synchronize(self.device)
        seconds = self._seconds + sum(float(before.elapsed_time(after)) for before, after in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
