"""One forward pass whose heads are exact, whatever the precision of the body."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from pipeline.arithmetic import exactly
from pipeline.devices import Precision
from pipeline.models import preprocess

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector


class Prediction(NamedTuple):
    """A detector's answer, all float32.

    Attributes:
        heatmap: (B, C, h, w) probabilities.
        wh, offset: (B, 2, h, w) in cells, x then y.
        features: (B, F, h, w), the map that the heads read.
    """

    heatmap: "Tensor"
    wh: "Tensor"
    offset: "Tensor"
    features: "Tensor"


@contextmanager
def inference(model: "Detector", device: torch.device | str) -> Iterator[None]:
    """`model` on `device`, in eval mode and channels_last; its mode is given back, not its place."""
    training = model.training
    set_up(model, device)
    try:
        with exactly():
            yield
    finally:
        model.train(training)


def set_up(model: "Detector", device: torch.device | str) -> None:
    """Brings `model` onto `device`, into eval mode and channels_last."""
    model.to(device).to(memory_format=torch.channels_last).eval()


def predict(model: "Detector", images: "Tensor", precision: Precision) -> Prediction:
    """The last stack's outputs for a batch; the heads of other stacks do not run.

    Heads are float32 whatever the precision of the body: neighbouring cells that bfloat16 rounds to one value would
    all be peaks.

    Args:
        model: inside `inference`, or after `set_up` inside `exactly`.
        images: (B, 3, H, W) uint8 RGB on the model's device.
        precision: of the body.
    """
    pixels = preprocess(images, model.config).contiguous(memory_format=torch.channels_last)
    kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
    with torch.autocast(images.device.type, kind, enabled=precision != "32-true"):
        features = model.features(pixels)[-1]
    outputs = model.heads_of_stacks[-1](features.float())
    return Prediction(outputs.heatmap.sigmoid(), outputs.wh, outputs.offset, outputs.features)
