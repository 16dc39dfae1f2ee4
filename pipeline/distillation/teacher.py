"""What a student is told about a batch of views."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

NOBODY: "Mapping[str, TeacherTargets]" = MappingProxyType({})


class TeacherTargets(NamedTuple):
    """What teachers, or their ensemble, said of a batch of views.

    Attributes:
        heatmap: (B, C, H, W) float32 probabilities.
        peaks: (B, K, 7) float32: cell y * W + x, class, score, w, h, dx, dy; padded with score 0.
        features: (B, F, h, w) float32 of each teacher that has them, by name; h <= H, w <= W.
        members: heads of the single teachers, by name, where a recipe asks for them.
        known: (n,) int64 planes of the heatmap whose classes the teacher knows; None for all.
    """

    heatmap: Tensor
    peaks: Tensor
    features: Mapping[str, Tensor]
    members: "Mapping[str, TeacherTargets]" = NOBODY
    known: Tensor | None = None


def together(members: Mapping[str, TeacherTargets]) -> TeacherTargets:
    """Several teachers that nobody merged: each plane is the mean of those that know its class; what else each has.

    The members are on the student's grid already: there a peak's score goes into its own teacher's heatmap.
    """
    said = [member.heatmap for member in members.values()]
    count_C11 = torch.stack([_knows(member) for member in members.values()]).sum(0).clamp(min=1)
    heatmap = torch.stack(said).sum(0) / count_C11
    features = {name: values for member in members.values() for name, values in member.features.items()}
    return TeacherTargets(heatmap, torch.cat([member.peaks for member in members.values()], 1), features, members)


def _knows(teacher: TeacherTargets) -> Tensor:
    """(C, 1, 1) 1 in the planes of the classes that a teacher knows."""
    ones = teacher.heatmap.new_ones(teacher.heatmap.shape[1], 1, 1)
    return ones if teacher.known is None else torch.zeros_like(ones).index_fill(0, teacher.known, 1)
