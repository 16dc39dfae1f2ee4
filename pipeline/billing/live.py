"""Distillation as it is without a store: every teacher runs in every step."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from pipeline.distillation import TeacherTargets
from pipeline.inference.prediction import inference, predict
from pipeline.inference.sampling import reduce_features
from pipeline.models import find_peaks
from pipeline.targets.resampling import resample

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector
    from pipeline.params import Dump
    from storage import ArraySpec


class LiveTeachers:
    """Gives a batch the key "teacher", as `TargetTransform` does, from the teachers themselves.

    What a fair implementation would do: no gradient, the dump's precision, the features that the recipe uses and
    no others, reduced as the store's are so that the loss is the same. Several heatmaps are averaged cell by cell
    and peaks found in the mean, which costs less than the store's matching of boxes.

    Args:
        teachers: by name; they move to the device of the batch.
        dump: precision of the bodies, number of peaks.
        features: the store's description of each teacher's features, where the recipe uses them.
        size: (height, width) that the teachers see.
    """

    def __init__(self, teachers: Mapping[str, "Detector"], dump: "Dump", features: Mapping[str, "ArraySpec"],
                 size: tuple[int, int]) -> None:
        self.teachers, self.dump, self.features, self.size = dict(teachers), dump, dict(features), size

    def __call__(self, batch: Mapping[str, "Tensor"]) -> dict[str, Any]:
        """The batch, whose image is (B, 3, H, W) uint8 RGB on the training device, with "teacher"."""
        images = batch["image"]
        if images.shape[2:] != self.size:  # a student of another input size
            images = F.interpolate(images.float(), self.size, mode="bilinear").to(torch.uint8)
        heads, features = [], {}
        for name, teacher in self.teachers.items():
            with inference(teacher, images.device):
                answer = predict(teacher, images, self.dump.precision)
                if name in self.features:
                    features[name] = reduce_features(answer.features, self.features[name])
            heads.append(answer[:3])
        with torch.inference_mode():
            heatmap, wh, offset = (torch.stack(maps).mean(0) for maps in zip(*heads, strict=True))
            peaks = find_peaks(heatmap, wh, offset, self.dump.peaks)
        # Autograd keeps no tensor that was made in inference mode, but a copy.
        found = TeacherTargets(heatmap.clone(), peaks.clone(), {name: each.clone() for name, each in features.items()})
        grid = batch["heatmap"].shape[-2:]
        return {**batch, "teacher": found if heatmap.shape[-2:] == grid else resample(found, grid)}
