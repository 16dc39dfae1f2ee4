"""The training loop, of one network or of several on the same batches.

Teachers and students differ in their objective and in nothing else.
"""

import sys
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from pipeline.arithmetic import fast_arithmetic
from pipeline.devices import is_out_of_memory
from pipeline.engine.interrupt import Interrupt
from pipeline.engine.log import progress
from pipeline.engine.processes import AnyRank, mean_over_ranks
from pipeline.engine.trainee import FitSummary, Length, Run, Trainee
from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lightning_fabric import Fabric

    from pipeline.engine.trainee import Batch


#: Steps between two in which several processes ask each other whether one was told to stop; the next brings the answer.
ASKED_EVERY = 5


class Batches(Protocol):
    """What `fit` needs of `pipeline.data.loading.Batches`."""

    batch: int  # images per step, over all processes
    steps: int
    steps_per_epoch: int

    def iterate(self, start: int = 0) -> "Iterator[dict[str, Tensor]]": ...


def fit(trainees: "Sequence[Trainee]", batches: Batches, *, prepare: "Callable[[Batch], Batch]" = dict,
        label: str = "") -> "list[FitSummary | UserError]":
    """Train each model in place; at the end it holds its averaged weights (EMA) and is in eval mode.

    Each batch is read, moved and prepared once, and each trainee takes its step on it. On the CPU its
    weights come out as if it had been alone, bit for bit. A trainee that cannot go on stops; the
    others do not.

    A run that was stopped or killed continues from each trainee's checkpoint.pt: at the step of the
    one that is least far, while those that are ahead wait, unless it stops. On the CPU the weights
    come out as those of an undisturbed run, bit for bit.

    Args:
        trainees: at least one; on the same processes and devices, with the same `log_every` and
            `checkpoint_minutes`.
        batches: of this process.
        prepare: a batch on the device -> the batch that every trainee's own `prepare` takes.
        label: names the run in its progress.

    Returns:
        Of each trainee, what it came to; or why it stopped, with its last good checkpoint kept: a
        loss or a weight became NaN or infinite, its checkpoint is of another run, or (with one process;
        of several, all would wait for it) memory ran out.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once checkpoints are written: of the step that is under way, or
            with several processes of one that is at most 2 * ASKED_EVERY later.
        ValueError, OSError, MemoryError: of `batches`, once checkpoints are written; not with several processes, where
            the others know nothing of it: the run goes on from where `checkpoint_minutes` last left it.
    """
    params, fabric = trainees[0].params, trainees[0].fabric
    length, mean = Length(batches.steps, batches.steps_per_epoch, batches.batch), mean_over_ranks(fabric)
    together, asked_anywhere = _Together(fabric), AnyRank(fabric)
    for trainee in trainees:
        with together.alone(trainee):
            together.runs[trainee] = Run(trainee, length)
    start = min((run.step for run in together), default=batches.steps)
    together.row_time = checkpoint_time = monotonic()

    with (fast_arithmetic(), Interrupt() as interrupt, ExitStack() as logs,
          progress(label, start, batches.steps, fabric.is_global_zero) as show):
        for run in together:
            logs.enter_context(run.log)
        while (begin := min((run.step for run in together), default=batches.steps)) < batches.steps:
            for step, raw in enumerate(together.saved_by_errors(batches.iterate(begin)), begin + 1):
                batch = prepare({key: value.to(fabric.device, non_blocking=True) for key, value in raw.items()})
                taking = [run for run in together if run.step < step]  # the others are ahead
                for run in taking:
                    with together.alone(run.trainee):
                        run.take(batch)

                # Several processes stop and save together, so they agree on it where they meet.
                last, asked = step == batches.steps, interrupt.asked
                if fabric.world_size > 1:
                    asked = step % ASKED_EVERY == 0 and asked_anywhere(asked)
                if step % params.log_every == 0 or last or asked:
                    together.row(taking)
                    wishes = [interrupt.asked, together.row_time - checkpoint_time > 60 * params.checkpoint_minutes]
                    stop, save = mean(torch.tensor(wishes, dtype=torch.float32, device=fabric.device)).tolist()
                    if stop or save or last:
                        together.save(taking)
                        checkpoint_time = monotonic()
                    if stop:
                        raise KeyboardInterrupt
                if not together.still(taking):
                    break  # those that go on are ahead: from where the first of them is
                show(step, together.losses())
    if mean(torch.tensor(float(interrupt.asked), device=fabric.device)):  # after the last step
        raise KeyboardInterrupt
    return [together.stopped.get(trainee) or together.runs[trainee].finish() for trainee in trainees]


class _Together:
    """The runs that go on, and why others stopped."""

    def __init__(self, fabric: "Fabric") -> None:
        self.fabric, self.row_time = fabric, 0.0
        self.runs: dict[Trainee, Run] = {}
        self.stopped: dict[Trainee, UserError] = {}

    def __iter__(self) -> "Iterator[Run]":
        return iter(list(self.runs.values()))

    def still(self, runs: "Sequence[Run]") -> list[Run]:
        """Those of `runs` that go on."""
        return [run for run in runs if run.trainee in self.runs]

    def row(self, runs: "Sequence[Run]") -> None:
        """Log what those of `runs` that go on did since the last row."""
        busy = {run: run.watch.read() for run in self.still(runs)}
        before, self.row_time = self.row_time, monotonic()
        rest = self.row_time - before - sum(busy.values())
        for run, own in busy.items():
            with self.alone(run.trainee):
                run.row(own + rest / len(busy))

    def save(self, runs: "Sequence[Run]") -> None:
        """Write checkpoints of the last row, of those of `runs` that go on."""
        for run in self.still(runs):
            with self.alone(run.trainee):
                run.save()
        self.fabric.barrier()  # one writes, and a process that leaves sooner has Fabric kill the writer

    def saved_by_errors(self, batches: "Iterator[Batch]") -> "Iterator[Batch]":
        """The batches; what a person can fix (an image, a shard) and ends them lets one process save first."""
        try:
            yield from batches
        except (ValueError, OSError, MemoryError):
            if self.fabric.world_size == 1:
                self.row([run for run in self if len(run.window)])
                self.save([run for run in self if run.step > run.start])
            raise

    @contextmanager
    def alone(self, trainee: Trainee) -> "Iterator[None]":
        """What fails in here stops this trainee and no other.

        All processes meet the same UserErrors here: of one checkpoint, or of means over all of them.
        """
        try:
            yield
        except UserError as error:
            reason = str(error)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            reason = ("batch norm has one value of each channel to learn from: let each process have two images "
                      "(train.batch), take a larger input or set train.freeze_batchnorm.")
        except (RuntimeError, MemoryError) as error:
            if trainee.fabric.world_size > 1 or not is_out_of_memory(error):
                raise
            said = str(error).partition("\n")[0] or type(error).__name__
            reason = (f"out of memory ({said}); the last checkpoint, if there was one, is kept. "
                      "Lower train.batch, or teach fewer in one pass.")
        else:
            return
        self.stopped[trainee] = UserError(reason)  # a new one: the other's traceback would keep the tensors
        if run := self.runs.pop(trainee, None):
            run.release()
        trainee.model.cpu()  # its place is for the others
        if self.runs and trainee.fabric.is_global_zero:
            print(f"{trainee.label} stops, the others go on: {reason}", file=sys.stderr, flush=True)

    def losses(self) -> str:
        """The last row's: all terms of one run, the loss of each of several."""
        runs = list(self)
        if len(runs) == 1:
            return " ".join(f"{name} {value:.4g}" for name, value in runs[0].state.losses.items())
        return ", ".join(f"{run.trainee.label} {run.state.losses['loss']:.4g}" for run in runs if run.state.losses)
