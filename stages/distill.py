"""Stage `distill`: one student, one recipe, one seed; it reads the store and loads no teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import entry, inputs, paths, training, work
from stages.views import recorded_views

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from pipeline.data.loading import Source
    from pipeline.models import Detector
    from pipeline.params import Params, Recipe


def run_all(params: "Params", students: Sequence[str], recipes: Sequence[str] = (), seeds: Sequence[int] = (), *,
            devices: str = "auto", restart: bool = False) -> dict[str, Any]:
    """`run` for every cell of students x recipes x seeds; every name is checked before any work."""
    cells = [(student, recipe, seed) for student in students or params.distill.students
             for recipe in recipes or params.distill.recipes for seed in seeds or params.distill.seeds]
    for student, recipe, _ in cells:
        inputs.entry(params.students, student, "student")
        _store_paths(params, recipe)
    return {str(paths.student_model(*cell)): run(params, *cell, devices=devices, restart=restart) for cell in cells}


def run(params: "Params", student: str, recipe: str, seed: int, *, devices: str = "auto",
        restart: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Trains models/students/STUDENT/RECIPE/seedN (or `out`); returns the summary of the run."""
    from pipeline.params import Views, train_params
    from pipeline.targets import open_targets

    detector = inputs.entry(params.students, student, "student")
    chosen = inputs.entry(params.recipes, recipe, "recipe")
    train = train_params(params.distill.train, detector.train, f"students.{student}.train")
    data = inputs.prepared_data(params)
    recorded = params.views if chosen.views == "fresh" else recorded_views(data, params.views)
    targets = open_targets(_store_paths(params, recipe), chosen, data, recorded, size=detector.size,
                           flip=params.distill.flip,
                           dumped={teacher: inputs.dumped(params, teacher) for teacher in chosen.teachers})

    seen = inputs.augmentation(recorded) if isinstance(recorded, Views) else recorded.fingerprint
    if not any(chosen.weights) and (chosen.teachers or chosen.oracle):
        work.say(f"Recipe {recipe!r} has W of zeros: {student} is trained on ground truth alone.")

    def source(model: "Detector") -> "Source":
        return targets.source(seed=seed, stride=model.config.stride, on_mismatch=params.views.on_mismatch,
                              cache_mb=params.data.cache_mb)

    def objective(fabric: "Fabric", model: "Detector") -> "nn.Module":
        from pipeline.engine import mean_over_ranks

        return targets.objective(model, mean_over_ranks(fabric))

    return training.run(
        f"distill/{student}/{recipe}/seed{seed}", module="stages.distill",
        out=out or paths.student_model(student, recipe, seed), data=data, detector=detector, train=train, seed=seed,
        size_hw=targets.size, source=source, objective=objective, devices=devices, restart=restart,
        prepare=targets.on_device,
        inputs={"views": seen, "recipe": inputs.values(chosen), "stores": targets.fingerprints,
                "flip": targets.flip})


def _store_paths(params: "Params", recipe: str) -> dict[str, Path]:
    """Where the targets of a recipe lie: {"ensemble" or a teacher's name: store}."""
    chosen: Recipe = inputs.entry(params.recipes, recipe, "recipe")
    stores = {}
    for teacher in chosen.teachers:
        inputs.entry(params.teachers, teacher, f"teacher of recipe {recipe!r}")
        stores[teacher] = inputs.needs(paths.teacher_store(teacher), f"pipeline dump-teachers {teacher}")
    if chosen.merged is not None:
        inputs.entry(params.ensembles, chosen.merged, f"ensemble of recipe {recipe!r}")
        stores["ensemble"] = inputs.needs(paths.ensemble_store(chosen.merged),
                                          f"pipeline build-ensemble {chosen.merged}")
    return stores


if __name__ == "__main__":
    entry.stage_main(run, "student", "recipe", "seed")
