"""VOC's XML: annotations survive a round trip; bad files are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import ImageRecord
from pipeline.data.images import BadFile
from pipeline.data.sources import checked_boxes
from pipeline.data.voc_xml import read_annotation, write_annotation

Make = Callable[..., Any]


@st.composite
def records(draw: st.DrawFn) -> ImageRecord:
    width, height = draw(st.integers(1, 6000)), draw(st.integers(1, 6000))

    def interval(limit: int) -> tuple[float, float]:
        ends = draw(st.lists(st.integers(0, limit * 1000), min_size=2, max_size=2, unique=True))
        return min(ends) / 1000, max(ends) / 1000

    number = draw(st.integers(0, 4))
    boxes = []
    for _ in range(number):
        (x1, x2), (y1, y2) = interval(width), interval(height)
        boxes.append((x1, y1, x2, y2))
    flags = st.lists(st.booleans(), min_size=number, max_size=number)
    return ImageRecord(
        id="a", path=Path(draw(st.text("abc &<é", min_size=1)).strip() + ".png"), width=width, height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array([draw(st.integers(0, 2)) for _ in range(number)], np.int64),
        difficult=np.array(draw(flags), bool), truncated=np.array(draw(flags), bool))


@settings(deadline=None, max_examples=60)  # it writes files
@given(record=records())
def test_round_trip_is_exact(record: ImageRecord, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.xml"
    classes = ("dog", "cat & mouse", "été")
    write_annotation(path, record, classes)
    annotation = read_annotation(path)
    assert (annotation.width, annotation.height) == (record.width, record.height)
    assert annotation.filename == record.path.name
    assert annotation.names == tuple(classes[label] for label in record.labels)
    assert annotation.boxes.dtype == np.float32
    for field in ("boxes", "difficult", "truncated"):
        np.testing.assert_array_equal(getattr(annotation, field), getattr(record, field))


def annotation_of(tmp_path: Path, xml: str) -> Any:
    path = tmp_path / "a.xml"
    path.write_text(xml)
    return read_annotation(path)


def test_boxes_are_0_based_edges_and_flags_are_read(tmp_path: Path) -> None:
    annotation = annotation_of(tmp_path, """<annotation><filename>a.jpg</filename>
        <size><width>40</width><height>30</height></size>
        <object><name>dog</name><difficult>1</difficult><truncated>0</truncated>
          <bndbox><xmax>40</xmax><xmin>1</xmin><ymin>2</ymin><ymax>30</ymax></bndbox>
          <part><name>head</name>
            <bndbox><xmin>3</xmin><ymin>3</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>
        </object>
        <object><name> cat </name><truncated>Unspecified</truncated>
          <bndbox><xmin>5</xmin><ymin>6.5</ymin><xmax>5</xmax><ymax>8</ymax></bndbox></object>
        </annotation>""")
    assert annotation.names == ("dog", "cat")
    assert annotation.boxes.tolist() == [[0, 1, 40, 30], [4, 5.5, 5, 8]]
    assert annotation.difficult.tolist() == [True, False]
    assert annotation.truncated.tolist() == [False, False]


def test_a_box_on_the_border_is_clipped(tmp_path: Path, voc_xml: Make) -> None:
    annotation = annotation_of(tmp_path, voc_xml([("dog", (0, 0, 41, 31))]))
    assert annotation.boxes.tolist() == [[0, 0, 40, 30]]


def test_an_image_without_objects_is_legal(tmp_path: Path, voc_xml: Make) -> None:
    annotation = annotation_of(tmp_path, voc_xml([]))
    assert annotation.boxes.shape == (0, 4)
    assert annotation.difficult.shape == (0,)


def test_a_missing_annotation(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"none\.xml: the annotation does not exist"):
        read_annotation(tmp_path / "none.xml")


SIZE = "<size><width>40</width><height>30</height></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
BOMB = ('<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'
        f"<annotation>{SIZE}<object><name>&y;</name>{BOX}</object></annotation>")
FILE_ENTITY = ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
               f"<annotation>{SIZE}<object><name>&x;</name>{BOX}</object></annotation>")
BAD_XML = {
    "": "not valid XML",
    "<annotation><size>": "not valid XML",
    "<?xml version='1.0' encoding='nonsense'?><annotation/>": "not valid XML",
    BOMB: "entities, which are refused",
    FILE_ENTITY: "entities, which are refused",
    "<html/>": "it is no VOC annotation: its root is <html>",
    "<annotation><filename>a.jpg</filename></annotation>": "the image has no <size><width>",
    "<annotation><size><width>40</width></size></annotation>": "the image has no <size><height>",
    "<annotation><size><width>0</width><height>0</height></size></annotation>": "size of 0x0",
    "<annotation><size><width>nan</width><height>9</height></size></annotation>": "size of nanx9",
    "<annotation><size><width>inf</width><height>9</height></size></annotation>": "size of infx9",
    "<annotation><size><width>wide</width><height>9</height></size></annotation>": "is 'wide', not a number",
    f"<annotation>{SIZE}<object>{BOX}</object></annotation>": "object 1 has no <name>",
    f"<annotation>{SIZE}<object><name>dog</name></object></annotation>":
        r"object 1 \(dog\) has no <bndbox><xmin>",
    f"<annotation>{SIZE}<object><name>dog</name><difficult>maybe</difficult>{BOX}</object></annotation>":
        r"object 1 \(dog\): <difficult> is 'maybe', expected 0 or 1",
}


@pytest.mark.parametrize("xml", BAD_XML)
def test_bad_xml_is_named(tmp_path: Path, xml: str) -> None:
    with pytest.raises(BadFile, match=BAD_XML[xml]) as caught:
        annotation_of(tmp_path, xml)
    assert caught.value.file == str(tmp_path / "a.xml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("box", "what"), [
    ((30, 10, 43, 20), "reaches outside"), ((-3, 10, 20, 20), "reaches outside"),
    ((100, 100, 120, 120), "reaches outside"), (("nan", 1, 5, 5), "reaches outside"),
    ((1, 1, "inf", 5), "reaches outside"), ((20, 10, 10, 20), "is empty in"), ((41, 1, 41, 5), "is empty in"),
])
def test_boxes_outside_or_empty_are_named(tmp_path: Path, voc_xml: Make, box: Any, what: str) -> None:
    with pytest.raises(BadFile, match=rf"object 2 \(cat\): its box .* {what} the image of 40x30"):
        annotation_of(tmp_path, voc_xml([("dog", (1, 1, 5, 5)), ("cat", box)]))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-50, 50)] * 4), max_size=5))
def test_checked_boxes_lie_in_the_image_or_raise(boxes: list[tuple[float, ...]]) -> None:
    array = np.array(boxes, np.float64).reshape(-1, 4)
    try:
        checked = checked_boxes(array, ["dog"] * len(boxes), 40, 30)
    except ValueError:
        return
    assert (checked >= 0).all()
    assert (checked[:, 2:] <= (40, 30)).all()
    assert (checked[:, :2] < checked[:, 2:]).all()
    assert (np.abs(checked - array) <= 1.001).all()
