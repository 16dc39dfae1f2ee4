"""The distillation loss: what a student is told about its teachers' dense outputs.

Shape suffixes: B batch, C classes, H and W cells, h and w cells of stored features, K peaks, F a teacher's channels.

Reference: the forms of the heatmap, wh and offset terms are by default those of an earlier public
CenterNet distillation code, whose weights the paper's best W carries; normalised so that W means the
same at every input size and class count. The paper does not publish its feature term and attention:
ours is a reading of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.distillation import attention, features, heatmap, peaks
from pipeline.distillation.teacher import TeacherTargets
from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.outputs import DenseOutputs
    from pipeline.params import Recipe

HEATMAP_SCALE = 1 / 20  # W's first number belongs to a mean over VOC's twenty classes
FEATURE_SCALE = 0.005


class DistillationLoss(nn.Module):
    """The weighted terms between a student's answer and its teachers' stored outputs.

    - kd_heatmap: w1 / 20 x the mean over B, H, W of the class-summed distance of the recipe's form; the sum leaves
      out classes that the teacher does not know.
    - kd_wh: w2 x the L1 distance of wh at the teacher's peaks; kd_offset: w3 x that of offset. Both are
      weighted by `peak_weights` and divided by their sum. The peaks are those kept exactly (3x3 maxima per
      class, found in float32), so that a coarse encoding of the maps does not move them.
    - kd_features: w4 x 0.005 x the distance of the recipe's form between standardised maps, the
      student's through a trained 1x1 convolution per teacher; the mean over teachers. Where a
      teacher's map is coarser, the student's is averaged to its grid first, once for all teachers of that grid.

    Of teachers that are kept separate, each is compared with by itself, and the first three terms are
    the means over them. A term of weight 0 is not named. Everything but that average is float32
    whatever autocast says.

    Args:
        recipe: weights, forms and attention.
        channels: of each teacher's stored features, by name: how much each channel weighs, of mean 1.
        student_channels: of the student's features.
        mean_over_ranks: mean of a tensor over all processes, differentiable
            (`engine.mean_over_ranks`).

    Raises:
        UserError: the recipe reads features and no teacher has any.
    """

    def __init__(self, recipe: "Recipe", channels: Mapping[str, Sequence[float]], student_channels: int, *,
                 mean_over_ranks: "Callable[[Tensor], Tensor]" = lambda tensor: tensor) -> None:
        super().__init__()
        self.recipe, self.channels, self.mean_over_ranks = recipe, tuple(channels), mean_over_ranks
        self.w_heatmap, self.w_wh, self.w_offset, self.w_features = recipe.weights
        if recipe.reads_features and not channels:
            raise UserError(f"the recipe learns from features (w4 {self.w_features:g}, attend_outputs "
                            f"{str(recipe.attend_outputs).lower()}) but no teacher's store holds any; dump them "
                            "(dump.features), or set w4 to 0 and attend_outputs: false.")
        for name, weights in channels.items():
            spread_F11 = torch.tensor(weights, dtype=torch.float32).sqrt().view(-1, 1, 1)
            self.register_buffer(f"spread of {name}", spread_F11, persistent=False)
        # Without a bias: standardising takes it away again. A bare name may be that of a module's method.
        self.adapters = nn.ModuleDict({
            f"of {name}": nn.Conv2d(student_channels, len(weights), 1, bias=False)
            for name, weights in channels.items() if self.w_features})

    def forward(self, outputs: "Sequence[DenseOutputs]", teacher: TeacherTargets) -> dict[str, Tensor]:
        """The weighted terms, float32 scalars, of the last stack's outputs."""
        student, terms = outputs[-1], {}
        maps = {name: self._standard(name, teacher.features[name]) for name in self.channels}
        cells_B1HW = (self._cells(teacher, list(maps.values()), teacher.heatmap.shape[2:])
                      if self.recipe.attend_outputs else None)
        said = list(teacher.members.values()) if self.recipe.separate else [teacher]
        if self.w_heatmap:
            distance = torch.stack([self._heatmap(student, one, cells_B1HW) for one in said]).mean()
            terms["kd_heatmap"] = self.w_heatmap * HEATMAP_SCALE * distance
        if self.w_wh or self.w_offset:
            pairs = [self._boxes(student, one, cells_B1HW) for one in said]
            for name, weight, distances in zip(("kd_wh", "kd_offset"), (self.w_wh, self.w_offset),
                                               zip(*pairs, strict=True), strict=True):
                if weight:
                    terms[name] = weight * torch.stack(distances).mean()
        if self.w_features:
            averaged = _on_grids(student.features, maps.values())
            per_teacher = [self._features(averaged[told.shape[2], told.shape[3]], name, told, teacher)
                           for name, told in maps.items()]
            terms["kd_features"] = self.w_features * FEATURE_SCALE * torch.stack(per_teacher).mean()
        return terms

    def _heatmap(self, student: "DenseOutputs", teacher: TeacherTargets, cells_B1HW: Tensor | None) -> Tensor:
        form, logits, told = self.recipe.heatmap, student.heatmap.float(), teacher.heatmap
        if teacher.known is not None:
            logits, told = logits.index_select(1, teacher.known), told.index_select(1, teacher.known)
        distance_BHW = heatmap.FORMS[form](logits, told)
        weighted = distance_BHW if cells_B1HW is None else cells_B1HW[:, 0] * distance_BHW
        return heatmap.SCALES[form] * weighted.mean()

    def _boxes(self, student: "DenseOutputs", teacher: TeacherTargets,
               cells_B1HW: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean distances of wh and of offset over the peaks."""
        found_BK7, cells = teacher.peaks, student.wh.shape[2] * student.wh.shape[3]
        weights_BK = peaks.peak_weights(found_BK7, cells, self.recipe.peak_threshold)
        if cells_B1HW is not None:
            weights_BK = weights_BK * peaks.at_peaks(cells_B1HW[:, 0], found_BK7)
        total = self.mean_over_ranks(weights_BK.sum()).clamp(min=1e-4)  # 0 where nothing peaks
        wh_BK = peaks.wh_distance(student.wh, found_BK7, normalised=self.recipe.wh == "normalised")
        offset_BK = peaks.offset_distance(student.offset, found_BK7)
        return (weights_BK * wh_BK).sum() / total, (weights_BK * offset_BK).sum() / total

    def _features(self, student: Tensor, name: str, told: Tensor, teacher: TeacherTargets) -> Tensor:
        form, grid_hw = self.recipe.features, (told.shape[2], told.shape[3])
        with torch.autocast(student.device.type, enabled=False):
            adapted, spread_F11 = self._standard(name, self.adapters[f"of {name}"](student)), self._spread(name)
        if form == "pkd":
            return features.pkd(adapted, told)
        if form == "cwd":
            return features.cwd(adapted, told, spread_F11)
        if form == "fgd":
            shares = peaks.object_shares(teacher.peaks, self.recipe.peak_threshold, teacher.heatmap.shape[2:], grid_hw)
            return features.fgd(adapted, told, spread_F11, shares)
        weights = self._cells(teacher, [told], grid_hw)
        if "channel" in self.recipe.attention:
            weights = weights * attention.channel(told / spread_F11)
        return features.hint(adapted, told, weights)

    def _cells(self, teacher: TeacherTargets, maps: Sequence[Tensor], grid_hw: Sequence[int]) -> Tensor:
        """The product of the recipe's kinds of attention that differ from cell to cell, (B, 1, *grid_hw) of mean 1.

        Args:
            teacher: its heatmap and members.
            maps: standardised features, whose spatial attentions are averaged.
            grid_hw: the grid of the answer.
        """
        kinds, factors = self.recipe.attention, [teacher.heatmap.new_ones(len(teacher.heatmap), 1, *grid_hw)]
        if "spatial" in kinds:
            places = [attention.on_grid(attention.spatial(one), grid_hw) for one in maps]
            factors.append(torch.stack(places).mean(0))
        if "heatmap" in kinds:
            factors.append(attention.on_grid(attention.heatmap(teacher.heatmap), grid_hw))
        if "agreement" in kinds:
            said = torch.stack([one.heatmap for one in teacher.members.values()])
            factors.append(attention.on_grid(attention.agreement(said), grid_hw))
        return attention.mean_one(torch.stack(factors).prod(0))

    def _standard(self, name: str, map_BFhw: Tensor) -> Tensor:
        return features.standardise(map_BFhw, self.mean_over_ranks) * self._spread(name)

    def _spread(self, name: str) -> Tensor:
        return self.get_buffer(f"spread of {name}")


def _on_grids(map_BFHW: Tensor, others: Iterable[Tensor]) -> dict[tuple[int, int], Tensor]:
    """A map on the grid of each of the others, float32; averaged before that, which is half the work in bfloat16."""
    def on(grid_hw: tuple[int, int]) -> Tensor:
        return map_BFHW if map_BFHW.shape[2:] == grid_hw else F.adaptive_avg_pool2d(map_BFHW, grid_hw)

    return {grid_hw: on(grid_hw).float() for grid_hw in {(other.shape[2], other.shape[3]) for other in others}}
