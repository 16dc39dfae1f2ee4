"""`pipeline store verify --live N`: random views of a teacher's store, computed again and compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs, work
from stages.trained import load_trained
from stages.views import recorded_views

if TYPE_CHECKING:
    import torch

    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.distillation import DistillationLoss
    from pipeline.inference.rendering import OnMismatch
    from pipeline.inform import Progress
    from pipeline.models import Detector
    from pipeline.params import Params
    from storage import Store


def run(params: "Params", path: Path | str, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Compares `count` random views of a store with what its teacher says of them now.

    Views of images without labels count in all but the AP. The loss is that of the first of `distill.recipes` that
    learns from this teacher's heads alone or, without one, the default; its gradient is taken at the outputs of a
    student: the first trained one of `distill.students`, or one that is not trained yet.

    Returns:
        `Fidelity.result`, which views, W and student.

    Raises:
        UserError: the store is not a teacher's, or its teacher was trained again.
        StoreError: it is damaged, or of other data or views.
    """
    from pipeline.devices import pick_device
    from pipeline.inform import progress_bar
    from storage import open_store

    data = inputs.prepared_data(params)
    recorded = recorded_views(data, params.views)
    store = open_store(path)
    if store.spec.identity.get("kind") != "teacher":
        raise UserError(f"{path} holds {store.spec.identity.get('kind')!r}, and only a teacher's store can be compared "
                        "with what a teacher says live; name one of its members' stores.")
    store = open_store(path, {"data": data.fingerprint, "views": recorded.fingerprint})
    teacher = _teacher(store, data)
    student, said = _student(params, data)
    rows = np.sort(np.random.default_rng(seed).choice(len(store), min(count, len(store)), replace=False)).tolist()
    loss, weights = _loss(params, store, student)
    with progress_bar("verify --live") as progress:
        result = _compare(teacher, student, loss, store, data, recorded, rows, batch=params.dump.batch,
                          on_mismatch=params.views.on_mismatch, device=pick_device(), progress=progress)
    return {"path": str(path), "views": len(rows), "seed": seed, **result, "weights": weights, "student": said}


def _teacher(store: "Store", data: "DataSet") -> "Detector":
    """The teacher that wrote the store, with the very weights."""
    name, sha256 = (store.spec.identity[key] for key in ("teacher", "weights"))
    weights = inputs.needs(paths.weights(paths.teacher_model(name)), f"pipeline train-teacher {name}")
    if (found := work.file_sha256(weights)) != sha256:
        raise UserError(f"{weights} has sha256 {found[:16]}…, but {store.path} was written with {sha256[:16]}…: the "
                        f"teacher was trained again. Run 'pipeline dump-teachers {name}' again.")
    return load_trained(weights, data)


def _student(params: "Params", data: "DataSet") -> "tuple[Detector, str]":
    """A student to take the gradient at, and which one it is."""
    import torch

    from pipeline.models import build_detector, load_detector, read_config

    for name in params.distill.students:
        if params.students[name].size is None:
            trained = [path for path in sorted(Path().glob(str(paths.weights(paths.student_model(name, "*", "*")))))
                       if read_config(path)["classes"] == list(data.classes)]
            if trained:
                return load_detector(trained[-1]), str(trained[-1].parent)
    name = params.distill.students[0]
    student = inputs.entry(params.students, name, "student")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_detector(student.model, len(data.classes), **student.arch), f"{name}, not trained yet"


def _loss(params: "Params", store: "Store", student: "Detector") -> "tuple[DistillationLoss, list[float]]":
    """The distillation loss against this store, and its W."""
    import torch

    from pipeline.distillation import DistillationLoss
    from pipeline.params import Recipe
    from pipeline.targets import channel_weights

    name = store.spec.identity["teacher"]
    alone = [params.recipes[recipe] for recipe in params.distill.recipes
             if recipe in params.recipes and params.recipes[recipe].teachers == [name]
             and any(params.recipes[recipe].weights[:3])]
    recipe = alone[0] if alone else Recipe(teachers=[name])
    features = next((array for array in store.spec.arrays if array.name == "features"), None)
    channels = {name: channel_weights(features, recipe)} if features else {}
    weights = [*recipe.weights[:3], recipe.weights[3] if channels else 0.0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = DistillationLoss(recipe.model_copy(update={"weights": weights}), channels,
                                student.config.feature_channels)
    return loss, weights


def _compare(teacher: "Detector", student: "Detector", loss: "DistillationLoss", store: "Store", data: "DataSet",
             recorded: "RecordedViews", rows: list[int], *, batch: int, on_mismatch: "OnMismatch",
             device: "torch.device", progress: "Progress") -> dict[str, float | None]:
    import torch

    from pipeline.distillation import TeacherTargets
    from pipeline.evaluation.fidelity import Fidelity
    from pipeline.inference.augmentation import answer
    from pipeline.inference.prediction import inference
    from pipeline.inference.rendering import rendered
    from pipeline.inference.sampling import reduce_features
    from pipeline.models import preprocess
    from pipeline.params import Augmentation
    from pipeline.targets.dequantising import dequantise
    from pipeline.targets.resampling import resample

    identity, fidelity, done = store.spec.identity, Fidelity(loss.to(device), len(data.classes)), 0
    tta = Augmentation.model_validate(identity["tta"])
    labelled = [record.labelled for record in data.records(recorded.split)]
    name, kinds = identity["teacher"], [array.name for array in store.spec.arrays]
    with inference(teacher, device), inference(student, device):
        for some, images in rendered(recorded, data, rows, batch, on_mismatch):
            pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
            live = answer(teacher, pixels, precision=identity["precision"], peaks=identity["peaks"], tta=tta)
            kept = {kind: dequantise(torch.from_numpy(store.read(kind, some)).to(device), store.spec[kind])
                    for kind in kinds}
            exact: dict[str, torch.Tensor] = {}
            stored: dict[str, torch.Tensor] = {}
            if "features" in kept:
                exact = {name: reduce_features(live.features, store.spec["features"])}
                stored = {name: kept["features"]}
            said = student(preprocess(pixels, student.config))[-1]
            targets = [TeacherTargets(live.heatmap, live.peaks, exact),
                       TeacherTargets(kept["heatmap"], kept["peaks"], stored)]
            if (grid := said.heatmap.shape[2:]) != live.heatmap.shape[2:]:
                targets = [resample(target, grid) for target in targets]
            fidelity.add_targets(said, *targets)
            fidelity.add_maps(live.peaks, kept["peaks"], kept["heatmap"], kept["wh_offset"],
                              identity["stride"],
                              [recorded.boxes(row) if labelled[recorded.view(row).image] else None for row in some])
            done += len(some)
            progress(done, len(rows), "views")
    return fidelity.result()
