"""From a batch as it was read to what a student's losses take, on the training device."""

from typing import TYPE_CHECKING, Any

import torch

from pipeline.arithmetic import constant
from pipeline.distillation import TeacherTargets, together
from pipeline.targets.dequantising import dequantise
from pipeline.targets.resampling import mirror, on_grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from storage import ArraySpec


class TargetTransform:
    """Turns the codes in a batch into the key "teacher", a TeacherTargets on the grid of the ground truth.

    Args:
        arrays: description of every "store/array" in the batch; without any, batches pass as they are.
        heads: the store whose heatmap and peaks are the target; None where those of each teacher are. Other stores
            whose heatmap and peaks are there are its `members`.
        known: planes of the classes that a store's teachers know, by its name, where these are not all.
    """

    def __init__(self, arrays: "Mapping[str, ArraySpec]", heads: str | None,
                 known: "Mapping[str, Sequence[int]] | None" = None) -> None:
        self.arrays, self.heads = dict(arrays), heads
        self.known = {name: tuple(planes) for name, planes in (known or {}).items()}

    def __call__(self, batch: "Mapping[str, Tensor]") -> dict[str, Any]:
        """The batch, on any device, with "teacher" in place of the codes."""
        if not self.arrays:
            return dict(batch)
        values = {name: dequantise(batch[name], array) for name, array in self.arrays.items()}
        features = {name.removesuffix("/features"): value for name, value in values.items()
                    if name.endswith("/features")}
        said = {name: self._said(name, values[f"{name}/heatmap"], values[f"{name}/peaks"])
                for name in (key.removesuffix("/heatmap") for key in values if key.endswith("/heatmap"))}
        if self.heads is None:
            own = {name: {name: features[name]} if name in features else {} for name in said}
            teacher = together({name: _as_seen(one._replace(features=own[name]), batch) for name, one in said.items()})
        else:
            teacher = _as_seen(said.pop(self.heads)._replace(features=features, members=said), batch)
        return {**{name: value for name, value in batch.items() if name not in values}, "teacher": teacher}

    def _said(self, name: str, heatmap: "Tensor", peaks: "Tensor") -> TeacherTargets:
        known = self.known.get(name)
        planes = None if known is None else constant(known, heatmap.device, torch.long)
        return TeacherTargets(heatmap, peaks, {}, known=planes)


def _as_seen(teacher: TeacherTargets, batch: "Mapping[str, Tensor]") -> TeacherTargets:
    """Mirrored as the views of the batch are, and on the grid of its ground truth."""
    if "mirrored" in batch:
        teacher = mirror(teacher, batch["mirrored"])
    return on_grid(teacher, batch["heatmap"].shape[-2:])
