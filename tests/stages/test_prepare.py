import json
from types import SimpleNamespace

import pytest
from PIL import Image

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
