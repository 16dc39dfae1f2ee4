"""What stages read before they work: entries of params by name, artefacts of earlier stages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from pipeline import paths
from pipeline.errors import UserError, unknown
from pipeline.params import Params, Recipe, Views, train_params
from stages.work import file_sha256, say

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet

T = TypeVar("T")


def named(table: Mapping[str, T], name: str, kind: str) -> T:
    """`table[name]`, or an error that lists what there is."""
    if name not in table:
        raise unknown(kind, name, list(table))
    return table[name]


def values(block: BaseModel, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """A block of params as JSON values, less the keys that do not decide a result."""
    return block.model_dump(mode="json", exclude=set(without))


def prepared_data(params: Params) -> "DataSet":
    """The data set that `prepare` wrote."""
    from pipeline.data.dataset import load_data

    folder = paths.data_folder(params.data.name)
    needs(folder, "pipeline prepare")
    return load_data(folder)


def taught_data(params: Params, teacher: str, data: "DataSet") -> "DataSet":
    """`data` with the classes of a teacher alone, those of its planes.

    Raises:
        UserError: it is trained on a class that the data does not have, or all that it knows are such ones.
    """
    known = params.teachers[teacher]
    if known.classes is None:
        return data
    epochs = train_params(params.train, known.train, f"teachers.{teacher}.train").epochs
    try:
        return data.of_classes(known.classes, lacking=not epochs)
    except UserError as error:
        raise UserError(f"teachers.{teacher}.classes: {error}") from None


def needs(path: Path, command: str) -> Path:
    """`path`, or an error that says which command makes it."""
    if not path.exists():
        raise UserError(f"{path} does not exist. Make it with '{command}', or run everything with 'dvc repro'.")
    return path


def training_summary(model_folder: Path) -> dict[str, Any]:
    """What the training run wrote beside its weights: steps, passes, seconds, last losses.

    Raises:
        UserError: it is damaged.
    """
    path, remedy = model_folder / "summary.json", "Train this model again."
    summary = read_json(path, ("passes", "seconds"), remedy)
    if not isinstance(summary.get("origin"), dict | None):
        raise UserError(f"{path} has no names under 'origin'. {remedy}")
    return summary


def read_json(path: Path, keys: Sequence[str], remedy: str) -> dict[str, Any]:
    """A JSON file of a stage, which a person or a merge may have damaged.

    Raises:
        UserError: it is no JSON, or lacks one of the keys; `remedy` says what to do.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}. {remedy}") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} has no {missing[0]!r}. {remedy}")
    return dict(content)


def tell_of_other_data(model_folder: Path, data: "DataSet") -> None:
    """Says so of a network that was trained on another state of the data: DVC would train it again first."""
    if not (model_folder / "summary.json").exists():
        return
    then = (training_summary(model_folder).get("origin") or {}).get("data")
    if then not in (None, data.fingerprint):
        say(f"{model_folder} was trained on another state of the data ({then[:16]}, data/{data.name} is "
            f"{data.fingerprint[:16]} now)")


def weights_file(path: str | None) -> Path | None:
    """The file that `weights` names, if it names one.

    Raises:
        UserError: it does not exist, or is a folder.
    """
    if path is not None and not Path(path).is_file():
        raise UserError(f"weights file {path} {'is a folder' if Path(path).is_dir() else 'does not exist'}.")
    return Path(path) if path else None


def weights_sha256(path: str | None) -> str | None:
    """What a weights file adds to a fingerprint."""
    file = weights_file(path)
    return file_sha256(file) if file else None


def dumped(params: Params, teacher: str) -> dict[str, Any]:
    """The identity that a teacher's store must have: dumped as params say, from the weights that are there, if any."""
    weights = paths.weights(paths.teacher_model(teacher))
    return {**params.dump.identity, **({"weights": file_sha256(weights)} if weights.exists() else {})}


def refuse_live(name: str, recipe: Recipe) -> None:
    """Raises a UserError for a recipe that no store serves."""
    if recipe.live:
        raise UserError(f"recipe {name!r} has teachers and views: fresh, of which no store says anything. Set views: "
                        "stored, or make it a variation of 'pipeline study screen', which runs the teachers in every "
                        "step.")


def augmentation(views: Views) -> dict[str, Any]:
    """The keys of `views` that decide how a fresh view is drawn."""
    return values(views, without=("per_image", "seed", "shard_views", "image", "on_mismatch"))


def store_exists(path: Path | str) -> None:
    """Raises a UserError for one that is not there: which command makes it, where its place tells."""
    if isinstance(path, str) or path.exists():
        return
    command = f"dump-teachers {path.stem}"
    if path.name == paths.views_store().name:
        command = "record-views"
    elif path.match(paths.ensemble_store("*").name):
        command = f"build-ensemble {path.stem.removeprefix(paths.ensemble_name(''))}"
    advice = f"; make it with 'pipeline {command}'" if path.absolute().match(str(paths.store("*"))) else ""
    raise UserError(f"{path}: there is no store{advice}")
