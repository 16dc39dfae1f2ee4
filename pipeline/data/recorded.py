"""Views resolved once and kept as numbers: every teacher and student replays exactly these."""

import hashlib
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.pixels import pack, unpack
from pipeline.data.views import Image, View, render_view
from pipeline.errors import UserError
from storage import CorruptStore, Store, open_store

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.pixels import Form
    from pipeline.params import Views

#: Of resolving and rendering: views that another version recorded are other views.
VERSION = 2


def drawn(params: "Views", *without: str) -> dict[str, Any]:
    """What of the params decides the views, as a store's identity names it; `without` these keys."""
    rules = params.model_dump(mode="json", exclude={"size", "shard_views", "on_mismatch", *without})
    return {"size": list(params.size), "views": rules}


def views_fingerprint(store: Store, records: npt.NDArray[np.int64]) -> str:
    """sha256 of a store's fingerprint and of its views' pixels: another OpenCV gives others by the same params."""
    return hashlib.sha256(store.fingerprint.encode() + records[:, 5].tobytes()).hexdigest()


class RecordedViews:
    """The views of a store that `recording.record_views` wrote, in memory.

    Args:
        path: the store.
        data: refuse views of another data set.
        split: refuse views of another split.
        params: refuse views that were drawn otherwise.

    Attributes:
        fingerprint: of the store and of the pixels that were recorded; what teachers' stores name as their views.
        grown_from: {fingerprint: views} of the older stores whose views come first here.
        data, split: whose images they show, the data set by its fingerprint; "train+unlabelled" is of two splits.
        size: (height, width) of a view in pixels.
        per_image: views V of each image.
        rows: (images, V) int64: where in the store view n of image i is.
        max_objects: boxes that a view has at most.
        records: (N, 8) int64 image row, view number, source width, source height, flip, crc32 of
            the rendered RGB bytes, number of boxes, identity of the image.
        matrix: (N, 2, 3) float64.
        color: (N, 6) float32.
        pixels: how the store keeps the rendered pixels too, or None.

    Raises:
        FingerprintMismatch: the store holds other views, or no views.
        StoreError: it is incomplete or damaged.
    """

    def __init__(self, path: Path, data: "DataSet | None" = None, split: str | None = None,
                 params: "Views | None" = None) -> None:
        expected = {"kind": "views", "views_version": VERSION, "data": data and data.fingerprint, "split": split,
                    **(drawn(params) if params else {})}
        self._store = store = open_store(path, {key: value for key, value in expected.items() if value is not None})
        identity = store.spec.identity
        self.data: str = identity["data"]
        self.split: str = identity["split"]
        self.size: tuple[int, int] = tuple(identity["size"])
        self.per_image: int = identity["views"]["per_image"]
        self.max_objects: int = identity["views"]["max_objects"]
        self.pixels: Form | None = identity["views"]["image"]
        self.grown_from: dict[str, int] = identity["grown_from"]
        rows = np.arange(len(store))
        self.records = store.read("record", rows)
        self.fingerprint = views_fingerprint(store, self.records)
        self.rows = _table(path, self.records, self.per_image)
        self.matrix, self.color = store.read("matrix", rows), store.read("color", rows)
        # Most rows of `boxes` are unused: keep the others only.
        chunks = [store.read("boxes", chunk) for chunk in np.array_split(rows, 1 + len(rows) // 4096)]
        self._boxes = np.concatenate([chunk[chunk[:, :, 4] >= 0] for chunk in chunks])
        self._ends = self.records[:, 6].cumsum()
        self._warned = False

    @property
    def path(self) -> Path:
        """Of the store."""
        return Path(self._store.path)

    def __len__(self) -> int:
        return len(self.records)

    def view(self, row: int) -> View:
        """The view of a row."""
        image, number, _, _, flip, *_ = self.records[row].tolist()
        return View(image, number, self.matrix[row], bool(flip), self.color[row])

    def boxes(self, row: int) -> npt.NDArray[np.float32]:
        """(n, 6) float32 x1 y1 x2 y2 in input pixels, label, difficult."""
        end = self._ends[row]
        return self._boxes[end - self.records[row, 6] : end]

    def codes(self, row: int, image: int) -> dict[str, npt.NDArray[Any]]:
        """All that the store has of a view, for a store where `image` is the row of its image."""
        codes = {array.name: self._store.read(array.name, [row])[0] for array in self._store.spec.arrays}
        codes["record"][0] = image
        return codes

    def render(self, row: int, read: Callable[[], Image], path: Path,
               on_mismatch: Literal["error", "warn"] = "error") -> Image:
        """The (h, w, 3) uint8 RGB pixels of a view, the same that were recorded.

        Args:
            row: which view.
            read: reads its image; not called if the store holds the pixels.
            path: the image's file, for messages.
            on_mismatch: what happens when they are others; a warning comes once.

        Raises:
            UserError: they are others.
        """
        if self.pixels:
            codes = self._store.read("image", [row])[0]
            try:
                image = unpack(codes, self.pixels, self.size)
            except CorruptStore as error:
                raise CorruptStore(f"{self._store.path}: view {row} {error}") from None
        else:
            image = render_view(read(), self.view(row), self.size)
        self._compare(row, image, path, on_mismatch)
        return image

    def check(self, row: int, source: Image, path: Path, on_mismatch: Literal["error", "warn"] = "error") -> None:
        """As `render`, for who shows a view otherwise: that `source`, the pixels of its image, are the recorded ones.

        Raises:
            UserError: they are others.
        """
        image = render_view(source, self.view(row), self.size)
        self._compare(row, pack(image, self.pixels)[1] if self.pixels else image, path, on_mismatch)

    def _compare(self, row: int, image: Image, path: Path, on_mismatch: Literal["error", "warn"]) -> None:
        if zlib.crc32(image.data) != int(self.records[row, 5]) and not self._warned:
            problem = (f"{path}: view {row} (number {self.records[row, 1]} of the image) has other pixels "
                       "than were recorded; the file or the version of OpenCV changed.")
            if on_mismatch == "error":
                raise UserError(f"{problem} Run 'pipeline record-views --restart' (after 'pipeline prepare', if it was "
                                "the file) and 'pipeline dump-teachers', or set views.on_mismatch: warn to go on.")
            warnings.warn(f"{problem} Going on, as views.on_mismatch says.", stacklevel=2)
            self._warned = True


def _table(path: Path, records: npt.NDArray[np.int64], per_image: int) -> npt.NDArray[np.int64]:
    """(images, per_image) int64: the row of each view of each image.

    Raises:
        CorruptStore: a view is missing or comes twice.
    """
    images, numbers = records[:, 0], records[:, 1]
    places = images * per_image + numbers
    if (numbers >= per_image).any() or (np.sort(places) != np.arange(len(records))).any() or len(records) % per_image:
        raise CorruptStore(f"{path}: does not hold views 0 to {per_image - 1} of each image once. "
                           "Remove it and run 'pipeline record-views' again")
    return np.argsort(places).reshape(-1, per_image)
