"""Detections of several teachers together: what an ensemble knows of images that it was not built for."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import ImageRecord
from pipeline.ensemble.merging import Rule, merge_views
from pipeline.errors import UserError
from pipeline.inference.augmentation import answer
from pipeline.inference.detection import detect_by
from pipeline.inference.prediction import inference
from pipeline.inform import Progress, no_progress
from pipeline.models import check_size, decode_detections

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector
    from pipeline.params import Dump, Ensemble


def detect_merged(
    models: "Sequence[Detector]",
    records: Sequence[ImageRecord],
    *,
    rule: Rule,
    ensemble: "Ensemble",
    dump: "Dump",
    size_hw: tuple[int, int],
    batch: int = 32,
    top_k: int = 100,
    device: torch.device | str = "cpu",
    progress: Progress = no_progress,
) -> NDArray[np.float64]:
    """The `top_k` best detections of each image's plain view, decoded from the teachers' merged maps.

    The teachers answer as they do for a dump (its precision, peaks and test-time augmentation) and are merged as
    `build_ensemble` merges what was dumped; only the store's encodings have no part in it.

    Args:
        models: the teachers, with one class list; moved to `device`.
        records: the images.
        rule: how their heatmaps are merged.
        ensemble: how their boxes are matched.
        dump: how they are asked.
        size_hw, batch, top_k, device, progress: as for `detect`.

    Returns:
        Rows as of `detect`.

    Raises:
        UserError: the size does not suit a teacher, their strides differ, or an image cannot be read.
    """
    strides = {model.config.stride for model in models}
    if len(strides) > 1:
        raise UserError("Teachers cannot be merged: their strides differ, "
                        f"{', '.join(f'{model.config.model} {model.config.stride}' for model in models)}. "
                        "Train them with one stride.")
    for model in models:
        check_size(model.config, size_hw)

    def find(pixels: "Tensor") -> "Tensor":
        answers = [answer(model, pixels, precision=dump.precision, peaks=dump.peaks, tta=dump.tta)
                   for model in models]
        maps = [torch.stack([getattr(each, name) for each in answers], 1).cpu().numpy()
                for name in ("heatmap", "wh_offset", "peaks")]
        merged = merge_views(*maps, iou=ensemble.iou, threshold=ensemble.threshold, rules=repeat(rule))
        heatmap, wh_offset = torch.from_numpy(merged.heatmap), torch.from_numpy(merged.wh_offset)
        return decode_detections(heatmap, wh_offset[:, :2], wh_offset[:, 2:], top_k)

    with ExitStack() as stack:
        for model in models:
            stack.enter_context(inference(model, device))
        return detect_by(find, records, size_hw=size_hw, stride=strides.pop(), batch=batch, device=device,
                         progress=progress)
