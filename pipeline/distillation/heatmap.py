"""Forms of the heatmap term: how far a student's heatmap is from its teacher's, cell by cell.

Each takes logits and probabilities (B, C, H, W) and gives (B, H, W), summed over the classes, which
`DistillationLoss` averages and scales by w1 / 20. Each is 0 where both say the same, and leads the
student towards its teacher from either side.

SCALES make one W fit all: on maps of rendered objects (6 classes at 16x16 cells, 20 at 32x32 and
128x128) the gradient with respect to the logits has the norm of the squared form's, on geometric
average over students between "not trained" and "knows most of it"; tests/distillation/test_heatmap.py
has them. No constant makes the forms alike at each of these: soft-focal's falls as a student learns (up to
2.5 times the squared form's at first, a fifth at the end), logit's grows (a thirtieth, then 5 times).
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

CLAMP = 1e-4  # the ground-truth loss's: a stored 0 is no logit of minus infinity
LEAK = 0.01
SCALES = {"squared": 1.0, "soft-focal": 4.0, "soft-bce": 1.5, "logit": 0.5}


def squared(logits_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """(p - t)^2 of probabilities, the paper's.

    Reference: an earlier public distillation of CenterNet, whose weights the paper's best W carries.
    """
    return (logits_BCHW.sigmoid() - teacher_BCHW).square().sum(1)


def soft_focal(logits_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """|t - p|^2 x cross-entropy of p against t.

    Reference: Li et al., "Generalized Focal Loss" (2020), eq. 3 with beta 2; ours does not follow the
    weight's own gradient.
    """
    return _weighted_cross_entropy(logits_BCHW, teacher_BCHW, 2)


def soft_bce(logits_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """|t - p| x cross-entropy of p against t: `soft_focal` with beta 1."""
    return _weighted_cross_entropy(logits_BCHW, teacher_BCHW, 1)


def _weighted_cross_entropy(logits_BCHW: Tensor, teacher_BCHW: Tensor, beta: int) -> Tensor:
    # Held constant: otherwise a student could lower the loss by agreeing less where both are unsure.
    weight = (teacher_BCHW - logits_BCHW.detach().sigmoid()).abs().pow(beta)
    return (weight * F.binary_cross_entropy_with_logits(logits_BCHW, teacher_BCHW, reduction="none")).sum(1)


def logit(logits_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """(LeakyReLU(s) - LeakyReLU(z))^2 of the student's and the teacher's logits.

    Below p = 1/2 a hundredth of the distance is left, so background counts little. The teacher's
    logit is that of the stored probability clamped to [1e-4, 1 - 1e-4], so within +-9.21; a student
    that is surer than that is pulled back.

    Reference: that earlier code has a LeakyReLU around probabilities, where it does nothing; this is
    what it would do to logits.
    """
    teacher = teacher_BCHW.logit(CLAMP)
    return (F.leaky_relu(logits_BCHW, LEAK) - F.leaky_relu(teacher, LEAK)).square().sum(1)


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": squared, "soft-focal": soft_focal, "soft-bce": soft_bce, "logit": logit}
