"""The paper's numbers: VOC mAP in percent, trained on VOC07+12 for 100 epochs from ImageNet weights."""

from typing import NamedTuple

SCALE = "Paper: VOC07+12, 100 epochs, ImageNet weights"


class PaperRow(NamedTuple):
    """A student's mAP: untaught, taught by ResNet-50 (Table 2), by ResNet-50 and Hourglass (Table 3)."""

    alone: float
    one_teacher: float
    two_teachers: float


BACKBONES = {
    "resnet18": PaperRow(73.95, 77.96, 79.82),
    "resnet34": PaperRow(79.83, 83.01, 85.32),
    "mobilenet_v2": PaperRow(66.93, 75.96, 78.23),
    "efficientnet_b0": PaperRow(75.27, 77.13, 78.02),
}

#: The teacher, as Tables 2 and 3 show it beside its students.
TEACHERS = {"resnet50": 80.22}

#: ResNet-18 by W; the keys are those of `pipeline.params.recipe.PAPER_WEIGHTS`.
TABLE_4 = {
    "table4-1": 76.36,
    "table4-2": 75.39,
    "table4-3": 72.91,
    "table4-4": 71.36,
    "table4-5": 72.23,
    "table4-6": 69.88,
}
TABLE_4_STUDENT = "resnet18"

#: The abstract: MobileNetV2 against the ResNet-50 CenterNet; percent, percent, points of mAP.
CLAIM_STUDENT = "mobilenet_v2"
CLAIM_PARAMS, CLAIM_SPEED, CLAIM_MAP = -74.7, +70.5, -1.99
