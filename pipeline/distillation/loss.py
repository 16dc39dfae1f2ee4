"""The distillation loss: what a student is told about its teachers' dense outputs.

Shape suffixes: B batch, C classes, H and W cells, K peaks, F a teacher's channels.

Reference: the forms of the heatmap, wh and offset terms are those of an earlier public CenterNet
distillation code, whose weights the paper's best W carries; normalised so that W means the same at
every input size and class count. The paper does not publish its feature term and attention: ours
is a reading of them.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.distillation.features import attention, standardise
from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.outputs import DenseOutputs

HEATMAP_SCALE = 1 / 20  # W's first number belongs to a mean over VOC's twenty classes
FEATURE_SCALE = 0.005
SMALLEST_SIDE = 0.5  # cells; smaller boxes of a teacher count as this large where sizes are divided by


class TeacherTargets(NamedTuple):
    """What teachers, or their ensemble, said of a batch of views.

    Attributes:
        heatmap: (B, C, H, W) float32 probabilities.
        peaks: (B, K, 7) float32: cell y * W + x, class, score, w, h, dx, dy; padded with score 0.
        features: (B, F, h, w) float32 of each teacher that has them, by name; h <= H, w <= W.
    """

    heatmap: Tensor
    peaks: Tensor
    features: dict[str, Tensor]


def peak_weights(peaks_BK7: Tensor, cells: int, threshold: float) -> Tensor:
    """How much each peak counts, (B, K): its score if above the threshold, else 0.

    Where peaks of several classes share a cell, the strongest stands for the cell.

    Args:
        peaks_BK7: as in `TeacherTargets`.
        cells: H * W.
        threshold: least probability; without one a map's background outweighs its objects.
    """
    cell, score = peaks_BK7[..., 0].long(), peaks_BK7[..., 2]
    strongest = score.new_zeros(len(score), cells).scatter_reduce(1, cell, score, "amax")
    return torch.where((score > threshold) & (score == strongest.gather(1, cell)), score, 0.0)


class DistillationLoss(nn.Module):
    """The weighted terms between a student's answer and its teachers' stored outputs.

    - kd_heatmap: w1 / 20 x the mean over B, H, W of the class-summed squared difference of
      probabilities.
    - kd_wh: w2 x the L1 distance of wh at the teacher's peaks, divided by the teacher's (w + h) / 2;
      kd_offset: w3 x the L1 distance of offset there. Both are weighted by `peak_weights` and
      divided by their sum. The peaks are those kept exactly (3x3 maxima per class, found in
      float32), so that a coarse encoding of the maps does not move them.
    - kd_features: w4 x 0.005 x the attention-weighted mean square of standardised maps, the
      student's through a trained 1x1 convolution per teacher; the mean over teachers. Where a
      teacher's map is coarser, the student's is averaged to its grid first.

    A term of weight 0 is neither computed nor named. Everything is float32 whatever autocast says.

    Args:
        weights: W = (w1, w2, w3, w4).
        teacher_features: channels of each teacher's features, by name.
        student_channels: of the student's features.
        peak_threshold: least probability of a peak.
        attention: weight the features by the teacher's attention instead of all alike.
        mean_over_ranks: mean of a tensor over all processes, differentiable
            (`engine.mean_over_ranks`).

    Raises:
        UserError: w4 is positive and no teacher has features.
    """

    def __init__(self, weights: "Sequence[float]", teacher_features: "Mapping[str, int]",
                 student_channels: int, *, peak_threshold: float, attention: bool,
                 mean_over_ranks: "Callable[[Tensor], Tensor]" = lambda tensor: tensor) -> None:
        super().__init__()
        self.w_heatmap, self.w_wh, self.w_offset, self.w_features = weights
        if self.w_features and not teacher_features:
            raise UserError(f"the recipe's w4 is {self.w_features:g} but no teacher's store holds features; "
                            "dump them (dump.features) or set w4 to 0.")
        self.peak_threshold, self.attention = peak_threshold, attention
        self.mean_over_ranks = mean_over_ranks
        channels = teacher_features if self.w_features else {}
        self.adapters = nn.ModuleDict({  # without a bias: standardising takes it away again
            name: nn.Conv2d(student_channels, number, 1, bias=False) for name, number in channels.items()})

    def forward(self, outputs: "Sequence[DenseOutputs]", teacher: TeacherTargets) -> dict[str, Tensor]:
        """The weighted terms, float32 scalars, of the last stack's outputs."""
        student = outputs[-1]
        terms = {}
        if self.w_heatmap:
            difference = student.heatmap.float().sigmoid() - teacher.heatmap
            terms["kd_heatmap"] = self.w_heatmap * HEATMAP_SCALE * difference.square().sum(1).mean()
        if self.w_wh or self.w_offset:
            terms |= self._at_peaks(student, teacher.peaks)
        if self.w_features:
            per_teacher = [self._features(student.features, name, teacher.features[name])
                           for name in self.adapters]
            terms["kd_features"] = self.w_features * FEATURE_SCALE * torch.stack(per_teacher).mean()
        return terms

    def _at_peaks(self, student: "DenseOutputs", peaks_BK7: Tensor) -> dict[str, Tensor]:
        cells = student.wh.shape[2] * student.wh.shape[3]
        weights_BK = peak_weights(peaks_BK7, cells, self.peak_threshold)
        total = self.mean_over_ranks(weights_BK.sum()).clamp(min=1e-4)  # 0 where nothing peaks
        index_B2K = peaks_BK7[..., 0].long().unsqueeze(1).expand(-1, 2, -1)

        def distance_BK(output_B2HW: Tensor, first: int) -> Tensor:
            output_BK2 = output_B2HW.flatten(2).gather(2, index_B2K).transpose(1, 2).float()
            return (output_BK2 - peaks_BK7[..., first : first + 2]).abs().sum(2)

        terms = {}
        if self.w_wh:
            side_BK = peaks_BK7[..., 3:5].mean(2).clamp(min=SMALLEST_SIDE)
            terms["kd_wh"] = self.w_wh * (weights_BK * distance_BK(student.wh, 3) / side_BK).sum() / total
        if self.w_offset:
            terms["kd_offset"] = self.w_offset * (weights_BK * distance_BK(student.offset, 5)).sum() / total
        return terms

    def _features(self, student: Tensor, name: str, teacher_BFHW: Tensor) -> Tensor:
        height, width = teacher_BFHW.shape[2:]
        if student.shape[2:] != (height, width):
            student = F.adaptive_avg_pool2d(student, (height, width))
        adapted = standardise(self.adapters[name](student), self.mean_over_ranks)
        target = standardise(teacher_BFHW, self.mean_over_ranks)
        square = (adapted - target).square()
        return (attention(target) * square).mean() if self.attention else square.mean()
