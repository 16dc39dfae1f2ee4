"""Distillation as it is without a store: every teacher runs in every step."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from pipeline.arithmetic import exactly
from pipeline.distillation import TeacherTargets, together
from pipeline.inference.prediction import predict, set_up
from pipeline.inference.sampling import Reduction
from pipeline.models import find_peaks
from pipeline.targets.resampling import on_grid

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector
    from pipeline.params import Dump
    from pipeline.targets import Targets

FEATURES = "features"


class LiveTeachers:
    """Gives a batch the key "teacher", as `TargetTransform` does, from the teachers themselves.

    What a fair implementation would do: no gradient, the dump's precision, what the recipe uses and no more, features
    reduced as the store's are so that the loss is the same. Where there is a choice, the cheaper: heatmaps of several
    teachers are averaged cell by cell and peaks found in the mean, without the store's matching of boxes, and no
    view is augmented for the teachers (`dump.tta`).

    Args:
        teachers: by name; at the first batch they move to its device, and into eval mode.
        targets: the recipe and its stores, which say what is used.
        dump: precision of the bodies, number of peaks.
    """

    def __init__(self, teachers: Mapping[str, "Detector"], targets: "Targets", dump: "Dump") -> None:
        self.teachers, self.targets, self.dump = dict(teachers), targets, dump
        self.device: torch.device | None = None
        self.reductions: dict[str, Reduction] = {}
        self.size = tuple(targets.recorded.size)

    def __call__(self, batch: Mapping[str, "Tensor"]) -> dict[str, Any]:
        """The batch, whose image is (B, 3, H, W) uint8 RGB on the training device, with "teacher"."""
        images, targets = batch["image"], self.targets
        if images.device != self.device:
            for teacher in self.teachers.values():
                set_up(teacher, images.device)
            self.reductions = {name: Reduction(targets.stores[name].spec[FEATURES], images.device)
                               for name in self.teachers if FEATURES in targets.arrays.get(name, ())}
            self.device = images.device
        if tuple(images.shape[2:]) != self.size:  # a student of another input size
            images = F.interpolate(images.float(), self.size, mode="bilinear", antialias=True).round().to(torch.uint8)
        maps, members, features = [], {}, {}
        for name, teacher in self.teachers.items():
            with exactly():
                answer = predict(teacher, images, self.dump.precision)
                maps.append(answer[:3])
                if "heatmap" in targets.arrays.get(name, ()):
                    members[name] = self._heads(*answer[:3])
                if name in self.reductions:
                    features[name] = self.reductions[name](answer.features)
        # Autograd keeps no tensor that was made in inference mode, but a copy.
        features = {name: values.clone() for name, values in features.items()}
        grid = batch["heatmap"].shape[-2:]
        if targets.heads is None:
            own = {name: {name: features[name]} if name in features else {} for name in members}
            return {**batch, "teacher": together({name: on_grid(member._replace(features=own[name]), grid)
                                                  for name, member in members.items()})}
        if targets.heads in members:
            found = members.pop(targets.heads)._replace(features=features, members=members)
        else:
            with torch.inference_mode():
                merged = self._heads(*(torch.stack(each).mean(0) for each in zip(*maps, strict=True)))
            found = merged._replace(features=features, members=members)
        return {**batch, "teacher": on_grid(found, grid)}

    def _heads(self, heatmap: "Tensor", wh: "Tensor", offset: "Tensor") -> TeacherTargets:
        peaks = find_peaks(heatmap, wh, offset, self.dump.peaks)
        with torch.inference_mode(False):
            return TeacherTargets(heatmap.clone(), peaks.clone(), {})
