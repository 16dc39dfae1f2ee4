"""What `train_teacher` looks at before it begins: what would stop a later stage, days after."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.params import Params


def check(params: "Params") -> None:
    """That all networks of the params exist, fit the size of their images, and can be stored as `dump` says.

    Raises:
        UserError: one does not; it names the entry.
    """
    from pipeline.inference.dump import dump_arrays
    from pipeline.models import check_size, detector_config

    for name, teacher in params.teachers.items():
        with _named(f"teachers.{name}"):
            config = detector_config(teacher.model, 1, **teacher.arch)
            check_size(config, params.views.size)
        with _named(f"teachers.{name} could not be dumped"):
            dump_arrays(config, params.views.size, params.dump)
    for name, student in params.students.items():
        with _named(f"students.{name}"):
            check_size(detector_config(student.model, 1, **student.arch), student.size or params.views.size)


@contextmanager
def _named(where: str) -> Iterator[None]:
    from storage import StoreError

    try:
        yield
    except (UserError, StoreError) as error:
        raise UserError(f"{where}: {error}") from None
