"""What a run says: log.csv, TensorBoard, and progress on stderr."""

import csv
import sys
from time import monotonic
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

QUIET_SECONDS = 30  # between progress lines where nobody watches a bar


class Log:
    """Rows to folder/log.csv and folder/tensorboard/, progress to stderr.

    Args:
        folder: of the run.
        start: steps done before; rows of later steps come from a part that was lost, and go.
        steps: of the whole run.
        label: what stands before the progress.
        speaks: false for all processes but one.
    """

    def __init__(self, folder: "Path", start: int, steps: int, label: str, speaks: bool) -> None:
        self.path = folder / "log.csv"
        self.label, self.start, self.steps, self.speaks = label, start, steps, speaks
        self.losses: Mapping[str, float] = {}
        self.began = self.spoke = monotonic()
        if not speaks:
            return
        self._forget_after(start)
        self.file = self.path.open("a", newline="")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        self.bar = tqdm(total=steps, initial=start, desc=label, unit="step", mininterval=1.0,
                        dynamic_ncols=True) if sys.stderr.isatty() else None

    def _forget_after(self, step: int) -> None:
        """Drop rows beyond `step`, and a last row that a kill cut short."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",")[0]) <= step]
        temporary = self.path.with_name("log.csv.partial")
        temporary.write_text("".join([*lines[:1], *kept] if kept else []))
        temporary.replace(self.path)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: "TracebackType | None") -> None:
        if self.speaks:
            self.file.close()
            self.board.close()
            if self.bar is not None:
                self.bar.close()

    def row(self, place: "Mapping[str, float]", losses: "Mapping[str, float]",
            rest: "Mapping[str, float | str]") -> None:
        """Write one row.

        Args:
            place: "step", a count, and what else says where the run is.
            losses: shown in the progress too.
            rest: an empty string leaves a cell empty. The keys are the same in each row.
        """
        if not self.speaks:
            return
        row = {**place, **losses, **rest}
        writer = csv.DictWriter(self.file, row.keys(), lineterminator="\n")
        if self.file.tell() == 0:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value
                         for name, value in row.items()})
        self.file.flush()
        self.losses = losses
        for name, value in row.items():
            if isinstance(value, float):
                self.board.add_scalar(name, value, int(place["step"]))

    def progress(self, step: int) -> None:
        """Say that `step` steps are done."""
        if not self.speaks:
            return
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.losses.items()}, refresh=False)
        elif step == self.steps or monotonic() - self.spoke > QUIET_SECONDS:
            self.spoke = monotonic()
            left = (self.spoke - self.began) / (step - self.start) * (self.steps - step)
            terms = " ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
            print(f"{self.label} step {step}/{self.steps}, {left / 60:.1f} min left, {terms}",
                  file=sys.stderr, flush=True)
