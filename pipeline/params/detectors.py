"""Networks: what entries of `teachers` and `students` say."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.params.blocks import Block, Fraction, PathName, Positive, distinct

AboveZero = Annotated[float, Field(gt=0.0)]


def _of_architecture(arch: dict[str, Any]) -> dict[str, Any]:
    if beside := [key for key in ("pretrained", "weights", "reset_heads") if key in arch]:
        raise ValueError(f"{', '.join(beside)} stands beside arch, not in it")
    return arch


class Input(Block):
    """How pixels are given to a network.

    Attributes:
        color_order: order of the planes.
        mean, std: of the planes in that order, for pixels in 0..1.
    """

    color_order: Literal["rgb", "bgr"]
    mean: tuple[Fraction, Fraction, Fraction]
    std: tuple[AboveZero, AboveZero, AboveZero]


class Detector(Block):
    """A network and how it is trained: what entries of `teachers` and `students` have in common.

    Attributes:
        model: a name of the registry (resnet50, hourglass_small, …).
        pretrained: torchvision's ImageNet weights for the body.
        weights: a file to start from (ours, torchvision's or an official CenterNet checkpoint).
        input: how `weights` were trained to be fed, where that is not what their kind is taken for: torchvision's for
            RGB with ImageNet's mean and deviation, official checkpoints for BGR with COCO's. Ours say it themselves.
        reset_heads: take `weights` although its class count differs, with new heads.
        arch: options of the architecture, e.g. {deconv: [256, 128, 64]}.
        train: keys of the block `train` that are different for this one.
    """

    model: str
    pretrained: bool = False
    weights: PathName | None = None
    input: Input | None = None
    reset_heads: bool = False
    arch: Annotated[dict[str, Any], AfterValidator(_of_architecture)] = {}
    train: dict[str, Any] = {}

    @model_validator(mode="after")
    def _files_of_ours_say_their_input(self) -> Self:
        if self.input and (self.weights is None or Path(self.weights).suffix == ".safetensors"):
            raise ValueError("input says how a .pth in `weights` was fed, but weights is "
                             f"{self.weights or 'null'}: take input away")
        return self


class Teacher(Detector):
    """An entry of `teachers`.

    Attributes:
        classes: what its planes stand for, in their order; null for the data's classes. It learns those of the data's
            classes that are named, objects of others are background to it, and what it says counts for the named ones
            alone. Of a file that is taken as it is, names that the data does not have are left out.
    """

    classes: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)] | None = None


class Student(Detector):
    """An entry of `students`.

    Attributes:
        size: [height, width] of its input in pixels, both sides the same 0.5 to 2 times those of views.size, which
            null takes.
    """

    size: tuple[Positive, Positive] | None = None
