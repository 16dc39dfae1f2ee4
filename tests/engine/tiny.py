"""A run small enough for tests, and a program that does it in processes of its own.

    python tiny.py FOLDER KIND[+KIND ...] [steps=60] [devices=1] [freeze=1] [key=value of train ...]

writes FOLDER/result.pt (weights of model and objective) and the run's files; of several, into FOLDER/KIND each.
A KIND is teacher, student, taught (a student without ground truth) or broken (a teacher whose loss is NaN in
step 5, on the last process alone).
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from pipeline.devices import leave, make_fabric
from pipeline.distillation import DistillationLoss, TeacherTargets
from pipeline.engine import FitSummary, Trainee, fit, mean_over_ranks, seed_everything
from pipeline.losses import GroundTruthLoss
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe
from pipeline.params.schema import Train

CLASSES, SIZE, OBJECTS, TEACHER_CHANNELS = 3, 8, 4, 6


class TinyDetector(nn.Module):
    """Stride 4, BatchNorm and dropout; two stacks."""

    def __init__(self, dropout=0.1):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout))
        self.heads = nn.ModuleList(nn.Conv2d(8, CLASSES + 4, 1) for _ in range(2))

    def forward(self, images):
        features = self.body(images)
        maps = [head(features) for head in self.heads]
        return [DenseOutputs(*m.split([CLASSES, 2, 2], 1), features) for m in maps]


class TinyBatches:
    """Batches that depend on the step alone; process `rank` of `world` takes every world-th image."""

    def __init__(self, steps=60, batch=6, rank=0, world=1):
        self.steps, self.batch, self.steps_per_epoch = steps, batch, 10
        self.rank, self.world = rank, world

    def iterate(self, start=0):
        for step in range(start, self.steps):
            generator = torch.Generator().manual_seed(step)

            def rand(*shape, generator=generator):
                return torch.rand(self.batch, *shape, generator=generator)

            batch = {"image": rand(3, 4 * SIZE, 4 * SIZE), "heatmap": rand(CLASSES, SIZE, SIZE) * 0.9,
                     "wh": rand(OBJECTS, 2) * 5, "offset": rand(OBJECTS, 2),
                     "indices": (rand(OBJECTS) * SIZE**2).long(), "mask": (rand(OBJECTS) < 0.7).float(),
                     "view": torch.arange(self.batch) + 100 * step,
                     "taught": rand(CLASSES + 4 + TEACHER_CHANNELS, SIZE, SIZE)}
            for image, cells in enumerate(batch["indices"][:, : 1 + step % 2]):
                batch["heatmap"][image, 0].view(-1)[cells] = 1
            batch["mask"][0] = 1  # unequal numbers of objects in the processes
            yield {name: value[self.rank :: self.world] for name, value in batch.items()}


class StudentObjective(nn.Module):
    """Distillation with a trained adapter, and ground truth unless the first stack is to go untrained."""

    def __init__(self, mean, ground_truth=True):
        super().__init__()
        self.ground_truth = GroundTruthLoss(mean) if ground_truth else lambda *_: {}
        self.distillation = DistillationLoss(
            Recipe(teachers=["teacher"]), {"teacher": [1.0] * TEACHER_CHANNELS}, 8, mean_over_ranks=mean)

    def forward(self, outputs, batch):
        return {**self.ground_truth(outputs, batch), **self.distillation(outputs, batch["teacher"])}


class BreaksAt(GroundTruthLoss):
    """Ground truth, whose term wh is NaN (or `value`) in one step."""

    def __init__(self, mean=lambda tensor: tensor, step=5, value=float("nan")):
        super().__init__(mean)
        self.calls, self.step, self.value = 0, step, value

    def forward(self, outputs, batch):
        self.calls += 1
        terms = super().forward(outputs, batch)
        return {**terms, "wh": terms["wh"] * (self.value if self.calls == self.step else 1)}


def objective_of(kind, fabric):
    mean = mean_over_ranks(fabric)
    if kind == "broken":
        return BreaksAt(mean, step=5 if fabric.global_rank == fabric.world_size - 1 else 0)
    return GroundTruthLoss(mean) if kind == "teacher" else StudentObjective(mean, kind == "student")


def prepare(batch):
    heatmap, wh, offset, features = batch["taught"].split([CLASSES, 2, 2, TEACHER_CHANNELS], 1)
    maps = torch.cat([wh * 5, offset], 1)
    score, cell = heatmap.amax(1).flatten(1).topk(10)
    geometry = maps.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, 4, -1)).transpose(1, 2)
    peaks = torch.cat([torch.stack([cell.float(), torch.zeros_like(score), score], 2), geometry], 2)
    return {**batch, "teacher": TeacherTargets(heatmap, peaks, {"teacher": features})}


def params_of(**changes):
    return Train(**{"epochs": 1, "batch": 6, "lr": 1e-2, "ema": 0.9, "precision": "32-true", "log_every": 1,
                    **changes})


def main(folder, kinds, *settings):
    given = dict(setting.split("=") for setting in settings)
    steps, devices = int(given.pop("steps", 60)), given.pop("devices", "auto")
    frozen = bool(int(given.pop("freeze", 0)))
    params = params_of(freeze_batchnorm=frozen, **{key: json.loads(value) for key, value in given.items()})
    trainees = []
    for kind in kinds.split("+"):
        fabric = make_fabric(devices, params.precision, accelerator="cpu")
        seed_everything(0)
        trainees.append(Trainee(
            model=TinyDetector(dropout=0.0 if frozen else 0.1), objective=objective_of(kind, fabric), params=params,
            seed=0, fabric=fabric, folder=folder / kind if "+" in kinds else folder, label=kind))
    batches = TinyBatches(steps, rank=fabric.global_rank, world=fabric.world_size)
    for trainee, outcome in zip(trainees, fit(trainees, batches, prepare=prepare, label=kinds), strict=True):
        if fabric.is_global_zero and isinstance(outcome, FitSummary):
            torch.save({"model": trainee.model.state_dict(), "objective": trainee.objective.state_dict()},
                       trainee.folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    leave()
