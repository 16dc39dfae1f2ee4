"""A detector of some classes on data of others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pipeline.models.detector import Detector

#: Logit of a class that a detector does not know, in every cell: in float32 its probability is 0, and 0 is no peak.
UNKNOWN = -200.0


@torch.no_grad()
def spread(model: "Detector", classes: Sequence[str]) -> "Detector":
    """Gives the detector one heatmap plane for each of `classes`: its own, or an empty one where it has none.

    Nothing else of its answers changes. Its configuration then says which classes are `known`.

    Args:
        model: a detector whose configuration names its classes; it is changed.
        classes: in the order of the new planes.

    Returns:
        The detector.
    """
    own = model.config.classes
    assert own is not None, "nobody said what this detector's planes stand for"
    known = [name for name in own if name in classes]
    rows, old_rows = [classes.index(name) for name in known], [own.index(name) for name in known]
    for heads in model.heads_of_stacks:
        old = heads.heatmap[-1]
        assert isinstance(old, nn.Conv2d)
        assert old.bias is not None
        new = nn.Conv2d(old.in_channels, len(classes), 1, device=old.weight.device, dtype=old.weight.dtype)
        assert new.bias is not None
        nn.init.zeros_(new.weight)
        nn.init.constant_(new.bias, UNKNOWN)
        new.weight[rows], new.bias[rows] = old.weight[old_rows], old.bias[old_rows]
        heads.heatmap[-1] = new
    model.config = replace(model.config, num_classes=len(classes), classes=tuple(classes),
                           known=None if {*known} == {*classes} else tuple(known))
    return model
