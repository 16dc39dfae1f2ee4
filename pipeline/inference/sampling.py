"""What is learnt from a few views before a dump begins: how to reduce features, what a mirror changes."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pipeline.inference.prediction import predict
from pipeline.inference.rendering import OnMismatch, rendered
from storage import fit_parameters, reduction, sample_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.models import Detector
    from pipeline.params import Dump
    from storage import ArraySpec

#: Views of a sample: one in a hundred, but not fewer or more than these.
FEWEST, MOST = 16, 64


class Sample(NamedTuple):
    """What a sample says.

    Attributes:
        fitted: the parameters of the features' encoding; {} without features or where it needs none.
        flip: {"views": n, "error": e}: how far the heatmap of a mirrored view is from the mirrored
            heatmap, the sum of their absolute differences over the sum of the greater of both, 0 to 1; with
            features also {"features": e}: how far theirs are, the root of their mean square difference over twice
            the variance of their channels: 0 where they agree, 1 where they have nothing in common.
    """

    fitted: dict[str, Any]
    flip: dict[str, Any]


def sample_views(count: int) -> list[int]:
    """Evenly spaced rows of `count` views."""
    size = min(count, max(FEWEST, min(MOST, count // 100)))
    return [int(row) for row in np.linspace(0, count - 1, size).round()]


def study_sample(
    model: "Detector", data: "DataSet", views: "RecordedViews", rows: "Sequence[int]", *, params: "Dump",
    device: torch.device, on_mismatch: OnMismatch = "error",
) -> Sample:
    """Runs the teacher over some views and their mirror images; `model` is inside `inference`."""
    cells, different, greater, features = [], 0.0, 0.0, _Disagreement()
    for _, images in rendered(views, data, rows, params.batch, on_mismatch):
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
        plain = predict(model, pixels, params.precision)
        turned = predict(model, pixels.flip(3), params.precision)
        mirrored = turned.heatmap.flip(3)
        different += float((plain.heatmap - mirrored).abs().sum())
        greater += float(torch.maximum(plain.heatmap, mirrored).sum())
        if params.features:
            features.add(plain.features, turned.features.flip(3))
            cells.append(sample_cells(params.encodings.features, plain.features.cpu().numpy()))
    fitted = fit_parameters(params.encodings.features, np.concatenate(cells)) if cells else {}
    flip = {"views": len(rows), "error": round(different / max(greater, 1e-12), 6)}
    return Sample(fitted, {**flip, "features": features.share} if cells else flip)


class _Disagreement:
    """Of two maps that should be one, batch by batch; sums in double precision."""

    def __init__(self) -> None:
        self._apart, self._squares, self._count = 0.0, 0.0, 0
        self._sums: Tensor | float = 0.0

    def add(self, one: "Tensor", other: "Tensor") -> None:
        """Both (B, F, h, w)."""
        exact = torch.float64  # of the sums alone: the maps may be large
        self._apart += float((one - other).square().sum(dtype=exact))
        for values in (one, other):
            self._squares += float(values.square().sum(dtype=exact))
            self._sums = self._sums + values.sum((0, 2, 3), dtype=exact)
            self._count += values.shape[0] * values.shape[2] * values.shape[3]

    @property
    def share(self) -> float:
        """0 to 1 for maps that agree to maps that have nothing in common."""
        means = float(torch.as_tensor(self._sums).square().sum()) / max(self._count, 1)
        return round(math.sqrt(self._apart / max(self._squares - means, 1e-12)), 6)


class Reduction:
    """`storage.reduce` on the teacher's device, before anything is copied from it.

    Args:
        array: the store's description of the features.
        device: theirs.
    """

    def __init__(self, array: "ArraySpec", device: torch.device) -> None:
        self.components, self.pooled = reduction(array.encoding)
        if self.components is not None:
            projection, mean = (torch.tensor(array.parameters[key], device=device) for key in ("projection", "mean"))
            self.weight, self.bias = projection[:, :, None, None], -(projection @ mean)

    def __call__(self, features: "Tensor") -> "Tensor":
        """(B, F, h, w) float32 -> (B, *array.shape) float32."""
        if self.pooled:
            odd_h, odd_w = (side % 2 for side in features.shape[2:])
            if odd_h or odd_w:
                features = functional.pad(features, (0, odd_w, 0, odd_h), mode="replicate")
            features = functional.avg_pool2d(features, 2)
        if self.components is not None:
            features = functional.conv2d(features, self.weight, self.bias)
        return features
