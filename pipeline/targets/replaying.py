"""Recorded views with what teachers said of them: the batches of students."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.data.loading import Arrays, ImageCache, collate_views

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews
    from storage import Store


class ReplayedViews:
    """A batch source that replays recorded views; item (image, epoch) is one view of the image.

    In every V epochs each of an image's V views comes once, in an order of its own.

    Args:
        data: the images.
        recorded: their views.
        stores: of teachers or ensembles; none for ground truth alone.
        arrays: which arrays of each store a batch holds.
        stride: input pixels per cell of the ground truth.
        seed: of the views' order.
        on_mismatch: what happens when a view has other pixels than the recorded one.
        cache_mb: memory for decoded images.
    """

    def __init__(
        self, data: "DataSet", recorded: "RecordedViews", stores: "Mapping[str, Store] | None" = None, *,
        arrays: Mapping[str, Sequence[str]] | None = None, stride: int = 4, seed: int = 0,
        on_mismatch: Literal["error", "warn"] = "error", cache_mb: float = 1024,
    ) -> None:
        assert recorded.data == data.fingerprint, "RecordedViews(path, data) refuses other views"
        self.records, self.num_classes = data.records(recorded.split), len(data.classes)
        self.recorded, self.stores, self.arrays = recorded, dict(stores or {}), dict(arrays or {})
        self.stride, self.seed, self.on_mismatch = stride, seed, on_mismatch
        self.images = ImageCache(cache_mb)

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int, epoch: int) -> int:
        """The view that an image shows in an epoch, as a row of the recorded views."""
        cycle, place = divmod(epoch, self.recorded.per_image)
        order = np.random.default_rng([self.seed, index, cycle]).permutation(self.recorded.per_image)
        return int(self.recorded.rows[index, order[place]])

    def fetch(self, items: Sequence[tuple[int, int]]) -> Arrays:
        """The arrays of `collate_views`, view (B,) int64 rows, and "store/array" codes (B, …)."""
        rows = [self.row(index, epoch) for index, epoch in items]
        images, boxes, labels = [], [], []
        for (index, _), row in zip(items, rows, strict=True):
            record, seen = self.records[index], self.recorded.boxes(row)
            images.append(self.recorded.render(row, self.images.read(record), record.path, self.on_mismatch))
            boxes.append(seen[:, :4])
            labels.append(seen[:, 4].astype(np.int64))
        batch = collate_views(images, boxes, labels, num_classes=self.num_classes, stride=self.stride,
                              max_objects=self.recorded.max_objects)
        batch["view"] = np.array(rows, np.int64)
        for name, arrays in self.arrays.items():
            for array in arrays:
                batch[f"{name}/{array}"] = self.stores[name].read(array, rows)
        return batch
