"""Where every artefact lies, relative to the folder of dvc.yaml (see docs/architecture.md).

With "*" for a name or a seed a path is a pattern for `Path.glob`.
"""

from pathlib import Path

WORK = Path(".work")
#: Students of a screening, by group, student, variation and seed.
SCREENED = WORK / "screened"
#: Folders of variations that need data or stores of their own.
SCREENING = Path(".screening")
#: The merged store among those that a recipe reads; no teacher has this name.
ENSEMBLE = "ensemble"
#: Where stages put their results.
OUTS = ("data", "targets", "models", "results", "report")


def data_folder(name: str) -> Path:
    return Path("data", name)


def store(name: str) -> Path:
    return Path("targets", f"{name}.zarr")


def views_store() -> Path:
    return store("views")


def teacher_store(teacher: str) -> Path:
    return store(teacher)


def ensemble_name(key: str) -> str:
    """Of an ensemble among the stores."""
    return f"{ENSEMBLE}-{key}"


def ensemble_store(key: str) -> Path:
    return store(ensemble_name(key))


def teacher_model(teacher: str) -> Path:
    return Path("models", "teachers", teacher)


def student_model(student: str, recipe: str, seed: int | str) -> Path:
    return Path("models", "students", student, recipe, f"seed{seed}")


def teacher_results(teacher: str) -> Path:
    return Path("results", "teachers", teacher)


def ensemble_results(key: str) -> Path:
    return Path("results", "ensembles", key)


def student_results(student: str, recipe: str, seed: int | str) -> Path:
    return Path("results", "students", student, recipe, f"seed{seed}")


def screening_result(group: str, student: str, variation: str, seed: int | str) -> Path:
    return Path("results", "study", group, student, variation, f"seed{seed}.json")


def weights(model_folder: Path) -> Path:
    return model_folder / "weights.safetensors"


def metrics(results: Path) -> Path:
    return results / "metrics.json"


def dump_results(teacher: str) -> Path:
    return Path("results", "dumps", f"{teacher}.json")


def plan_results() -> Path:
    return Path("results", "plan.json")
