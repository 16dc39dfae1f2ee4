"""Stage `evaluate_teacher`: one teacher's AP on test, val and train, at results/teachers/NAME/metrics.json."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from stages import entry, inputs, scoring

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params", name: str) -> dict[str, Any]:
    """Scores one teacher; returns its metrics."""
    teacher = inputs.named(params.teachers, name, "teacher")
    return scoring.score(
        params, f"evaluate_teacher/{name}", module="stages.evaluate_teacher", model_folder=paths.teacher_model(name),
        about={"kind": "teacher", "teacher": name, "recipe": None, "seed": None},
        out=paths.metrics(paths.teacher_results(name)), beside=("unseen", "val", "train"),
        classes=teacher.classes, command=f"pipeline train-teacher {name}")


if __name__ == "__main__":
    entry.stage_main(run, "name")
