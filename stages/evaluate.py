"""What `pipeline evaluate` runs: the evaluation stages, for every model that is there."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import evaluate_ensemble, evaluate_student, evaluate_teacher

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params") -> dict[str, Any]:
    """Scores every trained teacher and student that params knows, and ensembles of such; returns {folder: map_area}."""
    teachers = [name for name in params.teachers if paths.weights(paths.teacher_model(name)).exists()]
    weights = sorted(Path().glob(str(paths.weights(paths.student_model("*", "*", "*")))))
    students = [_cell(file.parent) for file in weights if file.parent.name.removeprefix("seed").isdecimal()]
    cells = [cell for cell in students if cell[0] in params.students and cell[1] in params.recipes]
    if not teachers and not cells:
        raise UserError("models/ holds no teacher or student of params.yaml. "
                        "Train one with 'pipeline train-teacher' or 'pipeline distill'.")
    scores = {str(paths.teacher_results(name)): evaluate_teacher.run(params, name) for name in teachers}
    scores |= {str(paths.ensemble_results(key)): evaluate_ensemble.run(params, key)
               for key, ensemble in params.ensembles.items() if {*ensemble.teachers} <= {*teachers}}
    scores |= {str(paths.student_results(*cell)): evaluate_student.run(params, *cell) for cell in cells}
    return {folder: metrics.get("map_area") for folder, metrics in scores.items()}


def _cell(folder: Path) -> tuple[str, str, int]:
    return folder.parent.parent.name, folder.parent.name, int(folder.name.removeprefix("seed"))
