"""Pascal VOC's XML, read and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse
from numpy.typing import NDArray

from pipeline.data.dataset import ImageRecord
from pipeline.data.images import BadFile
from pipeline.data.sources import DECIMALS, checked_boxes


@dataclass(frozen=True, eq=False)
class Annotation:
    """The content of one XML file.

    Attributes:
        filename: of the image, "" where the file does not say.
        width, height: of the image in pixels.
        names: class of each object.
        boxes: (n, 4) float32 x1 y1 x2 y2, 0-based continuous pixel edges, clipped to the image.
        difficult, truncated: (n,) bool.
        zeros: boxes whose xmin or ymin is 0 in the file, where VOC counts from 1.
    """

    filename: str
    width: int
    height: int
    names: tuple[str, ...]
    boxes: NDArray[np.float32]
    difficult: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    zeros: int


def read_annotation(path: Path) -> Annotation:
    """Reads a VOC annotation.

    Raises:
        BadFile: it is missing, not XML, declares entities, has no size, or has an object without
            a name or without a box inside the image.
    """
    try:
        root: ElementTree.Element = parse(path).getroot()
    except FileNotFoundError:
        raise BadFile(path, "the annotation does not exist") from None
    except DefusedXmlException:
        raise BadFile(path, "it declares XML entities, which are refused: remove its DOCTYPE") from None
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise BadFile(path, f"it is not valid XML: {error}") from None
    try:
        return _annotation(root)
    except ValueError as error:
        raise BadFile(path, str(error)) from None


def write_annotation(path: Path, record: ImageRecord, classes: Sequence[str]) -> None:
    """Writes a record as VOC XML; `read_annotation` gives back the same boxes and flags."""
    root = ElementTree.Element("annotation")
    _add(root, folder="JPEGImages", filename=record.path.name)
    _add(ElementTree.SubElement(root, "size"), width=record.width, height=record.height, depth=3)
    _add(root, segmented=0)
    for (x1, y1, x2, y2), label, difficult, truncated in zip(
            record.boxes.tolist(), record.labels, record.difficult, record.truncated, strict=True):
        node = ElementTree.SubElement(root, "object")
        _add(node, name=classes[label], pose="Unspecified")
        _add(node, truncated=int(truncated), difficult=int(difficult))
        box = ElementTree.SubElement(node, "bndbox")
        # 1-based, inclusive
        _add(box, xmin=_text(x1 + 1), ymin=_text(y1 + 1), xmax=_text(x2), ymax=_text(y2))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _annotation(root: ElementTree.Element) -> Annotation:
    if root.tag != "annotation":
        raise ValueError(f"it is no VOC annotation: its root is <{root.tag}>")
    width, height = (_number(root, f"size/{side}", "the image") for side in ("width", "height"))
    if width < 1 or height < 1 or width % 1 or height % 1:
        raise ValueError(f"its size of {width:g}x{height:g} is not one of an image")
    objects = root.findall("object")
    names = [(node.findtext("name") or "").strip() for node in objects]
    where = [f"object {index + 1} ({name or 'no name'})" for index, name in enumerate(names)]
    if "" in names:
        raise ValueError(f"object {names.index('') + 1} has no <name>")
    corners = [[_number(node, f"bndbox/{edge}", at) for edge in ("xmin", "ymin", "xmax", "ymax")]
               for node, at in zip(objects, where, strict=True)]
    boxes = np.array(corners, np.float64).reshape(-1, 4) - (1, 1, 0, 0)
    flags = {tag: np.array([_flag(node, tag, at) for node, at in zip(objects, where, strict=True)], np.bool_)
             for tag in ("difficult", "truncated")}
    return Annotation((root.findtext("filename") or "").strip(), int(width), int(height), tuple(names),
                      checked_boxes(boxes, names, int(width), int(height)), **flags,
                      zeros=int((boxes[:, :2] == -1).any(1).sum()))


def _number(node: ElementTree.Element, path: str, where: str) -> float:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"{where} has no <{path.replace('/', '><')}>")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: <{path.replace('/', '><')}> is {text.strip()!r}, not a number") from None


def _flag(node: ElementTree.Element, tag: str, where: str) -> bool:
    text = (node.findtext(tag) or "0").strip()
    if text not in ("0", "1", "Unspecified"):
        raise ValueError(f"{where}: <{tag}> is {text!r}, expected 0 or 1")
    return text == "1"


def _add(node: ElementTree.Element, **values: object) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(node, tag).text = str(value)


def _text(edge: float) -> str:
    return f"{edge:.{DECIMALS}f}".rstrip("0").rstrip(".")
