"""Forms of the feature term: how far a student's adapted map is from a teacher's stored one.

Both maps are (B, F, h, w), standardised and, where a recipe asks for it, with principal components
scaled to the spread that they have in the teacher's own map. Every form gives a float32 scalar of about
2 for maps that have nothing in common, so that one w4 fits all (tests/distillation/test_features.py
compares their gradients): the mean square of two such maps is 2 (1 - r).

The student's map comes through a 1x1 convolution to the teacher's channels, which belongs to the loss and
not to the student. PKD and CWD as published need none where the channel counts match; here a store keeps a few
principal components, which no student has by itself.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.distillation.attention import channel, mean_one, spatial

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS_TO_BACKGROUND = 2.0  # FGD's alpha / beta


def standardise(map_BFHW: Tensor, mean_over_ranks: "Callable[[Tensor], Tensor]") -> Tensor:
    """Each channel to mean 0 and variance 1 over the batch of all processes and space, in float32.

    Over the batch and not per image: a channel that is silent in an image stays silent there, and
    attention can see it. A channel that is constant becomes 0.
    """
    x = map_BFHW.float()
    mean_F11 = mean_over_ranks(x.mean((0, 2, 3))).view(-1, 1, 1)
    centred = x - mean_F11
    variance_F11 = mean_over_ranks(centred.square().mean((0, 2, 3))).view(-1, 1, 1)
    return centred * (variance_F11 + 1e-6).rsqrt()


def hint(student: Tensor, teacher: Tensor, weights: Tensor | float) -> Tensor:
    """The mean square under attention.

    Args:
        student, teacher: (B, F, h, w).
        weights: broadcast over them, of mean 1.

    Reference: Romero et al., "FitNets" (2015), for a trained regressor to the teacher's channels; its maps are not
    standardised.
    """
    return (weights * (student - teacher).square()).mean()


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """2 (1 - r), with Pearson's correlation r of each channel over the batch.

    Of standardised maps that is `hint` without attention, and computed so.

    Reference: Cao et al., "PKD" (2022), eq. 3-5; it has no adapter and no attention.
    """
    return hint(student, teacher, 1.0)


def cwd(student: Tensor, teacher: Tensor, spread_F11: Tensor) -> Tensor:
    """2 x the divergence of where each channel is active: KL(teacher || student) of softmaxes over the cells.

    The softmax is of channels of variance 1, at temperature 1, and each channel counts as it varies in the
    teacher's map. For maps that are near each other the divergence is half of their mean square under the
    teacher's softmax, hence the 2.

    Args:
        student, teacher: (B, F, h, w).
        spread_F11: (F, 1, 1) what both were multiplied by after they were standardised; its squares have mean 1.

    Reference: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction" (2021), eq. 4-5; its maps are not
    standardised.
    """
    ours, theirs = ((side / spread_F11).flatten(2).log_softmax(2) for side in (student, teacher))
    divergence_BF = (theirs.exp() * (theirs - ours)).sum(2)
    return 2 * (spread_F11.flatten().square() * divergence_BF).mean()


def fgd(student: Tensor, teacher: Tensor, spread_F11: Tensor, shares_B1hw: Tensor) -> Tensor:
    """Focal and global distillation, from what a store holds.

    - focal: the mean square under the teacher's spatial and channel attention, with the objects and the
      background of an image weighing 2 to 1 in all, small objects as much as large ones;
    - attention: the L1 distance of both sides' spatial and channel attention;
    - global: the mean square of both sides' context, the sum of the cells by the teacher's spatial attention.

    Boxes are those of the teacher's peaks where FGD takes the ground truth's. Its global part has a
    trained block of relations (GcBlock) on either side; ours is that block's pooling alone, which
    needs no parameters. The parts weigh 1 to 1 to 1, FGD's own constants belonging to maps that are not standardised.

    Args:
        student, teacher: (B, F, h, w).
        spread_F11: (F, 1, 1) what both were multiplied by after they were standardised.
        shares_B1hw: cells of the teacher's objects, as of `object_shares`.

    Reference: Yang et al., "Focal and Global Knowledge Distillation" (2022), eq. 2-12.
    """
    background_B1hw = (shares_B1hw == 0).float()
    sums = shares_B1hw.sum((2, 3), keepdim=True), background_B1hw.sum((2, 3), keepdim=True)
    objects, background = (part / total.clamp(min=1e-6)
                           for part, total in zip((shares_B1hw, background_B1hw), sums, strict=True))
    place, channels = spatial(teacher), channel(teacher / spread_F11)
    cells = mean_one(place * (OBJECTS_TO_BACKGROUND * objects + background))
    focal = hint(student, teacher, cells * channels)
    imitation = (spatial(student) - place).abs().mean() + (channel(student / spread_F11) - channels).abs().mean()
    context = (place * (student - teacher)).mean((2, 3)).square().mean()
    return focal + imitation + context
