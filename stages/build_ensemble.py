"""Stage `build_ensemble`: the heads of several teachers merged, at targets/ensemble-KEY.zarr."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import entry, inputs, replacing, work

if TYPE_CHECKING:
    from pipeline.params import Params
    from storage import Store

BY_AP, BY_TRUTH = "class-ap", "agreement"


def run(params: "Params", key: str, *, restart: bool = False) -> dict[str, Any]:
    """Merges the stores of one ensemble's teachers; returns what the result holds.

    What is at the out and nowhere else is replaced in a restart alone.
    """
    from pipeline.data.recorded import RecordedViews
    from pipeline.ensemble.building import build_ensemble
    from pipeline.inform import progress_bar
    from storage import open_store

    ensemble = inputs.named(params.ensembles, key, "ensemble")
    known = class_ap(params, key) if ensemble.heatmap == BY_AP else None
    truth, views = None, {}
    if ensemble.heatmap == BY_TRUTH:
        recorded = RecordedViews(inputs.needs(paths.views_store(), "pipeline record-views"))
        truth, views = recorded.boxes, {"views": recorded.fingerprint}
    stores = {teacher: _open(params, teacher, views) for teacher in ensemble.teachers}

    def build(held: work.Work) -> None:
        if not held.restarted:
            replacing.refuse_loss(stage, out, held.result, expect={"members": given["stores"], **ensemble.identity})
        with progress_bar(f"ensemble {key}") as progress:
            build_ensemble(stores, held.result, params=ensemble, class_ap=known, truth=truth, progress=progress)

    given = {"stores": {name: store.content for name, store in stores.items()}, "ensemble": inputs.values(ensemble),
             "class_ap": known}
    out, stage = paths.ensemble_store(key), f"build_ensemble/{key}"
    work.run(stage, module="stages.build_ensemble", inputs=given, out=out, build=build, restart=restart)
    store = open_store(out)
    return {"views": len(store), "fingerprint": store.fingerprint}


def class_ap(params: "Params", key: str) -> dict[str, dict[str, float | None]]:
    """`known_ap` on val of each teacher of an ensemble."""
    from pipeline.ensemble.weighting import known_ap

    found, again = {}, "Run 'pipeline evaluate' again."
    for teacher in params.ensembles[key].teachers:
        path = inputs.needs(paths.metrics(paths.teacher_results(teacher)), "pipeline evaluate")
        metrics = inputs.read_json(path, ("val", "data"), again)
        if not metrics["val"]:
            raise UserError(f"ensembles.{key}.heatmap: {BY_AP} weighs teachers by their AP on val, but data set "
                            f"{metrics['data']!r} has no val split; set data.val_fraction above 0 and run "
                            "'pipeline prepare' again, or choose another rule.")
        try:
            found[teacher] = known_ap(metrics["val"]["per_class"], params.teachers[teacher].classes)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{path} has no AP of each class on val ('val.per_class'). {again}") from None
    return found


def _open(params: "Params", teacher: str, views: dict[str, str]) -> "Store":
    from storage import StoreError, open_store

    inputs.named(params.teachers, teacher, "teacher")
    command = f"pipeline dump-teachers {teacher}"
    try:
        return open_store(inputs.needs(paths.teacher_store(teacher), command),
                          {**views, **inputs.dumped(params, teacher)})
    except StoreError as error:
        raise UserError(f"{error}. Run '{command}' again.") from None


if __name__ == "__main__":
    entry.stage_main(run, "key")
