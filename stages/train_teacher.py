"""Stage `train_teacher`: one teacher, taught by ground truth on views drawn afresh every epoch."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from stages import ahead, entry, inputs, training, work

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from pipeline.data.loading import Source
    from pipeline.params import Params


def run(params: "Params", name: str, *, devices: str = "auto", restart: bool = False,
        keep: bool = False) -> dict[str, Any]:
    """Trains models/teachers/NAME; returns the summary of the run.

    Args:
        name: of the teacher.
        devices: "auto" or a number of processes.
        restart: begin anew, whatever earlier runs left.
        keep: without `restart`, another one that is finished stays.

    Raises:
        UserError: there is such another one.
    """
    from pipeline.params import train_params

    teacher = inputs.named(params.teachers, name, "teacher")
    train = train_params(params.train, teacher.train, f"teachers.{name}.train")
    whole = inputs.prepared_data(params)
    data = inputs.taught_data(params, name, whole)
    if not train.epochs:
        strange = [one for one in teacher.classes or [] if one not in whole.classes]
        left_out = f"; the data has no {', '.join(strange)}, left out" if strange else ""
        planes = ", ".join(teacher.classes or whole.classes)
        work.say(f"train_teacher/{name}: taken as it is, its heatmap's planes as {planes} (teachers.{name}.classes)"
                 f"{left_out}")
    unknown = [one for one in whole.classes if one not in data.classes]
    if unknown:
        work.say(f"train_teacher/{name}: it does not know {', '.join(unknown)} (teachers.{name}.classes)")
        for ensemble in params.ensembles.values():
            if name in ensemble.teachers:  # rather now than when it is trained
                ensemble.check_known({name: [one for one in whole.classes if one not in unknown]})

    def source() -> "Source":
        from pipeline.data.dataset import TRAIN
        from pipeline.data.loading import FreshViews
        from pipeline.models import detector_config

        stride = detector_config(teacher.model, len(data.classes), **teacher.arch).stride
        return FreshViews(data.records(TRAIN), len(data.classes), params.views, stride=stride,
                          seed=train.seed, cache_mb=params.data.cache_mb)

    def objective(fabric: "Fabric", _: "nn.Module") -> "nn.Module":
        from pipeline.engine import mean_over_ranks
        from pipeline.losses import GroundTruthLoss

        return GroundTruthLoss(mean_over_ranks(fabric))

    cell = training.Cell(
        stage=f"train_teacher/{name}", module="stages.train_teacher", out=paths.teacher_model(name),
        data=data, detector=teacher, train=train, seed=train.seed, size_hw=params.views.size,
        inputs={"views": inputs.augmentation(params.views)}, objective=objective)
    if keep and not restart:
        training.refuse_another(cell)
    return training.only(training.run([cell], source=source, devices=devices, restart=restart))


if __name__ == "__main__":
    entry.stage_main(run, "name", check=ahead.check_with_data)
