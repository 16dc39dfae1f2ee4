"""A detector of some classes among those of a larger data set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pipeline.models.detector import Detector

#: Logit of a class that a detector does not know, in every cell: p = 2e-9, which every encoding stores as 0.
UNKNOWN = -20.0


@torch.no_grad()
def spread(model: "Detector", classes: Sequence[str]) -> "Detector":
    """Gives the detector a heatmap plane for each of `classes`; those that it was not trained on stay empty.

    Nothing else of its answers changes. Its configuration then says `known`.

    Args:
        model: a detector whose configuration names its classes; it is changed.
        classes: all of its own and others, in the order of the new planes.

    Returns:
        The detector.
    """
    own = model.config.classes
    assert own is not None, "nobody said what this detector's planes stand for"
    rows = [classes.index(name) for name in own]
    for heads in model.heads_of_stacks:
        old = heads.heatmap[-1]
        assert isinstance(old, nn.Conv2d)
        assert old.bias is not None
        new = nn.Conv2d(old.in_channels, len(classes), 1, device=old.weight.device, dtype=old.weight.dtype)
        assert new.bias is not None
        nn.init.zeros_(new.weight)
        nn.init.constant_(new.bias, UNKNOWN)
        new.weight[rows], new.bias[rows] = old.weight, old.bias
        heads.heatmap[-1] = new
    model.config = replace(model.config, num_classes=len(classes), classes=tuple(classes), known=own)
    return model
