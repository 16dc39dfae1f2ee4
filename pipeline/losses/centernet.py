"""The three losses of CenterNet against ground truth.

Shape suffixes: B batch, C classes, H and W cells, M rows for objects. Everything is computed in
float32, whatever autocast says: a focal loss in bfloat16 cannot tell p = .999 from 1.

Reference: Zhou et al., "Objects as Points" (2019), and its official code for what the paper
leaves open (the clamp, the normalisers).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.outputs import gather_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.outputs import DenseOutputs

WH_WEIGHT = 0.1
CLAMP = 1e-4


def own_count(count: Tensor) -> Tensor:
    """The mean of a count over the processes where there is one process."""
    return count


def focal_loss(logits_BCHW: Tensor, target_BCHW: Tensor, *, labelled_B: Tensor | None = None,
               mean_over_ranks: "Callable[[Tensor], Tensor]" = own_count) -> Tensor:
    """Penalty-reduced focal loss of the heatmap, per object.

    Args:
        logits_BCHW: heatmap before the sigmoid, any float dtype.
        target_BCHW: heatmap in [0, 1]; a cell that is exactly 1 is an object's centre.
        labelled_B: bool; images where it is False do not count, background or centres. None: all do.
        mean_over_ranks: mean of a scalar count over all processes.

    Returns:
        float32 scalar. Without any centre in the batch the sum over this process's background, undivided.

    Reference: Objects as Points, eq. 1; the official code clamps p to [1e-4, 1 - 1e-4].
    """
    p = logits_BCHW.float().sigmoid().clamp(CLAMP, 1 - CLAMP)
    target = target_BCHW.float()
    centre = target == 1
    at_centre = (1 - p).square() * p.log()
    elsewhere = (1 - target).pow(4) * p.square() * (1 - p).log()  # pow(4) is 0 at a centre
    loss = torch.where(centre, at_centre, elsewhere)
    if labelled_B is not None:
        labelled = labelled_B[:, None, None, None]
        centre, loss = centre & labelled, torch.where(labelled, loss, 0.0)
    objects = mean_over_ranks(centre.sum(dtype=torch.float32))
    return -loss.sum() / torch.where(objects > 0, objects, 1.0)


def l1_at(output_BCHW: Tensor, mask_BM: Tensor, indices_BM: Tensor, target_BMC: Tensor, *,
          mean_over_ranks: "Callable[[Tensor], Tensor]" = own_count) -> Tensor:
    """L1 distance at the objects' centre cells, per channel and object.

    Args:
        output_BCHW: a regression map, any float dtype.
        mask_BM: 1 where a row holds an object, any dtype.
        indices_BM: int64 centre cells y * W + x.
        target_BMC: float values at those cells; rows outside the mask do not count.
        mean_over_ranks: mean of a scalar count over all processes.

    Returns:
        float32 scalar: the sum divided by (mask expanded to C channels + 1e-4).

    Reference: the official code's masked regression loss.
    """
    output_BMC = gather_cells(output_BCHW, indices_BM).float()
    mask_BMC = mask_BM.unsqueeze(2).expand_as(output_BMC).float()
    distance = (output_BMC * mask_BMC - target_BMC.float() * mask_BMC).abs().sum()
    return distance / (mean_over_ranks(mask_BMC.sum()) + 1e-4)


class GroundTruthLoss(nn.Module):
    """CenterNet's loss, heatmap + 0.1 wh + offset, averaged over a detector's stacks.

    Args:
        mean_over_ranks: mean of a scalar count over all processes (`engine.mean_over_ranks`). With
            it the mean of the processes' gradients is the gradient of the whole batch (of N processes' batch
            without any centre 1/N of it).
    """

    def __init__(self, mean_over_ranks: "Callable[[Tensor], Tensor]" = own_count) -> None:
        super().__init__()
        self.mean_over_ranks = mean_over_ranks

    def forward(self, outputs: "Sequence[DenseOutputs]", batch: "Mapping[str, Tensor]") -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            outputs: one per stack.
            batch: "heatmap" (B, C, H, W), "wh" and "offset" (B, M, 2) in cells, "indices" (B, M)
                int64, "mask" (B, M). Where there is also "labelled" (B,) bool, the others do not count; a batch
                of unlabelled images has a loss of 0.

        Returns:
            "heatmap", "wh" and "offset": float32 scalars whose sum is the loss.
        """
        labelled, mask = batch.get("labelled"), batch["mask"]
        if labelled is not None:
            mask = mask * labelled[:, None]

        def regression(name: str) -> Tensor:
            return torch.stack([
                l1_at(getattr(stack, name), mask, batch["indices"], batch[name],
                      mean_over_ranks=self.mean_over_ranks) for stack in outputs]).mean()

        heatmap = torch.stack([
            focal_loss(stack.heatmap, batch["heatmap"], labelled_B=labelled, mean_over_ranks=self.mean_over_ranks)
            for stack in outputs]).mean()
        return {"heatmap": heatmap, "wh": WH_WEIGHT * regression("wh"), "offset": regression("offset")}
