"""The training loop.

Teachers and students differ in their objective and in nothing else.
"""

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed
from torch import Tensor, nn

from pipeline.devices import flushed_denormals
from pipeline.engine.checkpoint import RunState
from pipeline.engine.interrupt import Interrupt
from pipeline.engine.log import Log
from pipeline.engine.optimization import MovingAverage, freeze_batchnorm, learning_rate, make_optimizer
from pipeline.engine.processes import mean_over_ranks, seed_step
from pipeline.engine.window import Window, gradient_norms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lightning_fabric import Fabric

    from pipeline.outputs import DenseOutputs
    from pipeline.params.schema import Train

    Batch = dict[str, Any]  # tensors, and what `prepare` adds
    Objective = Callable[[list[DenseOutputs], Batch], dict[str, Tensor]]


class Batches(Protocol):
    """What `fit` needs of `pipeline.data.loading.Batches`."""

    batch: int  # images per step, over all processes
    steps: int
    steps_per_epoch: int

    def iterate(self, start: int = 0) -> "Iterator[dict[str, Tensor]]": ...


@dataclass(frozen=True)
class FitSummary:
    """What a run came to.

    Attributes:
        steps: optimizer steps, the resumed ones included.
        passes: images that were shown in them.
        seconds: spent on them, over all the parts of a resumed run.
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


def fit(model: nn.Module, batches: Batches, objective: "Objective", *, params: "Train", folder: "Path",
        fabric: "Fabric", prepare: "Callable[[Batch], Batch]", label: str = "",
        identity: str = "", seed: int | None = None) -> FitSummary:
    """Train `model` in place; at the end it holds the averaged weights (EMA) and is in eval mode.

    A run that was stopped or killed continues from folder/checkpoint.pt. On the CPU its weights
    come out as those of an undisturbed run, bit for bit.

    Args:
        model: a detector.
        batches: of this process.
        objective: (outputs per stack, batch) -> weighted terms, whose sum is minimised. If it is a
            module, its parameters are trained with the model's. The batch also says "progress", the share
            of the run that is done.
        params: the block `train`; fabric has its `precision`, batches the rest of what they need.
        folder: for checkpoint.pt, log.csv and tensorboard/; all processes see it.
        fabric: from `make_fabric`.
        prepare: a batch on the device -> the batch that model ("image", (B, 3, H, W) float32) and
            objective take.
        label: names the run in its progress.
        identity: of everything that decides the run; a checkpoint of another identity is refused.
        seed: of the random numbers of each step (dropout); params.seed if None.

    Raises:
        UserError: a loss or a weight became NaN or infinite; the checkpoint is of another run.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    module = TrainingStep(model, objective).train()
    if params.freeze_batchnorm:
        freeze_batchnorm(model)
    layout = torch.channels_last if params.channels_last else torch.contiguous_format
    runner = fabric.setup_module(module.to(memory_format=layout))
    optimizer = make_optimizer(module, params, fabric.device)
    stepper: Any = fabric.setup_optimizers(optimizer)
    average = MovingAverage(model.parameters(), params.ema)
    state = RunState(module, optimizer, average, fabric.strategy.precision)

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    state.read(checkpoint, identity)
    start, mean, window = state.step, mean_over_ranks(fabric), Window()
    norms: dict[str, float] = {}
    row_time = checkpoint_time = monotonic()

    with (flushed_denormals(), Interrupt() as interrupt,
          Log(folder, start, batches.steps, label, fabric.is_global_zero) as log):
        for step, raw in enumerate(batches.iterate(start) if start < batches.steps else (), start + 1):
            seed_step(params.seed if seed is None else seed, step, fabric.global_rank)
            rate = learning_rate(params, step - 1, batches.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = prepare({key: value.to(fabric.device, non_blocking=True) for key, value in raw.items()})
            batch["image"] = batch["image"].to(memory_format=layout)
            batch["progress"] = (step - 1) / batches.steps

            loss = runner(_Held(batch))
            window.add(module.terms, raw.get("view"))
            if params.grad_norm_every and step % params.grad_norm_every == 0:
                norms = gradient_norms(module.terms, model.parameters())
            optimizer.zero_grad()
            fabric.backward(loss)
            if params.clip:
                fabric.clip_gradients(runner, stepper, max_norm=params.clip, error_if_nonfinite=False)
            stepper.step()
            average.update(step)

            # Several processes stop and save together, so they agree on it where they meet: at a row.
            last, asked = step == batches.steps, interrupt.asked and fabric.world_size == 1
            if step % params.log_every == 0 or last or asked:
                now, count = monotonic(), len(window)
                state.step, state.losses = step, window.close(step, mean)
                state.seconds += now - row_time
                log.row({"step": step, "epoch": step / batches.steps_per_epoch, "lr": rate}, state.losses, {
                    **{f"gradient_{name}": norms.get(name, "")
                       for name in module.terms if params.grad_norm_every},
                    "seconds": state.seconds, "images_per_second": count * batches.batch / (now - row_time)})
                row_time, norms = now, {}
                wishes = [interrupt.asked, now - checkpoint_time > 60 * params.checkpoint_minutes]
                stop, save = mean(torch.tensor(wishes, dtype=torch.float32, device=fabric.device)).tolist()
                if stop or save or last:
                    state.write(checkpoint, identity, fabric.is_global_zero)
                    checkpoint_time = monotonic()
                if stop and not last:
                    raise KeyboardInterrupt
            log.progress(step)
    average.install()
    if fabric.world_size > 1:
        for buffer in model.buffers():  # each process has had its own BatchNorm statistics
            torch.distributed.broadcast(buffer, 0)
    model.eval()
    return FitSummary(batches.steps, batches.steps * batches.batch, state.seconds, state.losses, start)
