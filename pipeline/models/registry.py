"""Detectors by name."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError, unknown
from pipeline.models.bodies import body_names
from pipeline.models.convolutions import suit_cpus
from pipeline.models.deconv import DeconvArch, DeconvDetector
from pipeline.models.detector import Detector, DetectorConfig
from pipeline.models.hourglass import SMALL, HourglassArch, HourglassDetector
from pipeline.models.spreading import spread
from pipeline.models.weights import load_pretrained, load_weights, read_config, refuse_other_classes

Arch = DeconvArch | HourglassArch

#: The class of a detector and its default architecture.
MODELS: dict[str, tuple[Callable[[str, int, Any], Detector], Arch]] = {
    "resnet18": (DeconvDetector, DeconvArch()),
    "resnet34": (DeconvDetector, DeconvArch()),
    "resnet50": (DeconvDetector, DeconvArch()),
    "mobilenet_v2": (DeconvDetector, DeconvArch()),
    "efficientnet_b0": (DeconvDetector, DeconvArch()),
    "hourglass104": (HourglassDetector, HourglassArch()),
    "hourglass_small": (HourglassDetector, SMALL),
}
for _name in body_names():
    MODELS.setdefault(_name, (DeconvDetector, DeconvArch()))


def available_models() -> list[str]:
    """All names, the project's own first."""
    return list(MODELS)


def build_detector(
    name: str, num_classes: int, /, *, pretrained: bool = False, weights: Path | str | None = None,
    reset_heads: bool = False, **arch: Any,
) -> Detector:
    """Build a detector.

    Args:
        name: one of `available_models()`.
        num_classes: planes of the heatmap, at least 1.
        pretrained: load torchvision's ImageNet weights into the body.
        weights: a file to load: ours (.safetensors), a torchvision state_dict of the body, or an
            official CenterNet checkpoint (.pth).
        reset_heads: keep the heads new; `weights` may then be of another class count.
        **arch: options of the architecture, see DeconvArch and HourglassArch.

    Returns:
        The detector in training mode, on the CPU (or torch's default device), with `.config`.

    Raises:
        UserError: an unknown name or option, or weights that do not fit.
    """
    if name not in MODELS:
        raise unknown("Model", name, available_models())
    if num_classes < 1:
        raise UserError(f"{name}: a detector needs at least one class, got {num_classes}.")
    if pretrained and weights is not None:
        raise UserError(f"{name}: pretrained and weights exclude each other; set one of them.")
    make, default = MODELS[name]
    model = make(name, num_classes, _resolve(name, default, arch))
    suit_cpus(model)
    if pretrained:
        model.config = load_pretrained(model)
    elif weights is not None:
        model.config = load_weights(model, Path(weights), reset_heads=reset_heads)
    return model


def detector_config(name: str, num_classes: int, /, **arch: Any) -> DetectorConfig:
    """The configuration of a detector that is not built: nothing of the size of its weights is allocated.

    RegNets alone are built for it: they take the widths of their layers from tensors, which need values.

    Raises:
        UserError: as `build_detector`.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if name.startswith("regnet_") else "meta"):
        return build_detector(name, num_classes, **arch).config


def load_detector(path: Path | str) -> Detector:
    """The detector that `save_detector` wrote, as it was.

    Raises:
        UserError: the file is missing, broken or not ours.
    """
    config = read_config(Path(path))
    return build_detector(config["model"], config["num_classes"], weights=path, **config["arch"])


def load_trained(path: Path | str, classes: Sequence[str], known: Sequence[str] | None = None) -> Detector:
    """The detector that `save_detector` wrote, with a heatmap plane for each class of a data set.

    Args:
        path: the weights file.
        classes: of the data set.
        known: what the detector was trained on, where it is something else: it gets the planes of the data set
            (`spread`).

    Raises:
        UserError: the file is damaged, or was trained on other classes.
    """
    if known is not None and not {*known} & {*classes}:
        raise unknown(f"{path}: class", known[0], list(classes))
    model = load_detector(path)
    refuse_other_classes(path, model.config.classes, known or classes)
    return model if known is None else spread(model, classes)


def _resolve(name: str, default: Arch, options: dict[str, Any]) -> Arch:
    """The architecture with `options` in place of its defaults; lists of integers become tuples."""
    known = asdict(default)
    resolved: dict[str, Any] = {}
    for key, value in options.items():
        if key not in known:
            raise unknown(f"{name}: option of arch", key, list(known))
        several = isinstance(known[key], tuple)
        least = 0 if key == "head_channels" else 1
        if isinstance(value, (list, tuple)) != several or not all(
                type(n) is int and n >= least for n in (value if several else [value])):
            raise UserError(f"{name}: arch.{key} is {value!r}, expected "
                            f"{'a list of integers, each' if several else 'an integer of'} {least} or more.")
        resolved[key] = tuple(value) if several else value
    return replace(default, **resolved)
