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


def together(members: Mapping[str, TeacherTargets], features: Mapping[str, Tensor]) -> TeacherTargets:
    """Several teachers that nobody merged: the mean of their heatmaps, and the peaks of each."""
    heatmap = torch.stack([member.heatmap for member in members.values()]).mean(0)
    return TeacherTargets(heatmap, torch.cat([member.peaks for member in members.values()], 1), features, members)
