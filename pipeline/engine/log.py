"""What a run says: log.csv, TensorBoard, and progress on stderr."""

import csv
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from torch.utils.tensorboard import SummaryWriter

from pipeline.inform import progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
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
        self.path = folder / "log.csv"
        self.open = ExitStack()

    def __enter__(self) -> "Log":
        if self.speaks:
            self.columns = _forget_after(self.path, self.start)
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
            rest: an empty string leaves a cell empty.

        A key that is new (what is logged may change where a run goes on) gets a column, empty above.
        """
        if not self.speaks:
            return
        row = {**place, **losses, **rest}
        if new := [name for name in row if name not in self.columns]:
            _add_columns(self.path, new)
            self.columns += new
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
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


def _forget_after(path: "Path", step: int) -> list[str]:
    """Drop the rows beyond `step`, and a last one that a kill cut short; returns the columns of what is left."""
    text = path.read_text() if path.exists() else ""
    header, *rows = text.splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    _replace(path, "".join([header, *kept] if kept else []))
    return header.strip().split(",") if kept else []


def _add_columns(path: "Path", names: "Sequence[str]") -> None:
    header, *rows = path.read_text().splitlines() or [""]
    wider = [",".join([*filter(None, [header]), *names]), *(row + "," * len(names) for row in rows)]
    _replace(path, "".join(f"{line}\n" for line in wider))


def _replace(path: "Path", text: str) -> None:
    temporary = path.with_name("log.csv.partial")
    temporary.write_text(text)
    temporary.replace(path)
