"""The view records as input of later stages; apart from `inputs`, since teachers train without them."""

from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.params import Views


def viewed_split(data: "DataSet") -> str:
    """Of which images views are recorded, as `data.records` takes it: of train, then of those without labels."""
    from pipeline.data.dataset import TRAIN, UNLABELLED

    return f"{TRAIN}+{UNLABELLED}" if data.splits.get(UNLABELLED) else TRAIN


def recorded_views(data: "DataSet", params: "Views") -> "RecordedViews":
    """targets/views.zarr, of this data set and drawn as params say.

    Raises:
        UserError: there are no records yet, they are damaged, or they are of other data or other params.
    """
    from pipeline.data.recorded import RecordedViews
    from storage import StoreError

    inputs.needs(paths.views_store(), "pipeline record-views")
    try:
        return RecordedViews(paths.views_store(), data, viewed_split(data), params)
    except StoreError as error:
        raise UserError(f"{error}. Run 'pipeline record-views' again.") from None
