"""The study's cells: results kept under version control, in one file with a line for each."""

import json
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from pipeline import paths
from pipeline.params import Params
from pipeline.report.arranging import arrange
from pipeline.report.results import Result, Results, parse

R = TypeVar("R", bound=Result)
FILE = "cells.json"
#: What a cell leaves behind in results/: it is for the report of one machine.
LEFT_BEHIND: dict[str, Any] = {"per_class": True} | {split: {"per_class"} for split in ("unseen", "val", "train")}


class Screened(Result):
    """One run of a screening: a variation of a recipe, scored on val."""

    group: str
    variation: str


class Cells(BaseModel):
    """All cells of a study, sorted by name.

    The students of one seed have one set of teachers; those of another may have others of the same names, trained
    elsewhere. So a teacher is kept for each training whose weights students name.

    Attributes:
        teachers, ensembles, students: scored on test, and on the other splits beside it.
        screening: scored on val.
    """

    teachers: list[Result] = []
    ensembles: list[Result] = []
    students: list[Result] = []
    screening: list[Screened] = []

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `folder` keeps; nothing, where it has no file yet.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / FILE
        return parse(cls, path, "Take it from version control again.") if path.exists() else cls()

    def text(self) -> str:
        """The file: valid JSON, a line for each cell, so that a change shows the cells that changed."""
        blocks = []
        for name in type(self).model_fields:
            lines = [json.dumps(cell.model_dump(mode="json", exclude_none=True, exclude=LEFT_BEHIND))
                     for cell in getattr(self, name)]
            blocks.append(f' "{name}": [\n' + ",\n".join(f"  {line}" for line in lines) + "\n ]")
        return "{\n" + ",\n".join(blocks) + "\n}\n"

    def collect(self, root: Path) -> "Cells":
        """These cells and those of root/results; of two of the same name (and weights), the one of root/results.

        Kept teachers and ensembles that no student names any more are dropped.

        Raises:
            UserError: a result is broken.
        """
        students = _merged(self.students, _read(root, paths.metrics(paths.student_results("*", "*", "*")), Result))
        named = {sha for cell in students if cell.origin for sha in cell.origin.teachers.values()}
        teachers, ensembles = ([cell for cell in kept if {*_trained(cell)} <= named]
                               for kept in (self.teachers, self.ensembles))
        return Cells(
            teachers=_merged(teachers, _read(root, paths.metrics(paths.teacher_results("*")), Result)),
            ensembles=_merged(ensembles, _read(root, paths.metrics(paths.ensemble_results("*")), Result)),
            students=students,
            screening=_merged(self.screening, _read(root, paths.screening_result("*", "*", "*", "*"), Screened)),
        )

    def results(self, params: Params, data: str | None = None) -> Results:
        """Teachers, ensembles and students on `data` that params know, arranged for tables and claims."""
        named = {f"{cell.kind} {cell.teacher or cell.ensemble} {' '.join(_trained(cell))}": cell
                 for cell in (*self.teachers, *self.ensembles)}
        named |= {f"{cell.student} {cell.recipe} seed{cell.seed}": cell for cell in self.students}
        return arrange(named, params, data)


def _read(root: Path, pattern: Path, model: type[R]) -> list[R]:
    return [parse(model, path, "Run the command that wrote it again.") for path in sorted(root.glob(str(pattern)))]


def _merged(kept: list[R], fresh: list[R]) -> list[R]:
    cells = {_key(cell): cell for cell in (*kept, *fresh)}
    return [cells[key] for key in sorted(cells)]


def _key(cell: Result) -> tuple[str, ...]:
    screened = (cell.group, cell.variation) if isinstance(cell, Screened) else ()
    trained = () if cell.student else _trained(cell)
    return (*screened, cell.teacher or cell.ensemble or "", cell.student or "", cell.recipe or "",
            f"{cell.seed or 0:010}", *trained)


def _trained(cell: Result) -> tuple[str, ...]:
    """The sha256 of a teacher's weights, or of those of an ensemble's teachers."""
    return (cell.weights,) if cell.weights else tuple(sorted(cell.origin.teachers.values())) if cell.origin else ()
