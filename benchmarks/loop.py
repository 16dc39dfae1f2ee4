"""Does `engine.fit` have the speed of the plain loop?

The same steps (ResNet-18 with its deconvolutions, batch 16, bfloat16, AdamW, clipping) by `fit`, by a
loop of ten lines, and by `fit` with a moving average, taking turns in one process. A step is timed from
one batch to the next, in seconds of this process's CPU, so that other work on the machine does not count.

    make bench-loop

Target: a step of `fit` takes at most 1.03 of the plain one.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from time import process_time

import torch
from common import Row, record

from pipeline.engine import fit, make_fabric
from pipeline.losses import GroundTruthLoss
from pipeline.models import build_detector
from pipeline.params.schema import Train

SIZE, BATCH, CLASSES, OBJECTS, STEPS, ROUNDS = 64, 16, 6, 16, 8, 5


class Batches:
    """The same random batch again and again; notes the time of each."""

    batch, steps, steps_per_epoch = BATCH, STEPS, STEPS

    def __init__(self) -> None:
        self.times: list[float] = []

    def iterate(self, start: int = 0) -> Iterator[dict[str, torch.Tensor]]:
        grid = SIZE // 4
        batch = {"image": torch.randn(BATCH, 3, SIZE, SIZE), "heatmap": torch.rand(BATCH, CLASSES, grid, grid),
                 "wh": torch.rand(BATCH, OBJECTS, 2), "offset": torch.rand(BATCH, OBJECTS, 2),
                 "indices": torch.randint(0, grid**2, (BATCH, OBJECTS)), "mask": torch.ones(BATCH, OBJECTS)}
        for _ in range(start, STEPS):
            self.times.append(process_time())
            yield batch


def plain_loop(model: torch.nn.Module, batches: Batches, params: Train) -> None:
    """What anybody would write."""
    model.train().to(memory_format=torch.channels_last)
    loss_of = GroundTruthLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.lr, fused=True)
    for batch in batches.iterate():
        with torch.autocast("cpu", torch.bfloat16):
            terms = loss_of(model(batch["image"].to(memory_format=torch.channels_last)), batch)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip)
        optimizer.step()


def main() -> None:
    fabric = make_fabric(1, "bf16-mixed", accelerator="cpu")
    model = build_detector("resnet18", CLASSES, deconv=[128, 64, 64])
    seconds: dict[str, list[float]] = {"plain": [], "fit": [], "fit with a moving average": []}
    for _ in range(ROUNDS):
        for name, times in seconds.items():
            batches = Batches()
            params = Train(batch=BATCH, ema=0.99 if "average" in name else 0.0, precision="bf16-mixed")
            if name == "plain":
                plain_loop(model, batches, params)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    fit(model, batches, GroundTruthLoss(), params=params, folder=Path(folder), fabric=fabric,
                        prepare=dict, label=name)
            times += [after - before for before, after in zip(batches.times[1:], batches.times[2:], strict=False)]

    def row(name: str, values: list[float], target: str | None = None) -> Row:
        low, _, high = quantiles(values, n=4)
        return Row(name, median(values), target, (high - low) / 2, len(values))

    plain = median(seconds["plain"])
    record("loop", [
        *(row(f"{name}, CPU seconds a step", values) for name, values in seconds.items()),
        row("fit / plain", [value / plain for value in seconds["fit"]], "<= 1.03"),
        row("fit with a moving average / plain",
            [value / plain for value in seconds["fit with a moving average"]])])


if __name__ == "__main__":
    main()
