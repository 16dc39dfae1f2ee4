"""A teacher's store beside what the teacher says of the same views now."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pipeline.distillation import DistillationLoss, TeacherTargets
from pipeline.evaluation.fidelity import Fidelity
from pipeline.inference.augmentation import answer
from pipeline.inference.prediction import inference
from pipeline.inference.rendering import OnMismatch, rendered
from pipeline.inference.sampling import reduce_features
from pipeline.models import preprocess
from pipeline.params import Augmentation, Params, Recipe
from pipeline.targets import channel_weights, known_planes
from pipeline.targets.dequantising import dequantise
from pipeline.targets.resampling import resample

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.inform import Progress
    from pipeline.models import Detector
    from storage import Store


def loss_against(params: Params, store: "Store", student: "Detector") -> tuple[DistillationLoss, list[float]]:
    """The distillation loss of a student against a teacher's store, and its W.

    It is that of the first of `distill.recipes` that learns from this teacher's heads alone or, without one, the
    default.
    """
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


def compare(teacher: "Detector", student: "Detector", loss: DistillationLoss, store: "Store", data: "DataSet",
            recorded: "RecordedViews", rows: Sequence[int], *, batch: int, on_mismatch: OnMismatch,
            device: torch.device, progress: "Progress") -> dict[str, float | None]:
    """`Fidelity.result` of some views of a store.

    Args:
        teacher: that wrote the store.
        student: at whose outputs the loss and its gradient are taken.
        loss: as of `loss_against`.
        store: of these data and views.
        data, recorded: what the views show.
        rows: the views, ascending.
        batch: views of a forward pass.
        on_mismatch: what happens when a view has other pixels than were recorded.
        device: that computes.
        progress: called with views done and in all.

    Raises:
        UserError: an image is not as it was recorded.
        StoreError: the store is damaged.
    """
    identity, fidelity, done = store.spec.identity, Fidelity(loss.to(device), len(data.classes)), 0
    tta = Augmentation.model_validate(identity["tta"])
    labelled = [record.labelled for record in data.records(recorded.split)]
    name, kinds = identity["teacher"], [array.name for array in store.spec.arrays]
    planes = known_planes(store, data.classes)
    known = None if planes is None else torch.tensor(planes, device=device)
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
            targets = [TeacherTargets(live.heatmap, live.peaks, exact, known=known),
                       TeacherTargets(kept["heatmap"], kept["peaks"], stored, known=known)]
            if (grid := said.heatmap.shape[2:]) != live.heatmap.shape[2:]:
                targets = [resample(target, grid) for target in targets]
            fidelity.add_targets(said, *targets)
            fidelity.add_maps(live.peaks, kept["peaks"], kept["heatmap"], kept["wh_offset"],
                              identity["stride"],
                              [recorded.boxes(row) if labelled[recorded.view(row).image] else None for row in some])
            done += len(some)
            progress(done, len(rows), "views")
    return fidelity.result()
