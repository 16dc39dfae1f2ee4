"""A student's losses: of the ground truth, and towards what its teachers said."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pipeline.distillation import DistillationLoss, ground_truth_targets, share_of_weight
from pipeline.losses import GroundTruthLoss

if TYPE_CHECKING:
    from pipeline.outputs import DenseOutputs
    from pipeline.params import Recipe


class Objective(nn.Module):
    """Ground truth, weighted, and what the teachers said.

    Args:
        ground_truth: its loss.
        recipe: the weight of its terms, where 0 leaves them out, and the schedule of the teachers'.
        distillation: the teachers' loss, if there are any.
    """

    def __init__(self, ground_truth: GroundTruthLoss, recipe: "Recipe",
                 distillation: DistillationLoss | None) -> None:
        super().__init__()
        self.ground_truth, self.recipe, self.distillation = ground_truth, recipe, distillation

    def forward(self, outputs: "list[DenseOutputs]", batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            outputs: one per stack.
            batch: as `TargetTransform` leaves it; where W has a schedule also "progress", the share of the
                run that is done.
        """
        recipe, terms = self.recipe, {}
        if recipe.ground_truth:
            terms = {name: recipe.ground_truth * term for name, term in self.ground_truth(outputs, batch).items()}
        if self.distillation is not None:
            told = self.distillation(outputs, ground_truth_targets(batch) if recipe.oracle else batch["teacher"])
            if recipe.schedule != "constant":
                share = share_of_weight(recipe.schedule, recipe.schedule_share, batch["progress"])
                told = {name: share * term for name, term in told.items()}
            terms |= told
        return terms
