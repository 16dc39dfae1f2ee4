"""Views resolved once and kept as numbers: every teacher and student replays exactly these."""

import hashlib
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.data.pixels import pack, pixel_array, unpack
from pipeline.data.views import IDENTITY_COLOR, Image, View, render_view, resolve_view, view_boxes
from pipeline.errors import UserError
from storage import ArraySpec, CorruptStore, StoreError, StoreSpec, create_store, open_store

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet, ImageRecord
    from pipeline.data.pixels import Form
    from pipeline.inform import Progress
    from pipeline.params import Views

#: Of resolving and rendering: views that another version recorded are other views.
VERSION = 2
#: Views of an older store that are rendered before it grows.
_SAMPLE = 16
_COLUMNS = {
    "record": ["image", "number", "width", "height", "flip", "crc32", "boxes", "identity"],
    "matrix": "source pixels to input pixels, continuous edges",
    "color": ["pixel", "grey", "mean grey", "added to red", "added to green", "added to blue"],
    "boxes": ["x1", "y1", "x2", "y2", "label", "difficult"],
}


def record_views(
    data: "DataSet", split: str, params: "Views", out: Path, progress: "Progress | None" = None,
    old: "RecordedViews | None" = None,
) -> dict[str, Any]:
    """Resolves `params.per_image` views of each image of a split into a store.

    Takes up what an earlier run left at `out`. The views come image by image; where an older store
    grows, its views come first, as they are and in its order.

    Args:
        data: prepared images.
        split: whose.
        params: how views are drawn.
        out: where the store goes.
        progress: called as views are rendered.
        old: what `growable` found.

    Returns:
        The store's manifest.

    Raises:
        UserError: the split is unknown or empty, or an image cannot be read.
        StoreError: something else lies at `out`.
    """
    records = data.records(split)
    if not records:
        raise UserError(f"{data.root}: split {split!r} has no images, so there are no views to record.")
    views = [_draw(records[image], image, number, params) for image, number in _order(records, params, old)]
    kept = len(old) if old else 0
    writer = create_store(out, _spec(data, split, params, views, old))
    for shard in writer.pending():
        claim = writer.claim(shard)
        if claim is None:
            continue
        shown, pixels = -1, np.empty((0, 0, 3), np.uint8)
        with claim:
            for row in claim.views:
                view = views[row]
                record = records[view.image]
                if old and row < kept:
                    claim.append(old.codes(row, view.image))
                    continue
                if view.image != shown:
                    shown, pixels = view.image, record.read()
                claim.append(_codes(record, view, pixels, params))
                if progress:
                    progress(row + 1, len(views), record.id)
    return writer.finish()


def growable(path: Path, data: "DataSet", split: str, params: "Views") -> "RecordedViews | None":
    """The views of an older store, if a recording may keep all of them and add what it lacks.

    Their params may differ in `per_image` alone. Their images have to be there still, and each
    view has to be what would be drawn now, with the same boxes. Some are rendered, to see that this
    still gives the same pixels.
    """
    try:
        open_store(path, {"kind": "views", **_drawn(params, without="per_image")})
        old = RecordedViews(path, split=split)
    except (StoreError, OSError):
        return None
    records = data.records(split)
    images = _by_identity(records)
    for row in range(len(old)):
        _, number, width, height, *_, identity = old.records[row].tolist()
        image = images.get(identity, -1)
        if image < 0 or number >= params.per_image or (records[image].width, records[image].height) != (width, height):
            return None
        view, found = _draw(records[image], image, number, params), old.view(row)
        if not (np.array_equal(view.matrix, found.matrix) and np.array_equal(view.color, found.color)
                and np.array_equal(_boxes(records[image], found, params), old.boxes(row))):
            return None
    try:
        for row in np.linspace(0, len(old) - 1, _SAMPLE).astype(int).tolist():
            record = records[images[int(old.records[row, 7])]]
            old.render(row, record.read, record.path)
    except UserError:
        return None
    return old


def _order(records: Sequence["ImageRecord"], params: "Views", old: "RecordedViews | None") -> list[tuple[int, int]]:
    """(image, number) of each view: those of the older store, then the others, image by image."""
    images = _by_identity(records)
    kept = [(images[identity], number) for number, identity in old.records[:, [1, 7]].tolist()] if old else []
    every = [(image, number) for image in range(len(records)) for number in range(params.per_image)]
    return list(dict.fromkeys(kept + every))


def _by_identity(records: Sequence["ImageRecord"]) -> dict[int, int]:
    return {_identity(record): image for image, record in enumerate(records)}


def _draw(record: "ImageRecord", image: int, number: int, params: "Views") -> View:
    # Not by its row: that moves when the data set gets other images.
    return resolve_view(record, image, number, params, np.random.default_rng([params.seed, _hash(record.id), number]))


def _identity(record: "ImageRecord") -> int:
    """Tells an image from all others, in whatever data set it is: its id and its file."""
    return _hash(f"{record.id}\0{record.sha256}")


def _hash(text: str) -> int:
    """63 bits of a sha256, which int64 holds and a seed may be."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _spec(
    data: "DataSet", split: str, params: "Views", views: Sequence[View], old: "RecordedViews | None"
) -> StoreSpec:
    # Another version of a random generator may draw other views from the same params.
    resolved = hashlib.sha256()
    for view in views:
        resolved.update(view.matrix.tobytes() + view.color.tobytes())
    arrays = [
        ArraySpec("record", (8,), "int64"),
        ArraySpec("matrix", (2, 3), "float64"),
        ArraySpec("color", IDENTITY_COLOR.shape, "float32"),
        ArraySpec("boxes", (params.max_objects, 6), "float32"),
    ]
    if params.image:
        arrays.append(pixel_array(params.image, params.size))
    grown_from: dict[str, int] = {}
    if old:  # what adds nothing is the older store once more
        again = len(old) == len(views) and old.data == data.fingerprint
        grown_from = old.grown_from | ({} if again else {old.fingerprint: len(old)})
    return StoreSpec(
        arrays=tuple(arrays),
        views=len(views),
        shard_views=params.shard_views,
        identity={"kind": "views", "views_version": VERSION, "data": data.fingerprint, "split": split,
                  **_drawn(params), "resolved": resolved.hexdigest(), "grown_from": grown_from},
        attributes={"columns": _COLUMNS, "pixels": params.image},
    )


def _drawn(params: "Views", without: str = "shard_views") -> dict[str, Any]:
    """What of the params decides the views, as a store's identity names it; `without` one more key."""
    rules = params.model_dump(mode="json", exclude={"size", "shard_views", "on_mismatch", without})
    return {"size": list(params.size), "views": rules}


def _codes(record: "ImageRecord", view: View, pixels: Image, params: "Views") -> dict[str, npt.NDArray[Any]]:
    image, codes = render_view(pixels, view, params.size), {}
    if params.image:
        codes["image"], image = pack(image, params.image)
    found = _boxes(record, view, params)
    boxes = np.full((params.max_objects, 6), -1, np.float32)
    boxes[: len(found)] = found
    numbers = [view.image, view.number, record.width, record.height, view.flip, zlib.crc32(image.data), len(found),
               _identity(record)]
    return {"record": np.array(numbers, np.int64), "matrix": view.matrix, "color": view.color, "boxes": boxes, **codes}


def _boxes(record: "ImageRecord", view: View, params: "Views") -> npt.NDArray[np.float32]:
    """(n, 6) float32 as in `RecordedViews.boxes`."""
    seen, kept = view_boxes(record, view, params.size)
    rows = np.column_stack([seen, record.labels, record.difficult])[kept]
    return rows[: params.max_objects].astype(np.float32)


class RecordedViews:
    """The views of a store that `record_views` wrote, in memory.

    Args:
        path: the store.
        data: refuse views of another data set.
        split: refuse views of another split.
        params: refuse views that were drawn otherwise.

    Attributes:
        fingerprint: of the store; what teachers' stores name as their views.
        grown_from: {fingerprint: views} of the older stores whose views come first here.
        data, split: whose images they show, the data set by its fingerprint.
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
                    **(_drawn(params) if params else {})}
        self._store = store = open_store(path, {key: value for key, value in expected.items() if value is not None})
        identity, self.fingerprint = store.spec.identity, store.fingerprint
        self.data: str = identity["data"]
        self.split: str = identity["split"]
        self.size: tuple[int, int] = tuple(identity["size"])
        self.per_image: int = identity["views"]["per_image"]
        self.max_objects: int = identity["views"]["max_objects"]
        self.pixels: Form | None = identity["views"]["image"]
        self.grown_from: dict[str, int] = identity["grown_from"]
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

    def codes(self, row: int, image: int) -> dict[str, npt.NDArray[Any]]:
        """All that the store has of a view, for a store where `image` is the row of its image."""
        codes = {array.name: self._store.read(array.name, [row])[0] for array in self._store.spec.arrays}
        codes["record"][0] = image
        return codes

    def render(
        self, row: int, pixels: Image | Callable[[], Image], path: Path,
        on_mismatch: Literal["error", "warn"] = "error",
    ) -> Image:
        """The (h, w, 3) uint8 RGB pixels of a view, the same that were recorded.

        Args:
            row: which view.
            pixels: its image, or what reads it: nobody asks where the store keeps rendered pixels.
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
            image = render_view(pixels() if callable(pixels) else pixels, self.view(row), self.size)
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
