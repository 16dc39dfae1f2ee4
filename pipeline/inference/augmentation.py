"""Test-time augmentation: a teacher sees a view again mirrored and at other sizes, and its answers become one.

They are merged as several teachers' are. The official test averages maps, wh among them, and takes offset
from the unflipped pass; here every pass brings its peaks, whose boxes are matched and fused.

Reference: flip and multi-scale testing are Zhou et al., "Objects as Points" (2019).
"""

from fractions import Fraction
from math import gcd
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.devices import Precision
from pipeline.ensemble.merging import merge_views
from pipeline.errors import UserError
from pipeline.inference.prediction import predict
from pipeline.models import find_peaks
from pipeline.models.regridding import mirror_peaks, resample_heads

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector, DetectorConfig
    from pipeline.params import Augmentation

#: How the passes' peaks are fused: the least IoU of one object's boxes; the score below which a peak is dropped.
IOU, THRESHOLD = 0.5, 0.01


class Answer(NamedTuple):
    """What a teacher says of a batch, all float32 on its device.

    Attributes:
        heatmap: (B, C, h, w) probabilities.
        wh_offset: (B, 4, h, w) w, h, dx, dy in cells.
        peaks: (B, K, 7) as of `find_peaks`.
        features: (B, F, h, w) of the plain pass.
    """

    heatmap: "Tensor"
    wh_offset: "Tensor"
    peaks: "Tensor"
    features: "Tensor"


def answer(
    model: "Detector", images: "Tensor", *, precision: Precision, peaks: int, tta: "Augmentation"
) -> Answer:
    """Runs the teacher over a batch as often as `tta` says.

    Each pass is brought back onto the grid of the plain one. The heatmap is the mean of the passes, and the
    peaks are fused as by `merge_view`; away from peaks wh and offset are the plain pass's.

    Args:
        model: inside `inference`.
        images: (B, 3, H, W) uint8 RGB on the model's device.
        precision: of the body.
        peaks: K.
        tta: whose scales pass `check_scales`.
    """
    plain = predict(model, images, precision)
    alone = Answer(plain.heatmap, torch.cat([plain.wh, plain.offset], 1),
                   find_peaks(plain.heatmap, plain.wh, plain.offset, peaks), plain.features)
    grid = plain.heatmap.shape[2:]
    others = [_seen(model, images, precision, peaks, scale, mirrored, grid)
              for scale in tta.scales for mirrored in (False, True)[: 1 + tta.flip] if (scale, mirrored) != (1, False)]
    return _merged(alone, others) if others else alone


def _seen(model: "Detector", images: "Tensor", precision: Precision, peaks: int, scale: float, mirrored: bool,
          grid: "torch.Size") -> "tuple[Tensor, Tensor]":
    """The heatmap and the peaks of one further pass, on the grid of the plain one."""
    if scale != 1:
        size = [round(side * scale) for side in images.shape[2:]]
        images = F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().to(torch.uint8)
    found = predict(model, images.flip(3) if mirrored else images, precision)
    heatmap, best = found.heatmap, find_peaks(found.heatmap, found.wh, found.offset, peaks)
    if mirrored:
        heatmap, best = heatmap.flip(3), mirror_peaks(best, heatmap.shape[3])
    return resample_heads(heatmap, best, grid) if scale != 1 else (heatmap, best)


def _merged(alone: Answer, others: "list[tuple[Tensor, Tensor]]") -> Answer:
    heatmaps = torch.stack([alone.heatmap, *(heatmap for heatmap, _ in others)], 1).cpu().numpy()
    peaks = torch.stack([alone.peaks, *(best for _, best in others)], 1).cpu().numpy()
    # Zeros: a pass that has no say in wh and offset away from its peaks.
    wh_offsets = np.zeros((*heatmaps.shape[:2], *alone.wh_offset.shape[1:]), np.float32)
    wh_offsets[:, 0] = alone.wh_offset.cpu().numpy()
    heatmap, wh_offset, best = (torch.from_numpy(values).to(alone.heatmap.device) for values in merge_views(
        heatmaps, wh_offsets, peaks, iou=IOU, threshold=THRESHOLD))
    return Answer(heatmap, wh_offset, best, alone.features)


def check_scales(config: "DetectorConfig", size_hw: tuple[int, int], tta: "Augmentation") -> None:
    """Refuses scales at which a view's size does not suit the network: no size is rounded, which would distort.

    Args:
        config: of the network.
        size_hw: (height, width) of a view in pixels, which suits it.
        tta: whose scales.

    Raises:
        UserError: names the scale and the nearest one that fits.
    """
    step = Fraction(config.size_multiple, gcd(*size_hw))
    for scale in tta.scales:
        nearest = max(1, round(scale / step)) * step
        if abs(scale - nearest) > 1e-6:
            raise UserError(
                f"dump.tta.scales: {scale:g} times views.size {list(size_hw)} does not fit {config.model}, whose input "
                f"sides are multiples of {config.size_multiple}; the nearest scale that does is {float(nearest):g} "
                f"(they are multiples of {float(step):g}).")
