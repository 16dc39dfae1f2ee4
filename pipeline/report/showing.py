"""One view of a store as a picture: ground truth, each teacher's heatmap and boxes, the ensemble's."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from matplotlib.backend_bases import FigureCanvasBase

from pipeline.data.recorded import views_fingerprint
from pipeline.errors import UserError
from pipeline.models import peaks_to_boxes
from pipeline.report.drawing import DPI, LIGHT
from pipeline.report.overlays import Box, Content, Heat, draw_panels, in_words
from storage import FingerprintMismatch, Store, open_store

if TYPE_CHECKING:
    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.inference.rendering import OnMismatch

PANEL = 3.4  # inches
TRUTH = "Ground truth"
NO_TRUTH = "No ground truth"


def open_of_views(path: Path | str, recorded: "RecordedViews") -> Store:
    """A store of these views, of older ones that they continue, or of the views themselves.

    Raises:
        FingerprintMismatch: it is of other views.
        StoreError: it is damaged, or there is none.
    """
    store = open_store(path)
    identity = store.spec.identity
    named = (views_fingerprint(store, store.read("record", range(len(store)))) if identity.get("kind") == "views"
             else identity.get("views"))
    if named not in (recorded.fingerprint, *recorded.grown_from):
        raise FingerprintMismatch(f"{path}: its views are {named}, those recorded for params are "
                                  f"{recorded.fingerprint}. Name the --params it belongs to, or write it again.")
    return store


def find_view(name: str, data: "DataSet", recorded: "RecordedViews") -> int:
    """The row that a person means by a row number or IMAGE_ID:NUMBER.

    Raises:
        UserError: there is no such view.
    """
    if name.isdecimal():
        if int(name) < len(recorded):
            return int(name)
        raise UserError(f"view {name} is not one of 0 to {len(recorded) - 1}, the rows that were recorded.")
    image, _, number = name.rpartition(":")
    ids = [record.id for record in data.records(recorded.split)]
    if image not in ids:
        raise UserError(f"view {name!r} is neither a row number nor IMAGE_ID:NUMBER with an image of split "
                        f"{recorded.split!r}, e.g. {ids[0]}:0.")
    if not number.isdecimal() or int(number) >= recorded.per_image:
        raise UserError(f"view {name!r}: image {image} has the views 0 to {recorded.per_image - 1}.")
    return int(recorded.rows[ids.index(image), int(number)])


def stored_view(store: Store, row: int, *, score: float) -> Heat:
    """What a store says of one view, decoded from it: its heatmap and its exact peaks.

    Args:
        score: least score of a box that is drawn.
    """
    if row >= len(store):
        raise UserError(f"{store.path} has the views 0 to {len(store) - 1}, so not view {row}: it is older than that.")
    heatmap, peaks = (store.decode(array, store.read(array, [row])) for array in ("heatmap", "peaks"))
    height, width = store.spec.identity["size"]
    stride = height / heatmap.shape[2]
    found = peaks_to_boxes(torch.from_numpy(peaks), heatmap.shape[3])[0].numpy()
    boxes = [Box(box[:4] * stride, int(box[5]), float(box[4])) for box in found if box[4] >= score]
    return Heat(heatmap[0], (0, width, height, 0), boxes)


def show_view(
    row: int, data: "DataSet", recorded: "RecordedViews", stores: Mapping[str, Store], out: Path, *, score: float,
    on_mismatch: "OnMismatch" = "error",
) -> dict[str, str]:
    """Draws one view: its ground truth, where it has any, and what each store says of it.

    Args:
        row: of the view.
        data, recorded: images and their views.
        stores: by the heading over their panel.
        out: the file that is written; its suffix says in which format.
        score: least score of a box that is drawn.
        on_mismatch: what happens when the image is no longer as it was recorded.

    Returns:
        What is seen in each panel, in words.

    Raises:
        UserError: the suffix is unknown, or the image is another one, which `on_mismatch` does not allow.
        StoreError: a store is damaged there.
        OSError: `out` cannot be written.
    """
    formats = FigureCanvasBase.get_supported_filetypes()
    if out.suffix[1:].lower() not in formats:
        raise UserError(f"{out}: no picture can be written as {out.suffix or 'a name without suffix'!r}. "
                        f"Available: {', '.join(sorted(formats))}.")
    record = data.records(recorded.split)[recorded.view(row).image]
    image = recorded.render(row, record.read, record.path, on_mismatch)
    truth = [Box(box[:4], int(box[4]), difficult=bool(box[5])) for box in recorded.boxes(row)]
    panels: list[tuple[str, Content]] = [(TRUTH if record.labelled else NO_TRUTH, truth)]
    panels += [(heading, stored_view(store, row, score=score)) for heading, store in stores.items()]
    figure = draw_panels(LIGHT, image, panels, data.classes, panel=PANEL)
    figure.savefig(out, dpi=DPI, facecolor=LIGHT.paper)
    seen = {heading: in_words(content.boxes if isinstance(content, Heat) else content, data.classes)
            for heading, content in panels}
    return seen if record.labelled else {**seen, NO_TRUTH: "the image has no labels"}
