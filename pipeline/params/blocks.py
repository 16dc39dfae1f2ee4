"""What every block of params.yaml is made of."""

import os
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from pipeline.seeds import SEEDS

# DVC reads a dot as a path, and commands a dash at the beginning as an option.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+][A-Za-z0-9_+-]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
#: A file or folder; ~ is the home folder, before anything is read or compared.
PathName = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


class Block(BaseModel):
    """A block of params: immutable, no unknown keys, no silent conversions, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def distinct(names: list[str]) -> list[str]:
    """The names, each of which must be there only once."""
    if len(set(names)) < len(names):
        raise ValueError("expected a name only once")
    return names


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: One name, or a list of them.
Names = Annotated[list[str], BeforeValidator(_list_of_one), Field(min_length=1)]


def _of_features(name: str) -> str:
    if not re.fullmatch(r"(pca-[1-9]\d{0,3}\+)?(pooled\+)?(u8-channel|exact-fp16)", name):
        raise ValueError("expected u8-channel or exact-fp16, before it pooled+ or not, and before that pca-K+ or not: "
                         "pca-32+pooled+u8-channel, say")
    return name


#: An encoding of features: the names that `storage.features` reads, which params are checked without.
OfFeatures = Annotated[str, AfterValidator(_of_features)]
