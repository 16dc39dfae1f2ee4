"""Training steps of several arms, taking turns: whatever else the machine does hits all alike."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.loading import Batches, Source, Tensors
from pipeline.engine import Trainee, fit
from pipeline.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from pipeline.params import Train

#: Batches that a loader's worker makes ahead.
AHEAD = 2


@dataclass(frozen=True)
class Arm:
    """One way to train a network: all that `fit` needs, except for how long.

    Attributes:
        model: of this arm alone.
        source: its samples.
        objective, prepare: as a `Trainee` has them.
    """

    model: "nn.Module"
    source: Source
    objective: "nn.Module"
    prepare: Callable[[dict[str, Any]], dict[str, Any]]


def seconds_of_steps(arms: Mapping[str, Arm], *, train: "Train", fabric: "Fabric", rounds: int, steps: int,
                     done: Callable[[], None] = lambda: None) -> dict[str, list[float]]:
    """Seconds of a step, loading included, by `fit` itself.

    Each arm in turn trains for a block of steps, `rounds` times over, every other time in the opposite order. A block's
    first steps warm up: one, and as many as loader workers made ahead. Its value is the median of the rest, which a
    pause of the machine does not move; with workers their mean, since workers deliver in bursts.

    Args:
        arms: by name.
        train: batch, precision and workers; the learning rate is next to 0, since nothing is to be learnt.
        fabric: of that precision.
        rounds, steps: blocks of an arm, measured steps of a block.
        done: called after each block.

    Returns:
        {arm: a value for each round}.

    Raises:
        UserError: a step failed: no memory, say.
    """
    quiet = train.model_copy(update={"lr": 1e-6, "log_every": 10**6})
    warm = 1 + AHEAD * train.workers
    taken: dict[str, list[float]] = {name: [] for name in arms}
    batches = {name: _TimedBatches(arm.source, train, warm + steps + 1) for name, arm in arms.items()}
    for each in batches.values():
        each.read_once()
    for number in range(rounds):
        for name, arm in list(arms.items())[:: 1 - 2 * (number % 2)]:
            timed = batches[name]
            timed.asked = []
            # These runs only measure: their progress would fill the screen.
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                [outcome] = fit([Trainee(model=arm.model, objective=arm.objective, params=quiet, seed=0, fabric=fabric,
                                         folder=Path(folder), prepare=arm.prepare)], timed)
            if isinstance(outcome, UserError):
                raise outcome
            single = [after - before for before, after in pairwise(timed.asked[warm : warm + steps + 1])]
            taken[name].append(fmean(single) if train.workers else median(single))
            done()
    return taken


class _TimedBatches(Batches):
    """The first batches of a run; notes when each is asked for. The last step writes a checkpoint and is not timed."""

    def __init__(self, source: Source, train: "Train", steps: int) -> None:
        super().__init__(source, batch=train.batch, epochs=1, seed=0, workers=train.workers)
        self.steps = steps
        self.asked: list[float] = []

    def read_once(self) -> None:
        """Loads an epoch, so that what images and stores leave in memory is there before the first step."""
        for step in range(self.steps_per_epoch):
            self.source.fetch(self.items(step))

    def iterate(self, start: int = 0) -> Iterator[Tensors]:
        batches = super().iterate(start)
        for _ in range(start, self.steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.asked.append(perf_counter())
            yield next(batches)
