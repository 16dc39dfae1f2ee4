"""Does `engine.fit` have the speed of the plain loop?

The same steps by a loop of ten lines, by `fit`, and by `fit` with a moving average, taking turns in
one process: of ResNet-18 with its deconvolutions (batch 16, 128 px, bfloat16, AdamW, clipping), and of
a network of two convolutions, where what the loop itself costs can be seen. A step is timed from one
batch to the next, in seconds of this process's CPU, so that other work on the machine counts little.

    make bench-loop

Target: a step of `fit` takes at most 1.03 of the plain one.
"""

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from time import process_time

import torch
from common import Row, record
from torch import nn

from pipeline.arithmetic import fast_arithmetic
from pipeline.devices import make_fabric, suited_precision
from pipeline.engine import Trainee, fit
from pipeline.losses import GroundTruthLoss
from pipeline.models import build_detector
from pipeline.outputs import DenseOutputs
from pipeline.params.schema import Train

CLASSES, OBJECTS, ROUNDS = 6, 16, 6
AVERAGED = "fit with a moving average"


class Batches:
    """The same random batch again and again; notes the time of each."""

    def __init__(self, steps: int, batch: int, size: int) -> None:
        self.steps = self.steps_per_epoch = steps
        self.batch, self.size = batch, size
        self.times: list[float] = []

    def iterate(self, start: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        grid, rows = self.size // 4, (self.batch, OBJECTS)
        batch = {"image": torch.randn(self.batch, 3, self.size, self.size),
                 "heatmap": torch.rand(self.batch, CLASSES, grid, grid), "mask": torch.ones(rows),
                 "wh": torch.rand(*rows, 2), "offset": torch.rand(*rows, 2),
                 "indices": torch.randint(0, grid**2, rows)}
        for _ in range(start, self.steps):
            self.times.append(process_time())
            yield batch


class Nothing(nn.Module):
    """A network that costs next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, CLASSES + 4, 1)

    def forward(self, images: torch.Tensor) -> list[DenseOutputs]:
        features = self.body(images)
        heatmap, wh, offset = self.head(features).split([CLASSES, 2, 2], 1)
        return [DenseOutputs(heatmap, wh, offset, features)]


def plain_loop(model: nn.Module, batches: Batches, params: Train) -> None:
    """What anybody would write."""
    model.train().to(memory_format=torch.channels_last)
    loss_of = GroundTruthLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr, fused=True)
    with fast_arithmetic():  # as `fit` has it
        for batch in batches.iterate():
            with torch.autocast("cpu", torch.bfloat16, enabled=suited_precision("cpu") == "bf16-mixed"):
                terms = loss_of(model(batch["image"].to(memory_format=torch.channels_last)), batch)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), params.clip)
            optimizer.step()


def measure(model: nn.Module, steps: int, batch: int, size: int) -> dict[str, list[float]]:
    """Seconds of a step, by loop: of each round the median of its steps but the first."""
    fabric = make_fabric(1, "auto", accelerator="cpu")
    seconds: dict[str, list[float]] = {"plain": [], "fit": [], AVERAGED: []}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            batches = Batches(steps, batch, size)
            params = Train(batch=batch, ema=0.99 if name == AVERAGED else 0.0)
            if name == "plain":
                plain_loop(model, batches, params)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    fit([Trainee(model=model, objective=GroundTruthLoss(), params=params, seed=0, fabric=fabric,
                                 folder=Path(folder))], batches, label=name)
            noted = batches.times[1:]
            times.append(median(after - before for before, after in pairwise(noted)))
    return seconds


def row(name: str, values: list[float], target: str | None = None) -> Row:
    """Median and spread of some measurements."""
    low, _, high = quantiles(values, n=4)
    return Row(name, median(values), target, (high - low) / 2, len(values))


def main() -> None:
    """Measures both networks and records the rows."""
    resnet = measure(build_detector("resnet18", CLASSES, deconv=[128, 64, 64]), 10, 16, 128)
    nothing = measure(Nothing(), 200, 1, 32)
    plain = median(resnet["plain"])
    of_plain = {name: [one / other for one, other in zip(values, resnet["plain"], strict=True)]
                for name, values in resnet.items()}
    record("loop", [
        *(row(f"ResNet-18, {name}: CPU s a step", values) for name, values in resnet.items()),
        *(row(f"two convolutions, {name}: CPU s a step", values) for name, values in nothing.items()),
        row("ResNet-18, fit / plain", of_plain["fit"], "<= 1.03"),
        row("ResNet-18, fit with a moving average / plain", of_plain[AVERAGED]),
        Row("the loop's own cost, of a ResNet-18 step",
            (median(nothing["fit"]) - median(nothing["plain"])) / plain, "<= 0.03")])


if __name__ == "__main__":
    main()
