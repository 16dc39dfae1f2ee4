"""Ctrl-C, or a scheduler's SIGTERM, between two steps."""

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from pipeline.inform import is_main_process

if TYPE_CHECKING:
    from types import FrameType


class Interrupt:
    """While open, SIGINT and SIGTERM are only noted in `asked`; a second SIGINT raises KeyboardInterrupt.

    A KeyboardInterrupt in the middle of an optimizer's step would leave weights of two steps. SLURM sends SIGTERM
    before it kills: at a job's time limit, on preemption and by scancel, and not only once.
    """

    def __init__(self) -> None:
        self.asked = False
        self.process = os.getpid()
        self.installed = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupt":
        if self.installed:
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        if self.installed:
            for number, handler in self.before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: "FrameType | None") -> None:
        if os.getpid() != self.process:
            return  # a loader's process that has only begun: Ctrl-C reaches it as well, and it is to serve
        if self.asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.asked = True
        if not is_main_process():
            return  # one speaks for all
        again = " (again to stop at once)" if number == signal.SIGINT else ""
        print(f"Interrupted: writing a checkpoint{again}.", file=sys.stderr, flush=True)
