"""Recorded views with what teachers said of them: the batches of students."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.loading import Arrays, ImageCache, collate_views
from pipeline.data.views import Image, render_view
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews
    from storage import Store

#: The loss terms that an array is the target of.
TERMS = {"heatmap": "kd_heatmap", "peaks": "kd_wh and kd_offset", "features": "kd_features"}


class ReplayedViews:
    """A batch source that replays recorded views; item (image, epoch) is one view of the image.

    In every V epochs each of an image's V views comes once, in an order of its own.

    Args:
        data: the images.
        recorded: their views.
        stores: of teachers or ensembles; none for ground truth alone.
        arrays: which arrays of each store a batch holds.
        size: (height, width) of the student's input; of the shape of the recorded ones.
        stride: input pixels per cell of the ground truth.
        unlabelled: show the images without labels too.
        flip: mirror each view with probability 1/2, drawn for each on its own and anew in each epoch.
        seed: of the views' order and of what is mirrored.
        on_mismatch: what happens when a view has other pixels than the recorded one.
        cache_mb: memory for decoded images.
    """

    def __init__(
        self, data: "DataSet", recorded: "RecordedViews", stores: "Mapping[str, Store]", *,
        arrays: Mapping[str, Sequence[str]], size: tuple[int, int], stride: int, unlabelled: bool, flip: bool,
        seed: int, on_mismatch: Literal["error", "warn"], cache_mb: float,
    ) -> None:
        assert recorded.data == data.fingerprint, "RecordedViews(path, data) refuses other views"
        records = data.records(recorded.split)
        self.records = records if unlabelled else tuple(record for record in records if record.labelled)
        assert self.records == records[: len(self.records)], "labelled images come first, so that rows of images stay"
        self.unlabelled, self.num_classes = unlabelled, len(data.classes)
        self.recorded, self.stores, self.arrays = recorded, dict(stores), dict(arrays)
        self.size, self.stride, self.flip = size, stride, flip
        self.seed, self.on_mismatch = seed, on_mismatch
        self.images = ImageCache(cache_mb)
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int, epoch: int) -> int:
        """The view that an image shows in an epoch, as a row of the recorded views."""
        cycle, place = divmod(epoch, self.recorded.per_image)
        order = np.random.default_rng([self.seed, index, cycle]).permutation(self.recorded.per_image)
        return int(self.recorded.rows[index, order[place]])

    def mirrored(self, index: int, epoch: int) -> bool:
        """Whether the view of an item is mirrored."""
        # The 1 keeps this draw apart from the order's.
        return self.flip and bool(np.random.default_rng([self.seed, index, epoch, 1]).random() < 0.5)

    def fetch(self, items: Sequence[tuple[int, int]]) -> Arrays:
        """The arrays of `collate_views`, view (B,) int64 rows, and "store/array" codes (B, …).

        With `unlabelled` also labelled (B,) bool: of which views the ground truth counts. With `flip` also
        mirrored (B,) bool, which says of which views the codes (and nothing else) are yet to be mirrored.
        """
        rows = [self.row(index, epoch) for index, epoch in items]
        mirrored = [self.mirrored(index, epoch) for index, epoch in items]
        images, boxes, labels = [], [], []
        for (index, _), row, turned in zip(items, rows, mirrored, strict=True):
            seen, image = self.recorded.boxes(row), self._render(index, row)
            edges = seen[:, :4] * np.float32(self._scale)
            if turned:
                image, edges[:, [0, 2]] = image[:, ::-1], self.size[1] - edges[:, [2, 0]]
            images.append(image)
            boxes.append(edges)
            labels.append(seen[:, 4].astype(np.int64))
        batch = collate_views(images, boxes, labels, num_classes=self.num_classes, stride=self.stride,
                              max_objects=self.recorded.max_objects)
        batch["view"] = np.array(rows, np.int64)
        if self.unlabelled:
            batch["labelled"] = np.array([self.records[index].labelled for index, _ in items])
        if self.flip:
            batch["mirrored"] = np.array(mirrored)
        for name, arrays in self.arrays.items():
            for array in arrays:
                batch[f"{name}/{array}"] = codes = self.stores[name].read(array, rows)
                if codes.dtype.kind == "f" and not np.isfinite(codes).all():
                    raise _not_finite(self.stores[name], array, codes, rows)
        return batch

    @property
    def _scale(self) -> float:
        """Pixels of the student's input per recorded pixel."""
        return self.size[0] / self.recorded.size[0]

    def _render(self, index: int, row: int) -> Image:
        """The pixels of a view at the student's size, drawn from its image."""
        record = self.records[index]
        if self.size == self.recorded.size:
            return self.recorded.render(row, lambda: self.images.read(record), record.path, self.on_mismatch)
        pixels = self.images.read(record)
        if index not in self._checked:  # that the image is the recorded one; once, since it costs another rendering
            self.recorded.check(row, pixels, record.path, self.on_mismatch)
            self._checked.add(index)
        view = self.recorded.view(row)
        return render_view(pixels, view._replace(matrix=view.matrix * self._scale), self.size)


def _not_finite(store: "Store", array: str, codes: NDArray[Any], rows: Sequence[int]) -> UserError:
    broken = [row for row, view in zip(rows, codes, strict=True) if not np.isfinite(view).all()]
    return UserError(f"{store.path}: {array!r}, the target of {TERMS[array]}, is NaN or infinite in the views {broken} "
                     f"of the batch {list(rows)}; the last checkpoint, if there was one, is kept. No dump writes such "
                     "values: dump the teacher again.")
