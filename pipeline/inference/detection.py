"""Detections on whole images, in the images' own pixels."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import ImageRecord, invert, plain_view, render_view
from pipeline.inference.prediction import Prediction, inference, predict
from pipeline.inference.prefetching import prefetched
from pipeline.inform import Progress, no_progress
from pipeline.models import check_size, decode_detections

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector


def detect(
    model: "Detector",
    records: Sequence[ImageRecord],
    *,
    size_hw: tuple[int, int],
    batch: int = 32,
    top_k: int = 100,
    flip: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """The `top_k` best detections of each image, from its plain view.

    Args:
        model: moved to `device`; its training mode stays.
        records: the images.
        size_hw: (height, width) of the input in pixels.
        batch: images per forward pass.
        top_k: detections per image.
        flip: the official flip test; see `flip_test`.

    Returns:
        (n, 7) rows image (row of `records`), class, score, x1, y1, x2, y2 in source pixels (0-based
        continuous edges), clipped to the image; by image, then by descending score.

    Raises:
        UserError: `size_hw` does not suit the model, or an image cannot be read.
    """
    check_size(model.config, size_hw)

    def find(pixels: "Tensor") -> "Tensor":
        prediction = flip_test(model, pixels) if flip else predict(model, pixels, "32-true")
        return decode_detections(prediction.heatmap, prediction.wh, prediction.offset, top_k)

    with inference(model, device):
        return detect_by(find, records, size_hw=size_hw, stride=model.config.stride, batch=batch, device=device,
                         progress=progress)


def detect_by(
    find: "Callable[[Tensor], Tensor]",
    records: Sequence[ImageRecord],
    *,
    size_hw: tuple[int, int],
    stride: int,
    batch: int,
    device: torch.device | str,
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """The detections of whatever finds objects in a batch of plain views; returns what `detect` does.

    Args:
        find: from (B, 3, H, W) uint8 RGB on `device` to rows of `decode_detections`, (B, k, 6) in cells.
        records, size_hw, batch, device, progress: as for `detect`.
        stride: pixels of a cell.

    Raises:
        UserError: an image cannot be read.
    """

    def render(rows: range) -> tuple[range, NDArray[np.uint8]]:
        return rows, np.stack([_render_plain(records[row], row, size_hw) for row in rows])

    parts = [np.empty((0, 7))]
    batches = [range(start, min(start + batch, len(records))) for start in range(0, len(records), batch)]
    for rows, images in prefetched(render, batches):
        cells = find(torch.from_numpy(images).to(device).permute(0, 3, 1, 2)).cpu().numpy().astype(np.float64)
        parts += [_to_source(rows[i], cells[i], records[rows[i]], size_hw, stride) for i in range(len(rows))]
        progress(rows.stop, len(records), "images")
    return np.concatenate(parts)


def flip_test(model: "Detector", images: "Tensor") -> Prediction:
    """The prediction for a batch, its heatmap and wh averaged with those of the mirrored images.

    Reference: Zhou et al., Objects as Points (2019) and the official code, which takes offset and
        features from the unflipped pass.
    """
    plain, mirrored = (predict(model, view, "32-true") for view in (images, images.flip(3)))
    return plain._replace(
        heatmap=(plain.heatmap + mirrored.heatmap.flip(3)) / 2, wh=(plain.wh + mirrored.wh.flip(3)) / 2)


def _render_plain(record: ImageRecord, row: int, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    return render_view(record.read(), plain_view(record, size_hw, row), size_hw)


def _to_source(
    row: int, cells: NDArray[np.float64], record: ImageRecord, size_hw: tuple[int, int], stride: int
) -> NDArray[np.float64]:
    """Rows of `detect` from one image's (k, 6) detections in cells; padding is dropped."""
    cells = cells[cells[:, 4] > 0]
    back = invert(plain_view(record, size_hw).matrix)
    corners = stride * cells[:, :4].reshape(-1, 2, 2) @ back[:, :2].T + back[:, 2]
    boxes = corners.clip(0, [record.width, record.height]).reshape(-1, 4)
    return np.column_stack([np.full(len(cells), row), cells[:, 5], cells[:, 4], boxes])
