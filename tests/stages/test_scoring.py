import json

import pytest
from PIL import Image

from pipeline import inference
from pipeline.errors import UserError
from pipeline.models import build_detector, save_detector
from pipeline.params import load_params
from stages import evaluate_student, evaluate_teacher, prepare

PARAMS = """
data: {name: mine, source: coco, val_fraction: 0, sets: {train: train.json, test: test.json}}
views: {size: [32, 32]}
teachers: {a: {model: hourglass_small}}
students: {s: {model: resnet18}}
recipes: {plain: {}}
distill: {students: [s], recipes: [plain]}
evaluate: {latency_runs: 0}
"""
ARCH = {"dims": [8, 8], "modules": [1, 1], "stacks": 1, "stem_channels": 8, "head_channels": 8}


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Of a folder with prepared data, 8 images of train and of test; of val 3, if it is asked for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    for split in ("train", "val", "test"):
        images = [{"id": number, "file_name": f"{split}{number}.png", "width": 32, "height": 32}
                  for number in range(3 if split == "val" else 8)]
        for image in images:
            color = (image["id"], len(split), split == "test")  # no two are the same
            Image.new("RGB", (32, 32), color).save(tmp_path / "coco" / image["file_name"])
        boxes = [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]}]
        tree = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
        (tmp_path / f"coco/{split}.json").write_text(json.dumps(tree))
    (tmp_path / "params.yaml").write_text(PARAMS)

    def load(*overrides):
        found = load_params("params.yaml", overrides)
        prepare.run(found)
        return found

    return load


def test_of_train_as_many_images_as_val_has_are_scored_and_none_without(params, tmp_path, monkeypatch):
    folder, seen, detect = tmp_path / "models/teachers/a", [], inference.detect
    folder.mkdir(parents=True)
    save_detector(build_detector("hourglass_small", 1, **ARCH), folder / "weights.safetensors", ["dog"])
    (folder / "summary.json").write_text(json.dumps({"passes": 1, "seconds": 1}))

    def noticed(model, records, **how):
        seen.append([record.id for record in records])
        return detect(model, records, **how)

    monkeypatch.setattr(inference, "detect", noticed)
    metrics = evaluate_teacher.run(params(), "a")
    assert (metrics["val"], metrics["train"], len(seen)) == (None, None, 1)
    metrics = evaluate_teacher.run(params("data.sets.val=val.json"), "a")
    assert seen[-1] == ["train0", "train2", "train5"]
    assert metrics["val"]
    assert metrics["train"]


def test_scores_name_the_training_that_is_there_now(params, tmp_path):
    folder = tmp_path / "models/teachers/a"
    folder.mkdir(parents=True)
    save_detector(build_detector("hourglass_small", 1, **ARCH), folder / "weights.safetensors", ["dog"])
    for passes in (1, 2):  # the same weights, of another origin
        about = {"passes": passes, "seconds": 1, "origin": {"code": str(passes)}}
        (folder / "summary.json").write_text(json.dumps(about))
        metrics = evaluate_teacher.run(params(), "a")
        assert (metrics["passes"], metrics["origin"]) == (passes, {"code": str(passes)})
    for damaged, words in (("{}", "no 'passes'"), ("[]", "no 'passes'"), ('{"passes": 1}', "no 'seconds'"),
                           ('{"passes": 1, "seconds": 1, "origin": [1]}', "no names under 'origin'")):
        (folder / "summary.json").write_text(damaged)
        with pytest.raises(UserError, match=rf"summary\.json has {words}\. Train this model again"):
            evaluate_teacher.run(params(), "a")


@pytest.mark.parametrize(("score", "command"), [
    (lambda params: evaluate_teacher.run(params, "a"), "pipeline train-teacher a"),
    (lambda params: evaluate_student.run(params, "s", "plain", 1),
     "pipeline distill --student s --recipe plain --seed 1"),
])
def test_what_is_not_trained_names_the_command_that_trains_it(params, score, command):
    with pytest.raises(UserError, match=f"Make it with '{command}'"):
        score(params())
