"""`pipeline store verify --live N`: random views of a teacher's store, computed again and compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs, work
from stages.views import recorded_views

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.models import Detector
    from pipeline.params import Params
    from storage import Store


def run(params: "Params", path: Path | str, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Compares `count` random views of a store with what its teacher says of them now.

    Views of images without labels count in all but the AP. The gradient of the loss is taken at the outputs of a
    student: the first trained one of `distill.students`, or one that is not trained yet.

    Returns:
        `Fidelity.result`, whether it is `ok`, which views, W and student.

    Raises:
        UserError: the store is not a teacher's, its teacher was trained again, or no student suits the size of the
            views.
        StoreError: it is damaged, or of other data or views.
    """
    from pipeline.devices import pick_device
    from pipeline.inform import progress_bar
    from pipeline.verification import compare, loss_against, within_bounds
    from storage import open_store

    data = inputs.prepared_data(params)
    recorded = recorded_views(data, params.views)
    store = open_store(path)
    if store.spec.identity.get("kind") != "teacher":
        raise UserError(f"{path} is a store of the kind {store.spec.identity.get('kind')!r}, and only a teacher's can "
                        f"be compared with what a teacher says live: name one like {paths.teacher_store('NAME')}.")
    store = open_store(path, {"data": data.fingerprint, "views": recorded.fingerprint})
    teacher = teacher_of(store, data)
    student, said = _student(params, data)
    rows = np.sort(np.random.default_rng(seed).choice(len(store), min(count, len(store)), replace=False)).tolist()
    loss, weights = loss_against(params, store, student)
    with progress_bar("verify --live") as progress:
        result = compare(teacher, student, loss, store, data, recorded, rows, batch=params.dump.batch,
                         on_mismatch=params.views.on_mismatch, device=pick_device(), progress=progress)
    return {"path": str(path), "views": len(rows), "seed": seed, **result, "weights": weights, "student": said,
            "ok": within_bounds(result)}


def teacher_of(store: "Store", data: "DataSet") -> "Detector":
    """The teacher that wrote the store, with the very weights.

    Raises:
        UserError: it is not there, or was trained again.
    """
    from pipeline.models import load_trained, read_config

    name, sha256 = (store.spec.identity[key] for key in ("teacher", "weights"))
    weights = inputs.needs(paths.weights(paths.teacher_model(name)), f"pipeline train-teacher {name}")
    if (found := work.file_sha256(weights)) != sha256:
        raise UserError(f"{weights} has sha256 {found[:16]}…, but {store.path} was written with {sha256[:16]}…: the "
                        f"teacher was trained again. Run 'pipeline dump-teachers {name}' again.")
    return load_trained(weights, data.classes, read_config(weights)["classes"])


def _student(params: "Params", data: "DataSet") -> "tuple[Detector, str]":
    """A student to take the gradient at, and which one it is."""
    import torch

    from pipeline.models import build_detector, check_size, detector_config, load_detector, read_config

    of_views = [name for name in params.distill.students if params.students[name].size is None]
    for name in of_views:
        trained = [path for path in sorted(Path().glob(str(paths.weights(paths.student_model(name, "*", "*")))))
                   if read_config(path)["classes"] == list(data.classes)]
        if trained:
            return load_detector(trained[-1]), str(trained[-1].parent)
    name = (of_views or params.distill.students)[0]
    student = inputs.named(params.students, name, "student")
    check_size(detector_config(student.model, len(data.classes), **student.arch), params.views.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_detector(student.model, len(data.classes), **student.arch), f"{name}, not trained yet"
