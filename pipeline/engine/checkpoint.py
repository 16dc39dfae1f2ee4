"""One file that a killed run continues from."""

import os
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import torch

from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning_fabric.plugins import Precision
    from torch import nn

    from pipeline.engine.optimization import MovingAverage

FORMAT = 2


@dataclass
class RunState:
    """Everything a run continues from.

    The rate follows from the step, and so do the random numbers of a step (`seed_step`): neither a
    scheduler nor a generator has a state of its own.

    Attributes:
        module: model and objective.
        optimizer, average, precision: what changes with each step besides the module.
        step: steps done.
        seconds: spent on them.
        losses: of the last log row.
        processes: that take the steps; each has its own BatchNorm statistics.
    """

    module: "nn.Module"
    optimizer: torch.optim.Optimizer
    average: "MovingAverage"
    precision: "Precision"
    step: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    processes: int = 1

    def write(self, path: "Path", identity: str, is_writer: bool,
              mean_over_ranks: "Callable[[torch.Tensor], torch.Tensor]" = lambda tensor: tensor) -> None:
        """Replace the checkpoint in one step: at any moment the file is the old one or the new one.

        All processes call it, and the same one of them `is_writer` each time.

        Raises:
            UserError: a weight is NaN or infinite, on any process; the old checkpoint stays.
        """
        tensors = [*self.module.state_dict().values(), *self.average.values]
        broken = ~torch.stack([tensor.isfinite().all() for tensor in tensors]).all()
        if mean_over_ranks(broken.float()):
            raise UserError(f"a weight became NaN or infinite by step {self.step}; the last checkpoint is "
                            "kept. Lower its lr, lengthen its warmup or set its clip.")
        if is_writer:
            _replace(path, {
                "format": FORMAT, "identity": identity, "step": self.step, "seconds": self.seconds,
                "losses": self.losses, "module": self.module.state_dict(), "average": self.average.values,
                "optimizer": self.optimizer.state_dict(), "precision": self.precision.state_dict(),
                "calculated": self.precision.precision, "processes": self.processes})

    def read(self, path: "Path", identity: str) -> int:
        """Take over a checkpoint, if there is one.

        Returns:
            How many processes took its steps.

        Raises:
            UserError: the file is damaged, of another format, of another run, or of this one in another precision.
        """
        if not path.exists():
            return self.processes
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            found = saved["format"], saved["identity"]
        except MemoryError:
            raise
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}. It may well be whole.") from error
        except Exception as error:
            raise UserError(f"{path} is no readable checkpoint; remove it to start over.") from error
        if found != (FORMAT, identity):
            raise UserError(
                f"{path} belongs to another run: format {found[0]}, identity {found[1]!r}, expected format "
                f"{FORMAT}, identity {identity!r}; remove it to start over, or choose another folder.")
        if saved["calculated"] != self.precision.precision:
            raise UserError(
                f"{path} was calculated in {saved['calculated']}, but here it would go on in "
                f"{self.precision.precision} (`precision: auto` takes what suits the machine); go on where it began, "
                "or remove it to start over.")
        self.step, self.seconds, self.losses = saved["step"], saved["seconds"], saved["losses"]
        self.module.load_state_dict(saved["module"])
        self.average.load(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.precision.load_state_dict(saved["precision"])
        return int(saved["processes"])


class _Sink:
    """A file for torch.save that keeps the reason why a write failed, which torch drops."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, self.file.name)
            raise

    def flush(self) -> None:
        self.file.flush()


def _replace(path: "Path", content: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            sink = _Sink(file)
            try:
                torch.save(content, cast("IO[bytes]", sink))
            except RuntimeError as error:  # torch finds the file shorter than it should be
                raise sink.error or error from None
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # on a full disk it is in the way
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
