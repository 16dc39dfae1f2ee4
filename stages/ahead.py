"""What commands look at before they begin: what would stop a later one, days after."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs
from storage import differences, in_short

if TYPE_CHECKING:
    from pipeline.params import Params


def check(params: "Params") -> None:
    """That networks exist and fit the size of their images, and that what students are to learn from can be made.

    Networks of teachers also at the scales of the dump, beside each other, and with the weights that they begin with.

    Raises:
        UserError: something is not so; it names the entry.
    """
    from pipeline.inference.augmentation import check_scales
    from pipeline.models import check_size, detector_config
    from pipeline.targets import check_shape

    strides = {}
    for name, teacher in params.teachers.items():
        with _named(f"teachers.{name}"):
            config = detector_config(teacher.model, 1, **teacher.arch)
            strides[name] = config.stride
            check_size(config, params.views.size)
            check_scales(config, params.views.size, params.dump.tta)
            if not paths.weights(paths.teacher_model(name)).exists():
                _there_or_made(teacher.weights)
    for name, student in params.students.items():
        with _named(f"students.{name}"):
            size = student.size or params.views.size
            check_size(detector_config(student.model, 1, **student.arch), size)
            check_shape(size, params.views.size)
            _there_or_made(student.weights)
    for name, ensemble in params.ensembles.items():
        with _named(f"ensembles.{name}"):
            _of_one_stride(ensemble.teachers, strides)
    for name in params.distill.recipes:
        recipe = params.recipes[name]
        inputs.refuse_live(name, recipe)
        with _named(f"recipes.{name}"):
            if recipe.separate:
                _of_one_stride(recipe.teachers, strides)
            if recipe.reads_features and not params.dump.features:
                use = (f"w4 is {recipe.weights[3]:g}" if recipe.weights[3] else
                       "attend_outputs with attention 'spatial' needs features")
                raise UserError(f"{use}, but with dump.features: false no store has features; set "
                                f"{'w4 to 0' if recipe.weights[3] else 'attend_outputs: false'}, or dump them.")


def check_with_data(params: "Params") -> None:
    """`check`, and that the prepared data set has the splits that an ensemble needs; not for `prepare`, which makes it.

    Raises:
        UserError: something is not so.
    """
    from pipeline.data.dataset import load_manifest

    check(params)
    folder = paths.data_folder(params.data.name)
    splits = load_manifest(folder)["splits"] if folder.exists() else {"val": True, "test": True}
    remedies = {"val": "set data.val_fraction above 0", "test": "name one in data.sets"}
    missing = [name for name in remedies if not splits.get(name)]
    for name, ensemble in params.ensembles.items() if missing else ():
        if ensemble.heatmap == "class-ap":
            raise UserError(f"ensembles.{name} weighs teachers by their AP on val (class-ap), and they are scored on "
                            f"val and test, but {folder} has no {missing[0]} split: {remedies[missing[0]]} and run "
                            "'pipeline prepare', or choose another rule.")


def check_prepared(params: "Params") -> None:
    """That the prepared data set, if there is one, is the one that params describe.

    Raises:
        UserError: it is not.
    """
    from pipeline.data.dataset import load_manifest

    folder = paths.data_folder(params.data.name)
    if not folder.exists():
        return
    if (then := load_manifest(folder).get("params")) is None:
        raise UserError(f"{folder} was prepared by other code. Run 'pipeline prepare' again.")
    if found := differences(then, params.data.deciding, both_ways=True):
        raise UserError(f"{folder} was prepared with other params ({in_short(found)}). Run 'pipeline prepare' to make "
                        "it again, or put them back.")


def _of_one_stride(teachers: Sequence[str], strides: Mapping[str, int]) -> None:
    if len({strides[name] for name in teachers}) > 1:
        said = ", ".join(f"{name} has stride {strides[name]}" for name in teachers)
        raise UserError(f"{said}: what several teachers say is compared on one grid. Leave one out, or give them "
                        "architectures of one stride.")


def _there_or_made(weights: str | None) -> None:
    """A file of weights is there; one in models/ may be made by then."""
    if weights and not Path(weights).absolute().is_relative_to(Path("models").absolute()):
        inputs.weights_file(weights)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
