"""What a student learns from stored teachers' outputs."""

from pipeline.distillation.loss import DistillationLoss
from pipeline.distillation.oracle import ground_truth_targets
from pipeline.distillation.schedules import share_of_weight
from pipeline.distillation.teacher import TeacherTargets, together

__all__ = ["DistillationLoss", "TeacherTargets", "ground_truth_targets", "share_of_weight", "together"]
