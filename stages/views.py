"""The view records as input of later stages; apart from `inputs`, since teachers train without them."""

from typing import TYPE_CHECKING

from stages import inputs, paths

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews


def recorded_views(data: "DataSet") -> "RecordedViews":
    """targets/views.zarr, of this data set.

    Raises:
        UserError: there are no records yet.
        FingerprintMismatch: they are of other data.
    """
    from pipeline.data.recorded import RecordedViews

    inputs.needs(paths.views_store(), "pipeline record-views")
    return RecordedViews(paths.views_store(), data, inputs.TRAIN)
