"""A trained detector as input of later stages."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.dataset import DataSet
    from pipeline.models import Detector


def load_trained(weights: Path, data: "DataSet") -> "Detector":
    """The detector of a weights file, whose classes are those of `data`.

    Raises:
        UserError: the file is damaged, or was trained on other classes.
    """
    from pipeline.models import load_detector

    model = load_detector(weights)
    refuse_other_classes(weights, model.config.classes, data)
    return model


def refuse_other_classes(weights: Path | str, classes: "Sequence[str] | None", data: "DataSet") -> None:
    """Compares the classes of a weights file, if it names any, with those of `data`.

    Raises:
        UserError: they are others, or in another order.
    """
    if classes is not None and tuple(classes) != tuple(data.classes):
        raise UserError(f"{weights} was trained on the classes {', '.join(classes)}, but data/{data.name} has "
                        f"{', '.join(data.classes)}: train it again or prepare the data it belongs to.")
