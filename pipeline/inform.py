"""Who speaks, and progress of long work on stderr: a bar for a person, a line now and then for a log."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

#: Called with (done, total, what): what is being worked on, or "".
Progress = Callable[[int, int, str], None]

QUIET_SECONDS = 30.0


def no_progress(done: int, total: int, what: str) -> None:
    """The Progress that shows nothing."""


def is_main_process() -> bool:
    """True but in the helper processes of a launcher (torchrun, SLURM, Fabric)."""
    # Fabric's own helpers in a SLURM job without srun have the SLURM_PROCID of the job's script.
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next(filter(None, ranks), "0")) == 0


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Gives a `progress(done, total, what)` that shows a tqdm bar on a terminal, else a line per 30 s.

    Of several processes, that of the main one alone shows anything.
    """
    if not is_main_process():
        yield no_progress
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=label, dynamic_ncols=True) as bar:

            def draw(done: int, total: int, what: str) -> None:
                if bar.total is None:  # what was done before says nothing of this run's speed
                    bar.initial = bar.n = done
                bar.total = total
                bar.set_postfix_str(what, refresh=False)
                bar.update(done - bar.n)

            yield draw
        return

    spoke = monotonic()
    begun: tuple[int, float] | None = None

    def say(done: int, total: int, what: str) -> None:
        nonlocal begun, spoke
        now = monotonic()
        before, since = begun = begun or (done, now)  # what was done before says nothing of this run's speed
        if done < total and now - spoke < QUIET_SECONDS:
            return
        spoke = now
        left = f", {(now - since) / (done - before) * (total - done):.0f} s left" if before < done < total else ""
        print(f"{label}: {done}/{total} {what}".rstrip() + left, file=sys.stderr, flush=True)

    yield say
