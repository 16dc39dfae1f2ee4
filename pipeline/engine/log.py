"""What a run says: log.csv, TensorBoard, and progress on stderr."""

import csv
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from pipeline.inform import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


class Log:
    """Rows to folder/log.csv and folder/tensorboard/.

    Args:
        folder: of the run.
        start: steps done before; rows of later steps come from a part that was lost, and go.
        speaks: false for all processes but one.
    """

    def __init__(self, folder: "Path", start: int, speaks: bool) -> None:
        self.folder, self.start, self.speaks = folder, start, speaks
        self.open = ExitStack()

    def __enter__(self) -> "Log":
        if self.speaks:
            path = self.folder / "log.csv"
            _forget_after(path, self.start)
            self.file = self.open.enter_context(path.open("a", newline=""))
            self.board = self.open.enter_context(
                SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.start + 1))
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def row(self, place: "Mapping[str, float]", losses: "Mapping[str, float]",
            rest: "Mapping[str, float | str]") -> None:
        """Write one row.

        Args:
            place: "step", a count, and what else says where the run is.
            losses: of the steps since the last row.
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
        for name, value in row.items():
            if isinstance(value, float):
                self.board.add_scalar(name, value, int(place["step"]))


@contextmanager
def progress(label: str, start: int, steps: int, speaks: bool) -> "Iterator[Callable[[int, str], None]]":
    """Gives a `show(step, what)` that says on stderr how many of the steps after `start` are done."""
    if not speaks:
        yield lambda step, what: None
        return
    with progress_bar(label) as bar:
        yield lambda step, what: bar(step - start, steps - start, what)


def _forget_after(path: "Path", step: int) -> None:
    """Drop the rows beyond `step`, and a last one that a kill cut short."""
    text = path.read_text() if path.exists() else ""
    header, *rows = text.splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    temporary = path.with_name("log.csv.partial")
    temporary.write_text("".join([header, *kept] if kept else []))
    temporary.replace(path)
