"""Stage `evaluate_student`: one student's AP on test, at results/students/…/metrics.json."""

from typing import TYPE_CHECKING, Any

from pipeline import paths
from stages import entry, inputs, scoring

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params", student: str, recipe: str, seed: int) -> dict[str, Any]:
    """Scores one student; returns its metrics."""
    size = inputs.named(params.students, student, "student").size
    inputs.named(params.recipes, recipe, "recipe")
    return scoring.score(
        params, f"evaluate_student/{student}/{recipe}/seed{seed}", module="stages.evaluate_student",
        model_folder=paths.student_model(student, recipe, seed),
        about={"kind": "student", "student": student, "recipe": recipe, "seed": seed},
        out=paths.metrics(paths.student_results(student, recipe, seed)),
        beside=("unseen", "val"), size_hw=size,
        command=f"pipeline distill --student {student} --recipe {recipe} --seed {seed}")


if __name__ == "__main__":
    entry.stage_main(run, "student", "recipe", "seed")
