"""One forward pass whose heads are exact, whatever the precision of the body."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from pipeline.models import preprocess
from pipeline.models.heads import Heads

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models import Detector

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


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
    model.to(device).to(memory_format=torch.channels_last).eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def predict(model: "Detector", images: "Tensor", precision: Precision) -> Prediction:
    """The last stack's outputs for a batch.

    In mixed precision the heads run again, in float32 on the body's features: neighbouring cells
    that bfloat16 rounds to one value would all be peaks.

    Args:
        model: inside `inference`.
        images: (B, 3, H, W) uint8 RGB on the model's device.
        precision: of the body.
    """
    pixels = preprocess(images, model.config).contiguous(memory_format=torch.channels_last)
    if precision == "32-true":
        outputs = model(pixels)[-1]
    else:
        kind = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
        with torch.autocast(images.device.type, kind):
            features = model(pixels)[-1].features
        heads = [module for module in model.modules() if isinstance(module, Heads)][-1]
        outputs = heads(features.float())
    return Prediction(outputs.heatmap.sigmoid(), outputs.wh, outputs.offset, outputs.features)
