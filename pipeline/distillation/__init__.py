"""What a student learns from stored teachers' outputs."""

from pipeline.distillation.loss import DistillationLoss, TeacherTargets

__all__ = ["DistillationLoss", "TeacherTargets"]
