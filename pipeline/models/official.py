"""Names in the official CenterNet checkpoints, and what they are called here."""

import re
from collections.abc import Iterable

from pipeline.errors import UserError

_RENAMES = tuple((re.compile(pattern), name) for pattern, name in (
    # ResNet with deconvolutions
    (r"^(conv1|bn1|layer[1-4])\.", r"body.\1."),
    (r"^deconv_layers\.", "neck."),
    (r"^(hm|wh|reg)\.([02])\.(?=weight|bias)", r"heads.\1.\2."),
    # hourglass
    (r"^pre\.0\.conv\.", "stem.0.0."),
    (r"^pre\.0\.bn\.", "stem.0.1."),
    (r"^pre\.1\.", "stem.2."),
    (r"^kps\.", "levels."),
    (r"(?<=\.)up1(?=\.)", "beside"),
    (r"(?<=\.)low1(?=\.)", "down"),
    (r"(?<=\.)low2(?=\.)", "inner"),
    (r"(?<=\.)low3(?=\.)", "up"),
    (r"^cnvs\.(\d+)\.conv\.", r"outs.\1.0.0."),
    (r"^cnvs\.(\d+)\.bn\.", r"outs.\1.0.1."),
    (r"^inters_\.", "merge_in."),
    (r"^cnvs_\.", "merge_out."),
    (r"^inters\.", "merged."),
    (r"^(hm|wh|reg)\.(\d+)\.0\.conv\.", r"heads.\2.\1.0."),
    (r"^(hm|wh|reg)\.(\d+)\.1\.", r"heads.\2.\1.2."),
    # both
    (r"(?<=\.)hm(?=\.)", "heatmap"),
    (r"(?<=\.)reg(?=\.)", "offset"),
))

_NOT_BUILT = {
    "conv_offset_mask": "deformable convolutions",
    "ida_up": "DLA's aggregation with deformable convolutions",
}


def our_key(official: str) -> str:
    """The name here of an official key (without 'module.'); an unknown one comes back as it is."""
    for pattern, name in _RENAMES:
        official = pattern.sub(name, official)
    return official


def is_official(keys: Iterable[str]) -> bool:
    """Whether these keys (without 'module.') are an official detector's: it has a head called hm."""
    return any(key.startswith("hm.") for key in keys)


def refuse_deformable(path: object, keys: Iterable[str]) -> None:
    """Refuse checkpoints of the official architectures that need deformable convolution.

    Raises:
        UserError: a key belongs to one of them.
    """
    for key in keys:
        for part, what in _NOT_BUILT.items():
            if part in key:
                raise UserError(f"{path} needs {what} (key {key!r}), which is not built here; "
                                "take one of hourglass104 or of a ResNet without 'dcn' in its name.")
