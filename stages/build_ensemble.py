"""Stage `build_ensemble`: the heads of several teachers merged, at targets/ensemble-KEY.zarr."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from stages import entry, inputs, paths, work

if TYPE_CHECKING:
    from pipeline.params import Params
    from storage import Store


def run_all(params: "Params", keys: Sequence[str], *, restart: bool = False) -> dict[str, Any]:
    """`run` for each of `keys`, or for all ensembles; every key is checked before any work."""
    for key in keys:
        inputs.entry(params.ensembles, key, "ensemble")
    return {key: run(params, key, restart=restart) for key in keys or params.ensembles}


def run(params: "Params", key: str, *, restart: bool = False) -> dict[str, Any]:
    """Merges the stores of one ensemble's teachers; returns what the result holds."""
    from pipeline.ensemble.building import build_ensemble
    from pipeline.inform import progress_bar
    from storage import open_store

    ensemble = inputs.entry(params.ensembles, key, "ensemble")
    stores = {teacher: _open(params, teacher) for teacher in ensemble.teachers}

    def build(folder: Path, result: Path, _: str) -> None:
        with progress_bar(f"ensemble {key}") as progress:
            build_ensemble(stores, result, params=ensemble, progress=progress)

    given = {"stores": {name: store.fingerprint for name, store in stores.items()}, "ensemble": inputs.values(ensemble)}
    out = paths.ensemble_store(key)
    work.run(f"build_ensemble/{key}", module="stages.build_ensemble", inputs=given, out=out, build=build,
             restart=restart)
    store = open_store(out)
    return {"views": len(store), "fingerprint": store.fingerprint}


def _open(params: "Params", teacher: str) -> "Store":
    from storage import FingerprintMismatch, open_store

    inputs.entry(params.teachers, teacher, "teacher")
    command = f"pipeline dump-teachers {teacher}"
    try:
        return open_store(inputs.needs(paths.teacher_store(teacher), command), inputs.dumped(params, teacher))
    except FingerprintMismatch as error:
        raise UserError(f"{error}. Run '{command}' again.") from None


if __name__ == "__main__":
    entry.stage_main(run, "key")
