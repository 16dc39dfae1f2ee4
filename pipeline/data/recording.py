"""Recording views: resolved once for each image, beside those of an older store that grows."""

import hashlib
import warnings
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.pixels import pack, pixel_array
from pipeline.data.recorded import VERSION, RecordedViews, drawn
from pipeline.data.views import IDENTITY_COLOR, Image, View, render_view, resolve_view, view_boxes
from pipeline.errors import UserError
from pipeline.inform import Progress, no_progress
from storage import ArraySpec, CorruptStore, StoreError, StoreSpec, begun, create_store, open_store

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet, ImageRecord
    from pipeline.params import Views

#: Views of an older store that are rendered before it grows.
_SAMPLE = 16
_COLUMNS = {
    "record": ["image", "number", "width", "height", "flip", "crc32", "boxes", "identity"],
    "matrix": "source pixels to input pixels, continuous edges",
    "color": ["pixel", "grey", "mean grey", "added to red", "added to green", "added to blue"],
    "boxes": ["x1", "y1", "x2", "y2", "label", "difficult"],
}


def record_views(
    data: "DataSet", split: str, params: "Views", out: Path, progress: Progress = no_progress,
    old: RecordedViews | None = None,
) -> dict[str, Any]:
    """Resolves `params.per_image` views of each image of a split into a store.

    Takes up what an earlier run left at `out`. The views come image by image; where an older store
    grows, its views come first, as they are and in its order.

    Args:
        data: prepared images.
        split: whose, or of which several ("train+unlabelled").
        params: how views are drawn.
        out: where the store goes.
        progress: called as views are rendered.
        old: what `older_views` or `growable` found.

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
                codes = _copied(old, row, view.image) if old and row < kept else None
                if codes is None:
                    if view.image != shown:
                        shown, pixels = view.image, record.read()
                    codes = _codes(record, view, pixels, params)
                    if old and row < kept and codes["record"][5] != old.records[row, 5]:
                        raise UserError(f"{old.path}: view {row} is damaged, and {record.path} does not give its "
                                        "pixels any more: the file or the version of OpenCV changed. Record all views "
                                        "anew with 'pipeline record-views --restart'.")
                claim.append(codes)
                progress(row + 1, len(views), record.id)
    return writer.finish()


def growable(path: Path, data: "DataSet", split: str, params: "Views") -> RecordedViews | None:
    """The views of an older store, if a recording may keep all of them and add what it lacks.

    Their params may differ in `per_image` alone. Their images have to be there still, and each
    view has to be what would be drawn now, with the same boxes. Some are rendered, to see that this
    still gives the same pixels.
    """
    try:
        open_store(path, {"kind": "views", **drawn(params, "per_image")})
        old = RecordedViews(path)  # of whatever split: its images are looked for
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
    for row in np.linspace(0, len(old) - 1, _SAMPLE).astype(int).tolist():
        record = records[images[int(old.records[row, 7])]]
        try:
            old.check(row, record.read(), record.path)
        except UserError:
            return None
    return old


def _copied(old: RecordedViews, row: int, image: int) -> dict[str, npt.NDArray[Any]] | None:
    """What an older store has of a view; None where it is damaged."""
    try:
        return old.codes(row, image)
    except CorruptStore as error:
        warnings.warn(f"{error}; the view is rendered again.", stacklevel=2)
        return None


def older_views(
    paths: Iterable[Path], data: "DataSet", split: str, params: "Views", out: Path
) -> RecordedViews | None:
    """Of the stores at `paths`, the one with the most views that a recording into `out` may keep.

    Where `out` was begun already, only the one that it was begun with.
    """
    found = [old for path in paths if (old := growable(path, data, split, params))]
    if spec := begun(out):
        count = len(data.records(split)) * params.per_image
        found = [old for old in found if _chain(old, count, data) == spec.identity.get("grown_from")]
    return max(found, key=len, default=None)


def _chain(old: RecordedViews | None, count: int, data: "DataSet") -> dict[str, int]:
    """{fingerprint: views} of the older stores in one of `count` views; what adds nothing is `old` once more."""
    if old is None or (len(old) == count and old.data == data.fingerprint):
        return old.grown_from if old else {}
    return old.grown_from | {old.fingerprint: len(old)}


def _order(records: Sequence["ImageRecord"], params: "Views", old: RecordedViews | None) -> list[tuple[int, int]]:
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
    data: "DataSet", split: str, params: "Views", views: Sequence[View], old: RecordedViews | None
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
    return StoreSpec(
        arrays=tuple(arrays),
        views=len(views),
        shard_views=params.shard_views,
        identity={"kind": "views", "views_version": VERSION, "data": data.fingerprint, "split": split,
                  **drawn(params), "resolved": resolved.hexdigest(), "grown_from": _chain(old, len(views), data)},
        attributes={"columns": _COLUMNS, "pixels": params.image},
    )


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
