"""What is looked at before a teacher is trained: what would stop a later stage, days after."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.params import Params


def check(params: "Params") -> None:
    """That all networks of the params exist and fit the size of their images, teachers at the scales of the dump too.

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
    for name, student in params.students.items():
        with _named(f"students.{name}"):
            check_size(detector_config(student.model, 1, **student.arch), student.size or params.views.size)


@contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
