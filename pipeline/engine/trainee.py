"""A network that is trained, and its training as it goes on."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor, nn

from pipeline.engine.checkpoint import RunState
from pipeline.engine.log import Log
from pipeline.engine.optimization import MovingAverage, freeze_batchnorm, learning_rate, make_optimizer
from pipeline.engine.processes import mean_over_ranks, of_all_ranks, seed_step
from pipeline.engine.stopwatch import Stopwatch
from pipeline.engine.window import Window, gradient_norms

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning_fabric import Fabric

    from pipeline.outputs import DenseOutputs
    from pipeline.params.schema import Train

    Batch = dict[str, Any]  # tensors, and what a `prepare` adds
    Objective = Callable[[list[DenseOutputs], Batch], dict[str, Tensor]]

#: Images that a process has of each batch, below which statistics of BatchNorm are poor.
LEAST_SHARE = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainee:
    """What is trained, and how.

    Attributes:
        model: a detector.
        objective: (outputs per stack, batch) -> weighted terms, whose sum is minimised. If it is a
            module, its parameters are trained with the model's. The batch also says "progress", the share
            of the run that is done.
        params: the block `train`; fabric has its `precision`, batches the rest of what they need.
        seed: of the random numbers of each step (dropout).
        fabric: from `make_fabric`; of this trainee alone, for it holds the precision and its state.
        folder: for checkpoint.pt, log.csv and tensorboard/; all processes see it.
        prepare: the batch that all see -> the one that model ("image", (B, 3, H, W) float32) and
            objective take; a new one, whose tensors may be the old ones.
        label: names it beside others.
        identity: of everything that decides the run; a checkpoint of another identity is refused.
    """

    model: nn.Module
    objective: "Objective"
    params: "Train"
    seed: int
    fabric: "Fabric"
    folder: "Path"
    prepare: "Callable[[Batch], Batch]" = dict
    label: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Length:
    """How long a run is: optimizer steps, those of an epoch, and images per step over all processes."""

    steps: int
    steps_per_epoch: int
    batch: int


@dataclass(frozen=True)
class FitSummary:
    """What a run came to.

    Attributes:
        steps: optimizer steps, the resumed ones included.
        passes: images that were shown in them.
        seconds: spent on them, over all the parts of a resumed run; where several trainees shared the
            batches, its own time and an equal share of the rest.
        losses: "loss" and the weighted terms, means over the last log row's steps.
        resumed_from: steps that were done before this call, 0 for a fresh run.
    """

    steps: int
    passes: int
    seconds: float
    losses: dict[str, float]
    resumed_from: int


class TrainingStep(nn.Module):
    """Model and objective in one module, so that DDP and the checkpoint hold both."""

    def __init__(self, model: nn.Module, objective: "Objective") -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self.terms: dict[str, Tensor] = {}

    def forward(self, held: "_Held") -> Tensor:
        """The loss; its terms stay in `terms`."""
        self.terms = self.objective(self.model(held.batch["image"]), held.batch)
        return torch.stack(list(self.terms.values())).sum()


class _Held:
    """A batch that Fabric does not look into: it would round every float tensor to the autocast dtype."""

    def __init__(self, batch: "Batch") -> None:
        self.batch = batch


class Run:
    """The training of one trainee, continued from its checkpoint if there is one.

    Attributes:
        step: steps that are done; `state.step` those of them that a log row stands for.
        watch: runs during its own steps, and is read at each row.

    Raises:
        UserError: the checkpoint is damaged or of another run.
    """

    def __init__(self, trainee: Trainee, length: Length) -> None:
        self.trainee, self.length, params, fabric = trainee, length, trainee.params, trainee.fabric
        module = TrainingStep(trainee.model, trainee.objective).train()
        if params.freeze_batchnorm:
            freeze_batchnorm(trainee.model)
        self.layout = torch.channels_last if params.channels_last else torch.contiguous_format
        self.module, self.runner = module, fabric.setup_module(module.to(memory_format=self.layout))
        self.optimizer = make_optimizer(module, params, fabric.device)
        self.stepper: Any = fabric.setup_optimizers(self.optimizer)
        self.average = MovingAverage(trainee.model.parameters(), params.ema)
        self.mean, self.of_all_ranks = mean_over_ranks(fabric), of_all_ranks(fabric)
        self.window, self.norms = Window(), dict[str, float]()
        self.watch = Stopwatch(fabric.device)

        trainee.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = trainee.folder / "checkpoint.pt"
        self.state = RunState(module, self.optimizer, self.average, fabric.strategy.precision,
                              processes=fabric.world_size)
        processes = self.state.read(self.checkpoint, trainee.identity)
        if processes != fabric.world_size and fabric.is_global_zero:
            print(f"Warning: {trainee.label or trainee.folder} goes on in {fabric.world_size} process(es), but began "
                  f"in {processes}. The result will be another one: each has BatchNorm statistics of its share of a "
                  "batch.", file=sys.stderr, flush=True)
        self.step = self.start = self.state.step
        share = length.batch // fabric.world_size
        if (share < LEAST_SHARE and self.start < length.steps and fabric.world_size > 1 and fabric.is_global_zero
                and not params.freeze_batchnorm):
            print(f"Warning: {trainee.label or trainee.folder}: each of {fabric.world_size} processes has {share} "
                  f"images of a batch for its BatchNorm, where {LEAST_SHARE} are wanted. Take fewer or a larger batch.",
                  file=sys.stderr, flush=True)
        self.log = Log(trainee.folder, self.start, fabric.is_global_zero)

    def take(self, batch: "Batch") -> None:
        """One step on a batch that is on the device; leaves the batch as it is."""
        with self.watch.running():
            self._take(batch)

    def _take(self, batch: "Batch") -> None:
        params, fabric = self.trainee.params, self.trainee.fabric
        self.step += 1
        seed_step(self.trainee.seed, self.step, fabric.global_rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate
        own = self.trainee.prepare(batch)
        own["image"] = own["image"].to(memory_format=self.layout)
        own["progress"] = (self.step - 1) / self.length.steps

        loss = self.runner(_Held(own))
        self.window.add(self.module.terms, batch.get("view"))
        if params.grad_norm_every and self.step % params.grad_norm_every == 0:
            scaler = getattr(fabric.strategy.precision, "scaler", None)
            self.norms = gradient_norms(self.module.terms, self.trainee.model.parameters(),
                                        scaler.get_scale() if scaler else 1.0)
        self.optimizer.zero_grad()
        fabric.backward(loss)
        if params.clip:
            fabric.clip_gradients(self.runner, self.stepper, max_norm=params.clip, error_if_nonfinite=False)
        self.stepper.step()
        self.average.update(self.step)

    def row(self, seconds: float) -> None:
        """Log the steps since the last row, which took so long.

        Raises:
            UserError: a loss term was NaN or infinite, on any process.
        """
        images = len(self.window) * self.length.batch
        losses = self.window.close(self.step, self.mean, self.of_all_ranks)
        self.state.step, self.state.losses = self.step, losses
        self.state.seconds += seconds
        self.log.row({"step": self.step, "epoch": self.step / self.length.steps_per_epoch, "lr": self._rate}, losses, {
            **{f"gradient_{name}": self.norms.get(name, "")
               for name in self.module.terms if self.trainee.params.grad_norm_every},
            "seconds": self.state.seconds, "images_per_second": images / seconds})
        self.norms = {}

    def save(self) -> None:
        """Write a checkpoint of the last row's step.

        Raises:
            UserError: a weight became NaN or infinite, on any process; the old checkpoint stays.
        """
        self.state.write(self.checkpoint, self.trainee.identity, self.trainee.fabric.is_global_zero, self.mean)

    def release(self) -> None:
        """Let go of what a step leaves on the device; it cannot go on from here."""
        self.module.terms = {}
        self.module.zero_grad()
        self.optimizer.state.clear()

    def finish(self) -> FitSummary:
        """Leave the averaged weights in the model, the same ones on all processes, in eval mode."""
        self.average.install()
        if self.trainee.fabric.world_size > 1:
            for buffer in self.trainee.model.buffers():  # each process has had its own BatchNorm statistics
                torch.distributed.broadcast(buffer, 0)
        self.trainee.model.eval()
        steps = self.length.steps
        return FitSummary(steps, steps * self.length.batch, self.state.seconds, self.state.losses, self.start)

    @property
    def _rate(self) -> float:
        return learning_rate(self.trainee.params, self.step - 1, self.length.steps)
