"""Names in the official CenterNet checkpoints, and what they are called here."""

import re
from collections.abc import Collection, Iterable

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

_OF_DLA = re.compile(r"(base\.)?base_layer\.|dla_up\.|ida_up\.")
_DEFORMABLE = "conv_offset_mask"


def our_key(official: str) -> str:
    """The name here of an official key (without 'module.'); an unknown one comes back as it is."""
    for pattern, name in _RENAMES:
        official = pattern.sub(name, official)
    return official


def is_official(keys: Iterable[str]) -> bool:
    """Whether these keys (without 'module.') are an official detector's: it has a head called hm."""
    return any(key.startswith("hm.") for key in keys)


def refuse_unsupported(path: object, keys: Collection[str]) -> None:
    """Refuse checkpoints of the official architectures that are not built here: DLA and deformable convolutions.

    Raises:
        UserError: a key belongs to one of them.
    """
    if any(_OF_DLA.match(key) for key in keys):
        held = "a DLA body"
    elif any(_DEFORMABLE in key for key in keys):
        held = "deformable convolutions (DCN)"
    else:
        return
    raise UserError(f"{path} holds {held}, not supported here; expected hourglass104, or a ResNet without 'dcn' in its "
                    "name.")
