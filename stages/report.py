"""Stage `report`: the page, its tables and figures, at report/."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import entry, placing, work

if TYPE_CHECKING:
    from pipeline.params import Params

OUT = Path("report")


def run(params: "Params") -> dict[str, Any]:
    """Writes report/; returns where the pages are."""
    from pipeline.inform import progress_bar
    from pipeline.report import write_report

    with work.scratch("report") as fresh:
        with progress_bar("report") as progress:
            write_report(params, Path(), fresh, progress=progress)
        placing.place(fresh, OUT)
    return {"page": str(OUT / "index.html"), "markdown": str(OUT / "report.md")}


if __name__ == "__main__":
    entry.stage_main(run)
