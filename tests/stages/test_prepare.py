import json
from types import SimpleNamespace

import pytest
from PIL import Image

from pipeline.data import download
from pipeline.errors import UserError
from pipeline.params import Data
from stages import prepare


@pytest.mark.parametrize(("source", "file", "folder", "keys"), [
    ("all.json", "all.json", ".", {}),
    ("coco/jsons/all.json", "coco/jsons/all.json", "coco/images", {}),
    ("coco/all.json", "coco/all.json", "coco/pictures", {"images": "pictures"}),
    ("coco", "coco/all.json", "coco/pictures", {"images": "pictures", "sets": {"train": "all.json"}}),
    ("coco", "coco/all.json", "elsewhere", {"images": "elsewhere", "sets": {"train": "all.json"}}),
])
def test_a_coco_image_that_changed_is_noticed(tmp_path, monkeypatch, capsys, source, file, folder, keys):
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.png" for number in range(3)]
    for path in (tmp_path / folder / name for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    (tmp_path / folder / "0.png").write_bytes(b"")
    images = [{"id": name, "file_name": name, "width": 40, "height": 30} for name in names]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps({
        "images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}))
    data = Data.model_validate({"name": "mine", "source": source, "val_fraction": 0.0, **keys})

    def prepared():
        manifest = prepare.run(SimpleNamespace(data=data))
        return manifest["splits"]["train"], "taken over" in capsys.readouterr().err

    assert prepared() == (2, False)
    assert prepared() == (2, True)
    Image.new("RGB", (40, 30)).save(tmp_path / folder / "0.png")
    assert prepared() == (3, False)


def voc(folder, name="a"):
    """A folder in VOC layout with one train image; returns its annotation."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / f"JPEGImages/{name}.png")
    (folder / "ImageSets/Main/trainval.txt").write_text(name)
    path = folder / f"Annotations/{name}.xml"
    path.write_text("<annotation><size><width>40</width><height>30</height></size></annotation>")
    return path


def test_an_edit_behind_a_linked_folder_is_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    annotations = voc(tmp_path / "voc").parent
    annotations.rename(tmp_path / "elsewhere")
    annotations.symlink_to(tmp_path / "elsewhere")
    params = SimpleNamespace(data=Data(name="mine", source="voc", val_fraction=0.0))

    def taken_over():
        prepare.run(params)
        return "taken over" in capsys.readouterr().err

    assert [taken_over(), taken_over()] == [False, True]
    edited = tmp_path / "elsewhere/a.xml"
    edited.write_text(edited.read_text() + "\n")
    assert not taken_over()


def test_what_is_downloaded_is_taken_over_the_second_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "download_voc", lambda source, sets: source.exists() or voc(source))
    params = SimpleNamespace(data=Data(name="mine", source="voc", download=True, val_fraction=0.0))
    for taken_over in (False, True):
        assert prepare.run(params)["splits"] == {"train": 1}
        assert ("taken over" in capsys.readouterr().err) is taken_over


def test_strict_is_as_strict_about_what_was_prepared_before(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good = voc(tmp_path / "voc")
    bad = good.with_name("b.xml")
    bad.write_text("<annotation>")
    (tmp_path / "voc/ImageSets/Main/trainval.txt").write_text("a\nb")
    params = SimpleNamespace(data=Data(name="mine", source="voc", val_fraction=0.0))
    assert prepare.run(params)["set_aside"] == 1
    with pytest.raises(UserError, match=r"b\.xml: "):
        prepare.run(params, strict=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "voc/JPEGImages/b.png")
    bad.write_text(good.read_text())
    prepare.run(params, strict=True)
    capsys.readouterr()
    assert prepare.run(params)["set_aside"] == 0  # as `dvc repro` runs it
    assert "taken over" in capsys.readouterr().err
