"""Ctrl-C between two steps."""

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


class Interrupt:
    """While open, the first SIGINT is only noted in `asked`; a second one raises KeyboardInterrupt.

    A KeyboardInterrupt in the middle of an optimizer's step would leave weights of two steps.
    """

    def __init__(self) -> None:
        self.asked = False
        self.process = os.getpid()
        self.installed = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "Interrupt":
        if self.installed:
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, self.before)

    def _note(self, number: int, frame: "FrameType | None") -> None:
        if os.getpid() != self.process:
            return  # a loader's process: Ctrl-C reaches it as well, and it serves until the end
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("Interrupted: writing a checkpoint (again to stop at once).", file=sys.stderr, flush=True)
