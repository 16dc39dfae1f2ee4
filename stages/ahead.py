"""What commands look at before they begin: what would stop a later one, days after."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs
from storage import differences

if TYPE_CHECKING:
    from pipeline.params import Params


def check(params: "Params") -> None:
    """That all networks of the params and their weights exist, and fit the size of their images.

    Of teachers at the scales of the dump too; and that an ensemble has the split that it needs.

    Raises:
        UserError: one does not; it names the entry.
    """
    from pipeline.inference.augmentation import check_scales
    from pipeline.models import check_size, detector_config

    for name, teacher in params.teachers.items():
        with _named(f"teachers.{name}"):
            config = detector_config(teacher.model, 1, **teacher.arch)
            check_size(config, params.views.size)
            check_scales(config, params.views.size, params.dump.tta)
            _there_or_made(teacher.weights)
    for name, student in params.students.items():
        with _named(f"students.{name}"):
            check_size(detector_config(student.model, 1, **student.arch), student.size or params.views.size)
            _there_or_made(student.weights)


def check_prepared(params: "Params") -> None:
    """That the prepared data set is the one that params describe, and has what they need of it.

    Raises:
        UserError: it is of other params, or without a split. Where it is not there, whoever reads it says so.
    """
    from pipeline.data.dataset import load_manifest

    folder = paths.data_folder(params.data.name)
    if not folder.exists():
        return
    manifest = load_manifest(folder)
    if found := differences(manifest.get("params") or {}, params.data.deciding, both_ways=True):
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{folder} was prepared with other params ({'; '.join(found[:3])}{more}). Run 'pipeline "
                        "prepare' to make it again, or put them back.")
    if manifest["splits"].get("val"):
        return
    for key, ensemble in params.ensembles.items():
        if ensemble.heatmap == "class-ap":
            raise UserError(f"ensembles.{key}.heatmap: class-ap weighs teachers by their AP on val, but {folder} has "
                            "no val split: set data.val_fraction above 0 and run 'pipeline prepare', or choose "
                            "another rule.")


def _there_or_made(weights: str | None) -> None:
    """A file of weights is there; one in models/ may be made by then."""
    if weights and not Path(weights).is_relative_to("models"):
        inputs.weights_file(weights)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
