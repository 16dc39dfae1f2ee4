"""Torchvision's classifiers, cut before their pooling: images to a map of stride 32."""

import re

import torch
import torchvision
from torch import nn

#: Stride of every body here.
BODY_STRIDE = 32

# These are a chain of named children up to the pooling and end at stride 32. The others do not
# (transformers, inception's odd sizes, alexnet and squeezenet's stride 16).
_CHAINS = ("convnext_", "densenet", "efficientnet_", "mnasnet", "mobilenet_", "regnet_", "resnet",
           "resnext", "shufflenet_", "vgg", "wide_resnet")
_AFTER_THE_BODY = ("avgpool", "fc", "classifier")


def body_names() -> list[str]:
    """Names of the torchvision classifiers that can be a body."""
    return [n for n in torchvision.models.list_models(module=torchvision.models) if n.startswith(_CHAINS)]


def build_body(name: str) -> tuple[nn.Sequential, int]:
    """A classifier without its head, randomly initialised, and its number of output channels.

    Parameters keep torchvision's names, so that its state_dicts fit as they are.
    """
    classifier = torchvision.models.get_model(name, weights=None)
    body = nn.Sequential()
    for child, module in classifier.named_children():
        if child in _AFTER_THE_BODY:
            break
        body.add_module(child, module)
    if name.startswith("densenet"):  # whose forward has this one outside the children
        body.add_module("relu", nn.ReLU(inplace=True))
    return body, _out_channels(body)


def torchvision_key(key: str) -> str | None:
    """The name in our body of a key of torchvision's, None for the classifier's head."""
    if key.split(".")[0] in _AFTER_THE_BODY:
        return None
    # The published densenet files are older than the names of their layers.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def _out_channels(body: nn.Sequential) -> int:
    device = next(body.parameters()).device
    body.eval()
    with torch.no_grad():
        channels, height, width = body(torch.zeros(1, 3, 64, 64, device=device)).shape[1:]
    body.train()
    assert (height, width) == (64 // BODY_STRIDE,) * 2
    return int(channels)
