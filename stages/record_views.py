"""Stage `record_views`: the views of every image that teaches, labelled or not, drawn once, at targets/views.zarr."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from stages import entry, inputs, replacing, work
from stages.views import recorded_views, viewed_split

if TYPE_CHECKING:
    from pipeline.params import Params

STAGE = "record_views"


def run(params: "Params", *, restart: bool = False) -> dict[str, Any]:
    """Writes targets/views.zarr; returns what it holds.

    The views of an older store are kept where params or data only ask for more; not in a restart. What is at the out
    and nowhere else is replaced in a restart alone.
    """
    from pipeline.data.recorded import drawn
    from pipeline.data.recording import older_views, record_views
    from pipeline.inform import progress_bar

    data, out = inputs.prepared_data(params), paths.views_store()
    split = viewed_split(data)

    def build(held: work.Work) -> None:
        older, result = [out, *work.finished(STAGE, out.name)], held.result  # DVC deletes the out first
        old = older_views([] if held.restarted else older, data, split, params.views, result)
        if not held.restarted:
            replacing.refuse_loss(STAGE, out, result, old=old.path if old else None,
                                  expect={"data": data.fingerprint, "split": split, **drawn(params.views)})
        if old:
            work.say(f"{STAGE}: {len(old)} views are taken over from {old.path}")
        with progress_bar("record-views") as progress:
            record_views(data, split, params.views, result, progress=progress, old=old)

    given = {"data": data.fingerprint, "views": inputs.values(params.views, without=("on_mismatch",))}
    work.run(STAGE, module="stages.record_views", inputs=given, out=out, build=build, restart=restart)
    store = recorded_views(data, params.views)
    return {"views": len(store), "fingerprint": store.fingerprint}


if __name__ == "__main__":
    entry.stage_main(run)
