"""The oracle: ground truth in the place of teachers.

It goes through the same terms as what teachers say, so what their students gain over its students is
the teachers' knowledge, and not the denser loss.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.distillation.teacher import TeacherTargets
from pipeline.outputs import gather_cells


def ground_truth_targets(batch: Mapping[str, Tensor]) -> TeacherTargets:
    """What a teacher that errs nowhere would say of a batch.

    Args:
        batch: "heatmap" (B, C, H, W) as rendered for the ground-truth loss, "wh" and "offset" (B, M, 2)
            in cells, "indices" (B, M) int64, "mask" (B, M).

    Returns:
        The rendered heatmap as probabilities, and a peak of score 1 with the rendered box for every object.
    """
    heatmap, indices = batch["heatmap"].float(), batch["indices"]
    parts = [indices.float(), gather_cells(heatmap, indices).argmax(2).float(), batch["mask"].float()]
    peaks_BM7 = torch.cat([torch.stack(parts, 2), batch["wh"].float(), batch["offset"].float()], 2)
    return TeacherTargets(heatmap, peaks_BM7, {})
