"""The line on half of the labels and a folder of images that nobody annotated."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.cli import main
from storage import open_store

STUDENTS = "models/students/mobilenet_v2"
DISTILL = ["distill", "--student", "mobilenet_v2"]


@pytest.fixture(scope="module")
def half(tmp_path_factory, tiny, pipeline):
    """Twelve labelled images, twelve whose labels are withheld, four of a folder; one teacher, two students."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "loose/deep").mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 70, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"loose/deep/{number}.png")
    text = tiny.replace("data: {", "data: {labels: 0.5, unlabelled: loose, ")
    text = text.replace("recipes:\n", "recipes:\n  taught: {teachers: [resnet18], unlabelled: true}\n")
    (folder / "params.yaml").write_text(text)
    for step in (["prepare"], ["record-views"], ["train-teacher", "resnet18"], ["dump-teachers", "resnet18"],
                 [*DISTILL, "--recipe", "plain", "--recipe", "taught", "--recipe", "resnet18"]):
        pipeline(*step, folder=folder)
    return folder


@pytest.fixture
def command(half, monkeypatch):
    monkeypatch.chdir(half)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


def test_prepare_counts_them(command):
    manifest = json.loads(command("prepare", "--json").stdout)
    assert manifest["splits"] == {"train": 12, "val": 8, "test": 10, "unseen": 6, "unlabelled": 16}
    assert (manifest["counts"]["labelled"], manifest["counts"]["unlabelled"]) == (36, 16)


def test_teachers_are_asked_about_all_and_learn_from_the_labelled(half):
    for name in ("views", "resnet18"):
        assert open_store(half / f"targets/{name}.zarr").spec.views == 56
    assert open_store(half / "targets/views.zarr").spec.identity["split"] == "train+unlabelled"
    assert json.loads((half / "models/teachers/resnet18/summary.json").read_text())["passes"] == 16  # 8 of 12, twice


def test_an_epoch_shows_each_image_of_the_student_once(half):
    passes = {recipe: json.loads((half / STUDENTS / recipe / "seed0/summary.json").read_text())["passes"]
              for recipe in ("plain", "resnet18", "taught")}
    assert passes == {"plain": 16, "resnet18": 16, "taught": 48}  # whole batches of 8
    rows = (half / STUDENTS / "taught/seed0/log.csv").read_text().splitlines()
    values = np.array([[float(value) for value in row.split(",")[3:11]] for row in rows[1:]])
    assert np.isfinite(values).all()


def test_a_student_of_the_labels_alone_says_what_it_leaves_out(command):
    answer = command("distill", "--student", "mobilenet_v2", "--recipe", "plain", "--recipe", "taught")
    assert answer.exit_code == 0, answer.output
    assert "Recipe 'plain' leaves out the 16 images without labels." in answer.stderr
    assert "'taught' leaves out" not in answer.stderr


def test_a_view_without_labels_is_shown_without_truth(command, tmp_path):
    answer = command("store", "show", "targets/resnet18.zarr", "deep_0:1", "-o", tmp_path / "x.png", "--json")
    assert answer.exit_code == 0, answer.output
    seen = json.loads(answer.stdout)["seen"]
    assert list(seen) == ["No ground truth", "ResNet-18"]
    assert seen["No ground truth"] == "the image has no labels"


def test_a_store_is_compared_with_its_teacher(command):
    answer = command("store", "verify", "targets/resnet18.zarr", "--live", 56, "--json")
    found = json.loads(answer.stdout)["live"]
    assert found["views"] == 56
    assert found["ap_exact"] is not None


@pytest.mark.parametrize(("changes", "words"), [
    (["recipes.plain.unlabelled=true"], ["recipes.plain", "unlabelled needs teachers"]),
    (["data.name=gone"], ["data/gone", "pipeline prepare"]),
])
def test_what_cannot_be_is_one_line(command, changes, words):
    recipe = "plain" if "plain" in changes[0] else "taught"
    overrides = [part for change in changes for part in ("--set", change)]
    answer = command(*DISTILL, "--recipe", recipe, *overrides)
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1), answer.output
    for word in words:
        assert word in answer.output
