"""From stores of teachers' outputs to what a student's training step reads."""

from pipeline.targets.dequantising import dequantise
from pipeline.targets.objective import Objective
from pipeline.targets.opening import Targets, channel_weights, check_shape, known_planes, open_targets
from pipeline.targets.replaying import ReplayedViews
from pipeline.targets.transforming import TargetTransform

__all__ = ["Objective", "ReplayedViews", "TargetTransform", "Targets", "channel_weights", "check_shape",
           "dequantise", "known_planes", "open_targets"]
