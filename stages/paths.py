"""Where every artefact lies, relative to the folder of dvc.yaml (see docs/architecture.md)."""

from pathlib import Path

WORK = Path(".work")
#: Folders of variations that need data or stores of their own.
SCREENING = Path(".screening")
#: Where stages put their results.
OUTS = ("data", "targets", "models", "results", "report")


def data_folder(name: str) -> Path:
    return Path("data", name)


def views_store() -> Path:
    return Path("targets", "views.zarr")


def teacher_store(teacher: str) -> Path:
    return Path("targets", f"{teacher}.zarr")


def ensemble_store(key: str) -> Path:
    return Path("targets", f"ensemble-{key}.zarr")


def teacher_model(teacher: str) -> Path:
    return Path("models", "teachers", teacher)


def student_model(student: str, recipe: str, seed: int) -> Path:
    return Path("models", "students", student, recipe, f"seed{seed}")


def teacher_results(teacher: str) -> Path:
    return Path("results", "teachers", teacher)


def ensemble_results(key: str) -> Path:
    return Path("results", "ensembles", key)


def student_results(student: str, recipe: str, seed: int) -> Path:
    return Path("results", "students", student, recipe, f"seed{seed}")


def screening_results(group: str, student: str, variation: str) -> Path:
    return Path("results", "study", group, student, variation)


def weights(model_folder: Path) -> Path:
    return model_folder / "weights.safetensors"


def dump_results(teacher: str) -> Path:
    return Path("results", "dumps", f"{teacher}.json")


def plan_results() -> Path:
    return Path("results", "plan.json")
