"""What `pipeline study collect` runs: cells from results/ into docs/study/, and the page about them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from stages import inputs, placing, work

if TYPE_CHECKING:
    from pipeline.params import Params

OUT = Path("docs", "study")


def run(params: "Params") -> dict[str, Any]:
    """Adds the cells of results/ to docs/study/cells.json and writes the page; returns how many there are.

    Raises:
        UserError: there are no cells, or a file of them is broken.
    """
    from pipeline.report import write_study
    from pipeline.report.cells import Cells
    from pipeline.report.study_page import FINDINGS

    data = inputs.prepared_data(params)
    cells = Cells.load(OUT).collect(Path())
    if not cells.students and not cells.screening:
        raise UserError("results/ holds no students: run 'dvc repro', or 'pipeline study screen', first.")
    with work.scratch("study") as fresh:
        write_study(params, data, cells, fresh, findings=(OUT / FINDINGS).exists())
        for part in sorted(fresh.iterdir()):
            placing.place(part, OUT / part.name)
    return {"page": str(OUT / "README.md"), "teachers": len(cells.teachers), "students": len(cells.students),
            "screening": len(cells.screening)}
