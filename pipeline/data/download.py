"""Fetching Pascal VOC, by torchvision's own code."""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import UserError

#: 07+12: what the literature trains and tests on.
SETS = {"train": ["2007_trainval", "2012_trainval"], "test": ["2007_test"]}


def download_voc(source: Path, sets: Mapping[str, Sequence[str]] | None) -> None:
    """Fetches the sets (None: 07+12) that are missing, below `source` or as `source` if it is called VOCdevkit.

    Raises:
        UserError: a set is not Pascal VOC's, or it cannot be fetched.
    """
    root = source.parent if source.name == "VOCdevkit" else source
    for name in (name for names in (sets or SETS).values() for name in names):
        year, _, image_set = name.partition("_")
        folder = root / "VOCdevkit" / f"VOC{year}"
        if not _is_whole(folder, image_set):
            _fetch(root, year, image_set)


def _is_whole(folder: Path, image_set: str) -> bool:
    """Whether all that the list of a set names is there: an unpacking that stopped leaves the list and some images."""
    names = folder / "ImageSets" / "Main" / f"{image_set}.txt"
    return names.is_file() and all(
        (folder / "JPEGImages" / f"{name}.jpg").is_file() and (folder / "Annotations" / f"{name}.xml").is_file()
        for name in names.read_text(encoding="utf-8", errors="replace").split())


def _fetch(root: Path, year: str, image_set: str) -> None:
    from torchvision.datasets import VOCDetection  # slow to import, and seldom needed

    try:
        VOCDetection(root, year=year, image_set=image_set, download=True)
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"data.download: VOC{year} {image_set} could not be fetched into {root}: {reason}. "
                        "Put a VOCdevkit there by hand, or try again where there is a network.") from None
