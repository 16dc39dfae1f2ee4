"""The line with two teachers of which each knows some classes, as commands."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.models import build_detector, load_detector, read_config, save_detector
from pipeline.models.official import our_key
from storage import open_store

CLASSES = {"resnet18": ["train", "bird", "car"], "hourglass_small": ["boat", "cat", "person"]}


@pytest.fixture(scope="module")
def specialists(tmp_path_factory, tiny, pipeline):
    folder = tmp_path_factory.mktemp("specialists")
    text = tiny.replace("{model: resnet18,", f"{{model: resnet18, classes: {CLASSES['resnet18']},")
    text = text.replace("{model: hourglass_small,", f"{{model: hourglass_small, classes: {CLASSES['hourglass_small']},")
    text = text.replace("teachers: [resnet18, hourglass_small]}\nstudents",
                        "teachers: [resnet18, hourglass_small], heatmap: class-ap}\nstudents")
    (folder / "params.yaml").write_text(text)
    for step in (["prepare"], ["record-views"], ["train-teacher", "resnet18"], ["train-teacher", "hourglass_small"],
                 ["dump-teachers"], ["build-ensemble"],
                 ["distill", "--student", "mobilenet_v2", "--recipe", "resnet18"],
                 ["distill", "--student", "mobilenet_v2", "--recipe", "resnet18+hourglass_small"],
                 ["evaluate"], ["report"]):
        pipeline(*step, folder=folder)
    return folder


@pytest.fixture
def command(specialists, monkeypatch):
    monkeypatch.chdir(specialists)
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


def heatmaps(folder, name):
    store = open_store(folder / f"targets/{name}.zarr")
    return store.decode("heatmap", store.read("heatmap", range(len(store))))


@pytest.mark.parametrize("name", list(CLASSES))
def test_a_teacher_has_planes_for_its_classes_and_its_store_for_all(specialists, name):
    config = read_config(specialists / f"models/teachers/{name}/weights.safetensors")
    assert (config["num_classes"], config["classes"]) == (3, CLASSES[name])
    spec = open_store(specialists / f"targets/{name}.zarr").spec
    assert spec.attributes["known"] == CLASSES[name]
    mine = [one in CLASSES[name] for one in spec.identity["classes"]]
    highest = heatmaps(specialists, name).max((0, 2, 3))
    assert ((highest > 0.01) == mine).all()
    scored = json.loads((specialists / f"results/teachers/{name}/metrics.json").read_text())
    assert set(scored["val"]["per_class"]) == set(spec.identity["classes"])


def test_merged_each_class_is_what_its_teacher_says(specialists):
    store = open_store(specialists / "targets/ensemble-both.zarr")
    assert "known" not in store.spec.attributes
    merged = heatmaps(specialists, "ensemble-both")
    for name, classes in CLASSES.items():
        planes = [store.spec.identity["classes"].index(one) for one in classes]
        np.testing.assert_allclose(merged[:, planes], heatmaps(specialists, name)[:, planes], atol=0.01)


def test_its_answers_are_those_of_the_store(command):
    found = command("store", "verify", "targets/resnet18.zarr", "--live", 48, "--json")
    live = json.loads(found.stdout)["live"]  # two epochs leave probabilities that codes are coarse for
    assert live["loss_difference"] < 0.01
    assert live["gradient_cosine"] > 0.99


def test_store_info_says_what_is_known(command):
    assert "classes that teachers know: train, bird, car\n" in command("store", "info", "targets/resnet18.zarr").stdout
    assert "know:" not in command("store", "info", "targets/ensemble-both.zarr").stdout


def test_other_classes_than_it_was_trained_on_are_refused(command):
    by_mean = ["--set", "ensembles.both.heatmap=mean"]
    for step in (["train-teacher", "resnet18", *by_mean], ["build-ensemble", "--restart", *by_mean]):
        assert "'mean' asks each teacher of each class, but " in command(*step).stderr
    for name, changes, words in (("dump-teachers", "[bird]", "was trained on the classes train, bird, car, but"),
                                 ("dump-teachers", "null", "say what its planes are (`classes`)"),
                                 ("train-teacher", "[bird, wolf]", "resnet18.classes: data/demo: class 'wolf'")):
        answer = command(name, "resnet18", "--set", f"teachers.resnet18.classes={changes}",
                         "--set", "ensembles.both.heatmap=max")
        assert (answer.exit_code, answer.stdout) == (1, "")
        assert words in answer.stderr
        assert len(answer.stderr.splitlines()) == 1


def official_checkpoint(model, path, _classes):
    """The same numbers under the names of the published ResNet-18, which say nothing of classes."""
    keys = json.loads(gzip.decompress((Path(__file__).parents[1] / "models/data/official_keys.json.gz").read_bytes()))
    ours = model.state_dict()
    torch.save({"epoch": 140, "state_dict": {f"module.{key}": ours[our_key(key)] for key, _ in keys["resnet18"]}}, path)


@pytest.mark.parametrize(("file", "save"), [("mine.safetensors", save_detector), ("ctdet.pth", official_checkpoint)])
def test_a_finished_detector_of_more_classes_than_the_data_has(file, save, specialists, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(specialists, folder, symlinks=True)
    classes = ["wolf", "car", "fox", "bird"]
    model = build_detector("resnet18", len(classes), deconv=[16, 16, 16], head_channels=16)
    save(model, folder / file, classes)
    taken = ["--set", f"teachers.resnet18.weights={file}", "--set", "teachers.resnet18.train={epochs: 0}",
             "--set", f"teachers.resnet18.classes={classes}"]
    monkeypatch.chdir(folder)
    for step in ("train-teacher", "dump-teachers"):
        answer = CliRunner().invoke(main, [step, "resnet18", "--restart", *taken])
        assert answer.exit_code == 0, answer.output
        said = answer.stderr
        assert ("it does not know boat, cat, person, train" in said) == (step == "train-teacher")
        told = ("its heatmap's planes as wolf, car, fox, bird (teachers.resnet18.classes); the data has no wolf, fox, "
                "left out")
        assert (told in said) == (step == "train-teacher")
    assert open_store(folder / "targets/resnet18.zarr").spec.attributes["known"] == ["car", "bird"]
    assert ((heatmaps(folder, "resnet18").max((0, 2, 3)) > 0.01) == [True, False, True, False, False, False]).all()
    config = read_config(folder / "models/teachers/resnet18/weights.safetensors")
    assert config["color_order"] == ("bgr" if save is official_checkpoint else "rgb")


def test_a_checkpoint_that_was_fed_otherwise_is_fed_so_here(specialists, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(specialists, folder, symlinks=True)
    official_checkpoint(build_detector("resnet18", 3, deconv=[16, 16, 16], head_channels=16), folder / "voc.pth", ())
    monkeypatch.chdir(folder)
    taken = ["train-teacher", "resnet18", "--restart", "--set", "teachers.resnet18.weights=voc.pth",
             "--set", "teachers.resnet18.train={epochs: 0}"]
    fed = "{color_order: bgr, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}"
    weights, found = folder / "models/teachers/resnet18/weights.safetensors", []
    for more in ([], ["--set", f"teachers.resnet18.input={fed}"]):
        answer = CliRunner().invoke(main, [*taken, *more])
        assert answer.exit_code == 0, answer.output
        found.append(load_detector(weights))
    assert [model.config.mean for model in found] == [(0.408, 0.447, 0.470), (0.485, 0.456, 0.406)]
    assert found[1].config.std == (0.229, 0.224, 0.225)
    assert all(map(torch.equal, *(model.parameters() for model in found)))
