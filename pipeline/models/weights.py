"""Weights on disk: ours, torchvision's and the official ones. No pickle is ever executed."""

import json
import os
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import safetensors
import torch
import torchvision
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.models.bodies import torchvision_key
from pipeline.models.deconv import DeconvDetector
from pipeline.models.official import is_official, our_key, refuse_unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.models.detector import Detector, DetectorConfig

State = dict[str, torch.Tensor]
_AboveZero = Annotated[float, Field(gt=0)]

_CONFIG = "centernet_distill_config"  # key of the safetensors metadata
_DETECTORS = "a file of ours (.safetensors), an official CenterNet checkpoint (.pth, with heads hm, wh and reg)"


class _Config(BaseModel):
    """Of the metadata of a file of ours, what loading needs: `DetectorConfig` says what it is."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    num_classes: Annotated[int, Field(ge=1)]
    classes: list[str] | None
    arch: dict[str, int | list[int]]
    color_order: Literal["rgb", "bgr"]
    mean: tuple[float, float, float]
    std: tuple[_AboveZero, _AboveZero, _AboveZero]


def save_detector(model: "Detector", path: Path | str, classes: "Sequence[str]") -> None:
    """Write a detector's weights and, beside them, `config.json`; each appears whole or not at all.

    Args:
        model: the detector.
        path: of the .safetensors file, whose metadata holds the configuration too.
        classes: names in the order of the heatmap's planes.
    """
    assert len(classes) == model.config.num_classes, (len(classes), model.config.num_classes)
    path = Path(path)
    config = {**model.config.to_json(), "classes": list(classes)}
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    params = sum(p.numel() for p in model.parameters())
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(state, partial, metadata={_CONFIG: json.dumps(config)})
        partial.chmod(mode)  # safetensors makes files that their owner alone may read
        os.replace(partial, path)
        partial.write_text(json.dumps({**config, "params": params}, indent=2) + "\n")
        os.replace(partial, path.with_name("config.json"))
    except safetensors.SafetensorError as error:  # its way to say that the disk is full
        raise UserError(f"{path} could not be written: {error}.") from None
    finally:
        partial.unlink(missing_ok=True)


def refuse_other_classes(path: Path | str, found: "Sequence[str] | None", wanted: "Sequence[str]") -> None:
    """Compares the classes of a weights file, if it names any, with those that it is used for.

    Raises:
        UserError: they are others, or in another order.
    """
    if found is not None and tuple(found) != tuple(wanted):
        raise UserError(f"{path} was trained on the classes {', '.join(found)}, but here they are "
                        f"{', '.join(wanted)}: train it again, prepare the data it belongs to, or, if it is a teacher, "
                        "say what its planes are (`classes`).")


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in the metadata of a file of ours, as JSON values.

    Raises:
        UserError: the file is missing, broken or not ours.
    """
    _must_exist(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}.") from None
    try:
        return _Config.model_validate_json(metadata[_CONFIG]).model_dump(mode="json")
    except (KeyError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": ""}
        wrong = f" ({'.'.join(map(str, first['loc']))}: {first['msg']})" if first["loc"] else ""
        raise UserError(f"{path} holds no detector's configuration in its metadata{wrong}; expected a file that "
                        "save_detector wrote.") from None


def load_weights(model: "Detector", path: Path, *, reset_heads: bool) -> "DetectorConfig":
    """Load a file of any kind into a detector.

    Args:
        model: its parameters are overwritten.
        path: .safetensors of ours; or a .pth with a torchvision state_dict of the body or an
            official CenterNet checkpoint, told apart by their keys.
        reset_heads: leave the heads as they are, whatever the file's class count.

    Returns:
        The configuration that goes with these weights.

    Raises:
        UserError: the file is missing, unreadable, unsafe or of another network.
    """
    if path.suffix == ".safetensors":
        return _load_ours(model, path, reset_heads)
    state, name = _read_pickle(path), model.config.model
    refuse_unsupported(path, state)
    if not is_official(state):
        load_body(model, state, path)
        return model.config
    state = {our_key(key): value for key, value in state.items()}
    _refuse_misfit(model, state, path, name, without_heads=True)  # first: another network's classes do not matter
    planes = {len(v) for k, v in state.items() if k.startswith("heads.") and k.endswith("heatmap.2.weight")}
    if not reset_heads and len(planes) == 1:
        _check_classes(model.config, path, planes.pop())
    _fit(model, state, path, name, without_heads=reset_heads)
    return model.config.with_official_input()


def holds_detector(path: Path) -> bool:
    """Whether a file that `load_weights` takes has heads: a torchvision state_dict is a body alone."""
    return path.suffix == ".safetensors" or is_official(_read_pickle(path))


def load_body(model: "Detector", state: State, source: object) -> None:
    """Load a torchvision state_dict into a detector's body; its classifier is dropped.

    Raises:
        UserError: it does not fit.
    """
    name, begins = model.config.model, ", ".join(map(repr, [*state][:2]))
    if not isinstance(model, DeconvDetector):
        raise UserError(f"{source} holds no CenterNet (its keys: {begins}, …), and {name} has no torchvision body; "
                        f"expected {_DETECTORS}.")
    named = {torchvision_key(key): value for key, value in state.items()}
    if not named.keys() & model.body.state_dict().keys():
        raise UserError(f"{source}: its keys are none that are known ({begins}, …); expected {_DETECTORS}, or "
                        f"torchvision's state_dict of a {name}.")
    _fit(model.body, {k: v for k, v in named.items() if k is not None}, source, name)


def load_pretrained(model: "Detector") -> "DetectorConfig":
    """Load torchvision's ImageNet weights into the body, downloading them where they are missing.

    IMAGENET1K_V1 where there is one (the weights of the paper's years), else torchvision's default.

    Returns:
        The configuration with the mean and std of these weights.

    Raises:
        UserError: there are none, or the download fails.
    """
    name = model.config.model
    if not isinstance(model, DeconvDetector):
        raise UserError(f"pretrained: {name} has no ImageNet weights; set it to false, or give `weights`.")
    choices = torchvision.models.get_model_weights(name)
    chosen = choices["IMAGENET1K_V1"] if "IMAGENET1K_V1" in choices.__members__ else choices.DEFAULT
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as error:  # urllib's are OSErrors; a wrong hash is a RuntimeError
        raise UserError(f"pretrained: {chosen.url} could not be loaded ({str(error) or type(error).__name__}); "
                        f"put it into {folder} by hand, or set pretrained to false.") from None
    except (pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(f"pretrained: the file of {chosen.url} in {folder} {_unreadable(error)}.") from None
    load_body(model, state, chosen.url)
    transforms = chosen.transforms()
    return replace(model.config, mean=tuple(transforms.mean), std=tuple(transforms.std))


def _load_ours(model: "Detector", path: Path, reset_heads: bool) -> "DetectorConfig":
    theirs, ours = read_config(path), model.config.to_json()
    if theirs["model"] != ours["model"]:
        raise UserError(f"{path} is a {theirs['model']}, expected a {ours['model']}.")
    for option, value in ours["arch"].items():
        if theirs["arch"].get(option) != value and not (reset_heads and option == "head_channels"):
            raise UserError(f"{path} has arch.{option} {theirs['arch'].get(option)}, expected {value}.")
    if not reset_heads:
        _check_classes(model.config, path, theirs["num_classes"], theirs["classes"])
    _fit(model, load_file(path), path, ours["model"], without_heads=reset_heads)
    return model.config.trained_as(theirs, None if reset_heads else theirs["classes"])


def _read_pickle(path: Path) -> State:
    _must_exist(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # it may well be whole
        raise
    except Exception as error:  # whatever a broken or hostile file makes the unpickler raise
        raise UserError(f"{path} {_unreadable(error)}.") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds a {type(content).__name__}, expected a state_dict: names and tensors.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UserError(f"{path} holds a {type(value).__name__} under {key!r}, expected a "
                            "state_dict: names and tensors.")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _check_classes(config: "DetectorConfig", path: Path, theirs: int, names: "Sequence[str] | None" = None) -> None:
    if theirs != config.num_classes:
        listed = f" ({', '.join(names)})" if names else ""
        raise UserError(f"{path} has {theirs} classes{listed}, expected {config.num_classes}: to train it under new "
                        "heads, set reset_heads: true, with epochs above 0; to take a teacher as it is, with epochs: "
                        f"0, list the names of all {theirs}, in their order, in its `classes`.")


def _fit(module: torch.nn.Module, state: State, source: object, name: str, *, without_heads: bool = False) -> None:
    """Load `state`, which must have exactly the module's keys (BatchNorm's counters aside)."""
    _refuse_misfit(module, state, source, name, without_heads=without_heads)
    if without_heads:
        state = _headless(state)
    module.load_state_dict(state, strict=False)


def _refuse_misfit(module: torch.nn.Module, state: State, source: object, name: str, *, without_heads: bool) -> None:
    own = module.state_dict()
    if without_heads:
        own, state = _headless(own), _headless(state)
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shapes = [f"{k} is {list(v.shape)}, expected {list(own[k].shape)}"
              for k, v in state.items() if k in own and v.shape != own[k].shape]
    kinds = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    problems = [f"{len(keys)} {what} ({'; '.join(keys[:2])}{'; …' * (len(keys) > 2)})"
                for what, keys in kinds.items() if keys]
    if problems:
        raise UserError(f"{source} is of another architecture than {name}; keys: {', '.join(problems)}.")


def _headless(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("heads.")}


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is a folder, expected a file of weights." if path.is_dir()
                        else f"{path}: no such file of weights.")


def _unreadable(error: Exception) -> str:
    """What is wrong with a file that torch.load refused: its own text advises to execute it."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    if wanted:
        return f"is refused and was not executed: its pickle asks for {wanted[1]}, expected only tensors"
    return "is damaged or no PyTorch file, expected a state_dict of tensors; nothing in it was executed"
