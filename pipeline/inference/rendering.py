"""Recorded views as batches of pixels."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.prefetching import prefetched

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews

OnMismatch = Literal["error", "warn"]


def rendered(
    views: "RecordedViews", data: "DataSet", rows: Sequence[int], batch: int, on_mismatch: OnMismatch = "error"
) -> Iterator[tuple[Sequence[int], NDArray[np.uint8]]]:
    """Batches of rows and their (B, H, W, 3) uint8 RGB pixels, rendered ahead in threads."""
    records = data.records(views.split)

    def render(some: Sequence[int]) -> tuple[Sequence[int], NDArray[np.uint8]]:
        images = np.empty((len(some), *views.size, 3), np.uint8)
        read = lru_cache(1)(lambda image: records[image].read())  # the views of an image follow each other
        for place, row in enumerate(some):
            image = views.view(row).image
            images[place] = views.render(row, partial(read, image), records[image].path, on_mismatch)
        return some, images

    return prefetched(render, (rows[at : at + batch] for at in range(0, len(rows), batch)))
