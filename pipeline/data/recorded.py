"""Views resolved once and kept as numbers: every teacher and student replays exactly these."""

import hashlib
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.dataset import read_image
from pipeline.data.views import IDENTITY_COLOR, Image, View, render_view, resolve_view, view_boxes
from pipeline.errors import UserError
from storage import ArraySpec, CorruptStore, StoreSpec, create_store, open_store

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet, ImageRecord
    from pipeline.inform import Progress
    from pipeline.params import Views

#: Of resolving and rendering: views that another version recorded are other views.
VERSION = 2
_COLUMNS = {
    "record": ["image", "number", "width", "height", "flip", "crc32", "boxes", "identity"],
    "matrix": "source pixels to input pixels, continuous edges",
    "color": ["pixel", "grey", "mean grey", "added to red", "added to green", "added to blue"],
    "boxes": ["x1", "y1", "x2", "y2", "label", "difficult"],
}


def record_views(
    data: "DataSet", split: str, params: "Views", out: Path, progress: "Progress | None" = None
) -> dict[str, Any]:
    """Resolves `params.per_image` views of each image of a split into a store.

    Takes up what an earlier run left at `out`.

    Args:
        data: prepared images.
        split: whose.
        params: how views are drawn.
        out: where the store goes.
        progress: called as views are rendered.

    Returns:
        The store's manifest.

    Raises:
        UserError: the split is unknown or empty, or an image cannot be read.
        StoreError: something else lies at `out`.
    """
    records = data.records(split)
    if not records:
        raise UserError(f"{data.root}: split {split!r} has no images, so there are no views to record.")
    views = [_draw(record, image, number, params)
             for image, record in enumerate(records) for number in range(params.per_image)]
    writer = create_store(out, _spec(data, split, params, views))
    for shard in writer.pending():
        claim = writer.claim(shard)
        if claim is None:
            continue
        shown, pixels = -1, np.empty((0, 0, 3), np.uint8)
        with claim:
            for row in claim.views:
                view = views[row]
                record = records[view.image]
                if view.image != shown:
                    shown, pixels = view.image, read_image(record.path, (record.height, record.width))
                claim.append(_codes(record, view, pixels, params))
                if progress:
                    progress(row + 1, len(views), record.id)
    return writer.finish()


def _draw(record: "ImageRecord", image: int, number: int, params: "Views") -> View:
    # Not by its row: that moves when the data set gets other images.
    return resolve_view(record, image, number, params, np.random.default_rng([params.seed, _hash(record.id), number]))


def _identity(record: "ImageRecord") -> int:
    """Tells an image from all others, in whatever data set it is: its id and its file."""
    return _hash(f"{record.id}\0{record.sha256}")


def _hash(text: str) -> int:
    """63 bits of a sha256, which int64 holds and a seed may be."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _spec(data: "DataSet", split: str, params: "Views", views: Sequence[View]) -> StoreSpec:
    # Another version of a random generator may draw other views from the same params.
    resolved = hashlib.sha256()
    for view in views:
        resolved.update(view.matrix.tobytes() + view.color.tobytes())
    return StoreSpec(
        arrays=(
            ArraySpec("record", (8,), "int64"),
            ArraySpec("matrix", (2, 3), "float64"),
            ArraySpec("color", IDENTITY_COLOR.shape, "float32"),
            ArraySpec("boxes", (params.max_objects, 6), "float32"),
        ),
        views=len(views),
        shard_views=params.shard_views,
        identity={
            "kind": "views", "views_version": VERSION, "data": data.fingerprint, "split": split,
            "resolved": resolved.hexdigest(), **_drawn_by(params),
        },
        attributes={"columns": _COLUMNS},
    )


def _drawn_by(params: "Views") -> dict[str, Any]:
    """What of the params decides the views, as a store names it."""
    return {"size": list(params.size),
            "views": params.model_dump(mode="json", exclude={"size", "shard_views", "on_mismatch"})}


def _codes(record: "ImageRecord", view: View, pixels: Image, params: "Views") -> dict[str, npt.NDArray[Any]]:
    crc = zlib.crc32(render_view(pixels, view, params.size).data)
    seen, kept = view_boxes(record, view, params.size)
    flags = np.column_stack([record.labels, record.difficult])
    found = np.column_stack([seen, flags])[kept][: params.max_objects]
    boxes = np.full((params.max_objects, 6), -1, np.float32)
    boxes[: len(found)] = found
    numbers = [view.image, view.number, record.width, record.height, view.flip, crc, len(found),
               _identity(record)]
    return {"record": np.array(numbers, np.int64), "matrix": view.matrix, "color": view.color, "boxes": boxes}


class RecordedViews:
    """The views of a store that `record_views` wrote, in memory.

    Args:
        path: the store.
        data: refuse views of another data set.
        split: refuse views of another split.
        params: refuse views that were drawn otherwise.

    Attributes:
        fingerprint: of the store; what teachers' stores name as their views.
        data, split: whose images they show, the data set by its fingerprint.
        size: (height, width) of a view in pixels.
        per_image: views V of each image.
        rows: (images, V) int64: where in the store view n of image i is.
        max_objects: boxes that a view has at most.
        records: (N, 8) int64 image row, view number, source width, source height, flip, crc32 of
            the rendered RGB bytes, number of boxes, identity of the image.
        matrix: (N, 2, 3) float64.
        color: (N, 6) float32.

    Raises:
        FingerprintMismatch: the store holds other views, or no views.
        StoreError: it is incomplete or damaged.
    """

    def __init__(self, path: Path, data: "DataSet | None" = None, split: str | None = None,
                 params: "Views | None" = None) -> None:
        expected = {"kind": "views", "views_version": VERSION, "data": data and data.fingerprint, "split": split,
                    **(_drawn_by(params) if params else {})}
        store = open_store(path, {key: value for key, value in expected.items() if value is not None})
        identity, self.fingerprint = store.spec.identity, store.fingerprint
        self.data: str = identity["data"]
        self.split: str = identity["split"]
        self.size: tuple[int, int] = tuple(identity["size"])
        self.per_image: int = identity["views"]["per_image"]
        self.max_objects: int = identity["views"]["max_objects"]
        rows = np.arange(len(store))
        self.records = store.read("record", rows)
        self.rows = _table(path, self.records, self.per_image)
        self.matrix, self.color = store.read("matrix", rows), store.read("color", rows)
        # Most rows of `boxes` are unused: keep the others only.
        chunks = [store.read("boxes", chunk) for chunk in np.array_split(rows, 1 + len(rows) // 4096)]
        self._boxes = np.concatenate([chunk[chunk[:, :, 4] >= 0] for chunk in chunks])
        self._ends = self.records[:, 6].cumsum()
        self._warned = False

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

    def render(
        self, row: int, pixels: Image, path: Path, on_mismatch: Literal["error", "warn"] = "error"
    ) -> Image:
        """The (h, w, 3) uint8 RGB pixels of a view, the same that were recorded.

        Args:
            row: which view.
            pixels: its image.
            path: the image's file, for messages.
            on_mismatch: what happens when they are others; a warning comes once.

        Raises:
            UserError: they are others.
        """
        image = render_view(pixels, self.view(row), self.size)
        if zlib.crc32(image.data) != int(self.records[row, 5]) and not self._warned:
            problem = (f"{path}: view {row} (number {self.records[row, 1]} of the image) has other pixels "
                       "than were recorded; the file or the version of OpenCV changed.")
            if on_mismatch == "error":
                raise UserError(f"{problem} Run 'pipeline record-views' and 'pipeline dump-teachers' again, "
                                "or set views.on_mismatch: warn to go on.")
            warnings.warn(f"{problem} Going on, as views.on_mismatch says.", stacklevel=2)
            self._warned = True
        return image


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
