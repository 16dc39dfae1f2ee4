"""The oracle: ground truth in the place of teachers.

It goes through the same terms as what teachers say, so what their students gain over its students is
the teachers' knowledge, and not the denser loss.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.distillation.teacher import TeacherTargets


def ground_truth_targets(batch: Mapping[str, Tensor]) -> TeacherTargets:
    """What a teacher that errs nowhere would say of a batch.

    Args:
        batch: "heatmap" (B, C, H, W) as rendered for the ground-truth loss, "wh" and "offset" (B, M, 2)
            in cells, "indices" (B, M) int64, "mask" (B, M).

    Returns:
        The rendered heatmap as probabilities, and a peak of score 1 with the exact box for every object.
    """
    heatmap, indices = batch["heatmap"].float(), batch["indices"]
    at_centres_BCM = heatmap.flatten(2).gather(2, indices.unsqueeze(1).expand(-1, heatmap.shape[1], -1))
    parts = [indices.float(), at_centres_BCM.argmax(1).float(), batch["mask"].float()]
    peaks_BM7 = torch.cat([torch.stack(parts, 2), batch["wh"].float(), batch["offset"].float()], 2)
    return TeacherTargets(heatmap, peaks_BM7, {})
