"""A teacher's store beside what the teacher says of the same views now."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pipeline.distillation import DistillationLoss, TeacherTargets
from pipeline.evaluation.fidelity import Fidelity
from pipeline.inference.augmentation import answer
from pipeline.inference.prediction import inference
from pipeline.inference.rendering import OnMismatch, rendered
from pipeline.inference.sampling import Reduction
from pipeline.models import preprocess
from pipeline.params import Augmentation, Params, Recipe
from pipeline.targets import channel_weights, known_planes
from pipeline.targets.dequantising import dequantise
from pipeline.targets.resampling import on_grid

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.inform import Progress
    from pipeline.models import Detector
    from storage import Store


#: What a store may be apart from its teacher: share of the loss, cosine of the gradients, points of AP.
MOST_LOSS, LEAST_COSINE, MOST_AP = 0.01, 0.999, 0.1


def within_bounds(result: Mapping[str, float | None]) -> bool:
    """Whether a `Fidelity.result` is as near as a store has to be; without an AP, where no object counts."""
    loss, cosine, apart = (result[key] for key in ("loss_difference", "gradient_cosine", "ap_difference"))
    assert loss is not None
    assert cosine is not None
    return loss < MOST_LOSS and cosine > LEAST_COSINE and (apart is None or apart < MOST_AP)


def loss_against(params: Params, store: "Store", student: "Detector") -> tuple[DistillationLoss, list[float]]:
    """The distillation loss of a student against a teacher's store, and its W.

    It is that of the first of `distill.recipes` that learns from this teacher's heads alone or, without one, the
    default. Of a store without features it has no term of them, and attends to nothing in its outputs.
    """
    name = store.spec.identity["teacher"]
    alone = [params.recipes[recipe] for recipe in params.distill.recipes
             if recipe in params.recipes and params.recipes[recipe].teachers == [name]
             and any(params.recipes[recipe].weights[:3])]
    recipe = alone[0] if alone else Recipe(teachers=[name])
    features = next((array for array in store.spec.arrays if array.name == "features"), None)
    channels = {name: channel_weights(features, recipe)} if features else {}
    weights = [*recipe.weights[:3], recipe.weights[3] if channels else 0.0]
    about = {"weights": weights, "attend_outputs": recipe.attend_outputs and bool(channels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = DistillationLoss(recipe.model_copy(update=about), channels, student.config.feature_channels)
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
    reduce = Reduction(store.spec["features"], device) if "features" in kinds else None
    with inference(teacher, device), inference(student, device):
        for some, images in rendered(recorded, data, rows, batch, on_mismatch):
            pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
            live = answer(teacher, pixels, precision=identity["precision"], peaks=identity["peaks"], tta=tta)
            kept = {kind: dequantise(torch.from_numpy(store.read(kind, some)).to(device), store.spec[kind])
                    for kind in kinds}
            exact: dict[str, torch.Tensor] = {}
            stored: dict[str, torch.Tensor] = {}
            if reduce:
                exact = {name: reduce(live.features)}
                stored = {name: kept["features"]}
            said = student(preprocess(pixels, student.config))[-1]
            targets = [TeacherTargets(live.heatmap, live.peaks, exact, known=known),
                       TeacherTargets(kept["heatmap"], kept["peaks"], stored, known=known)]
            fidelity.add_targets(said, *(on_grid(target, said.heatmap.shape[2:]) for target in targets))
            fidelity.add_maps(live.peaks, kept["peaks"], kept["heatmap"], kept["wh_offset"],
                              identity["stride"],
                              [recorded.boxes(row) if labelled[recorded.view(row).image] else None for row in some])
            done += len(some)
            progress(done, len(rows), "views")
    return fidelity.result()
