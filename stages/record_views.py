"""Stage `record_views`: the views of every training image, drawn once, at targets/views.zarr."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import entry, inputs, paths, work
from stages.views import recorded_views

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params") -> dict[str, Any]:
    """Writes targets/views.zarr; returns what it holds."""
    from pipeline.data.recorded import record_views
    from pipeline.inform import progress_bar

    data = inputs.prepared_data(params)

    def build(folder: Path, result: Path, _: str) -> None:
        with progress_bar("record-views") as progress:
            record_views(data, inputs.TRAIN, params.views, result, progress=progress)

    given = {"data": data.fingerprint, "views": inputs.values(params.views, without=("on_mismatch",))}
    work.run("record_views", module="stages.record_views", inputs=given, out=paths.views_store(), build=build)
    store = recorded_views(data, params.views)
    return {"views": len(store), "fingerprint": store.fingerprint}


if __name__ == "__main__":
    entry.stage_main(run)
