"""What a person does to a finished folder, and the one line that each command answers with."""

import shutil

import pytest
import torch
import torchvision
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.params import load_params
from stages import prepare

BOTH = "resnet18+hourglass_small"
DISTILL = ["distill", "--student", "mobilenet_v2", "--recipe", BOTH, "--seed", "7"]


@pytest.fixture
def refused(line, monkeypatch):
    """Runs a command that must fail with one line of error and leave no out behind; returns the line."""
    monkeypatch.chdir(line)

    def run(*arguments):
        before = {path for top in ("data", "models", "targets") for path in (line / top).rglob("*")}
        result = CliRunner().invoke(main, arguments)
        assert isinstance(result.exception, SystemExit), result.exception
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        *progress, error = result.stderr.splitlines()
        assert error.startswith("Error: ")
        assert not [said for said in progress if said.startswith("Error")]
        assert {path for top in ("data", "models", "targets") for path in (line / top).rglob("*")} == before
        return error

    return run


@pytest.mark.parametrize("change", ["views.size=[96, 96]", "views.per_image=3", "views.flip=0.25"])
def test_views_that_params_no_longer_describe_are_refused(refused, change):
    for command in (DISTILL, ["dump-teachers"]):
        error = refused(*command, "--set", change)
        assert change.split("=")[0].removeprefix("views.") in error
        assert error.endswith("Run 'pipeline record-views' again.")


def test_damaged_stores_stop_a_student(refused, line):
    shard = min((line / "targets/resnet18.zarr/features").glob("c.*"))
    whole = shard.read_bytes()
    for content, word in ((whole[:-5], "bytes, expected"), (b"", "0 bytes"), (None, "missing")):
        shard.unlink() if content is None else shard.write_bytes(content)
        assert word in refused(*DISTILL)


@pytest.mark.parametrize(("store", "command", "users"), [
    ("resnet18", "pipeline dump-teachers resnet18", (DISTILL, ["build-ensemble"])),
    ("ensemble-both", "pipeline build-ensemble both", (DISTILL,)),
    ("views", "pipeline record-views", (DISTILL, ["dump-teachers"])),
])
def test_a_store_that_is_none_says_what_makes_it_and_that_does(refused, line, pipeline, store, command, users):
    manifest = line / f"targets/{store}.zarr/manifest.json"
    whole = manifest.read_text()
    for content, word in (
            (None, "no finished store"), ("", "is not readable"), (whole[:-9], "is not readable"),
            (whole.replace('"version": 3', '"version": 1'), "format version is 1, this program reads 3"),
            (whole.replace('"fingerprint": "', '"fingerprint": "0'), "damaged or edited")):
        manifest.unlink(missing_ok=True)
        if content is not None:
            manifest.write_text(content)
        for user in users:
            error = refused(*user)
            assert word in error
            assert error.endswith(f"Run '{command}' again.")
    pipeline(*command.split()[1:], folder=line)
    assert manifest.read_text() == whole


def test_weights_that_do_not_fit_are_refused(refused, line):
    other = "models/teachers/hourglass_small/weights.safetensors"
    assert "is a hourglass_small, expected a resnet18" in refused(
        "train-teacher", "resnet18", "--restart", "--set", f"teachers.resnet18.weights={other}")
    assert "nowhere.pth does not exist" in refused(
        "distill", "--student", "mobilenet_v2", "--recipe", "plain",
        "--set", "students.mobilenet_v2.weights=nowhere.pth")
    weights = line / "models/teachers/resnet18/weights.safetensors"
    start = weights.read_bytes()[:1000]
    weights.unlink()
    weights.write_bytes(start)
    assert "weights.safetensors" in refused("dump-teachers", "resnet18")
    assert "weights.safetensors" in refused("evaluate")


def test_a_damaged_summary_is_named(refused, line):
    (line / "models/teachers/resnet18/summary.json").write_text("{")
    assert "summary.json is not valid JSON" in refused("evaluate")


def test_a_teacher_that_params_no_longer_describe_is_not_dumped(refused):
    for change in ("model=resnet34", "arch.deconv=[16, 16, 24]"):
        for more in ([], ["--dry-run"]):
            error = refused("dump-teachers", "resnet18", *more, "--set", f"teachers.resnet18.{change}")
            assert "weights.safetensors is a resnet18 " in error
            assert error.endswith("Run 'pipeline train-teacher resnet18' again.")


@pytest.mark.parametrize("devices", ["0", "-1", "two", "1.5"])
def test_devices_that_are_no_number_are_refused(refused, devices):
    assert f"--devices {devices}" in refused(
        "train-teacher", "resnet18", "--restart", "--set", "train.seed=9", "--devices", devices)


def own_classes(line):
    """The demo's images as a person's own folder, without one of its classes, and with a broken image."""
    source = line / "own"
    shutil.copytree(line / "data/demo", source)
    for path in (source / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<name>train<", "<name>car<"))
    min((source / "JPEGImages").glob("train_*")).write_bytes(b"")
    return source


def test_data_of_other_classes_refuse_what_was_trained_before(refused, line, capsys):
    override = f"data.source={own_classes(line)}"
    manifest = prepare.run(load_params("params.yaml", [override]))
    assert manifest["set_aside"] == 1
    assert "images set aside: 1;" in capsys.readouterr().err
    for command in (["evaluate"], ["report"]):
        assert "was trained on the classes bird, boat, car, cat, person, train" in refused(*command, "--set", override)
    assert "record-views" in refused(*DISTILL, "--set", override)


def test_a_finished_teacher_of_other_classes_is_refused(refused, line):
    shutil.copy(line / "models/teachers/resnet18/weights.safetensors", line / "mine.safetensors")
    source = own_classes(line)
    for path in (source / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<name>bird<", "<name>zebra<"))
    override = f"data={{source: {source}, classes: [boat, car, cat, person, train, zebra]}}"
    prepare.run(load_params("params.yaml", [override]))
    assert "mine.safetensors was trained on the classes bird, boat" in refused(
        "train-teacher", "resnet18", "--restart", "--set", override, "--set",
        "teachers.resnet18.weights=mine.safetensors", "--set", "teachers.resnet18.train.epochs=0")


def test_a_body_without_heads_is_no_finished_teacher(refused, line):
    torch.save(torchvision.models.resnet18().state_dict(), line / "body.pth")
    taken = ["--set", "teachers.resnet18.weights=body.pth", "--set", "teachers.resnet18.train.epochs=0"]
    assert "body.pth holds a body without heads" in refused("train-teacher", "resnet18", "--restart", *taken)


def test_data_without_test_images_say_so_before_anything_is_trained(refused, line, capsys):
    source = line / "own"
    shutil.copytree(line / "data/demo", source)
    (source / "ImageSets/Main/test.txt").unlink()
    override = f"data.source={source}"
    prepare.run(load_params("params.yaml", [override]))
    assert "no test images" in capsys.readouterr().err
    assert "data/demo has no test images to score on" in refused("evaluate", "--set", override)


def test_views_that_look_otherwise_now_are_planned_and_shown_where_params_allow_it(refused, line):
    first, second = sorted((line / "data/demo/JPEGImages").glob("train_*"))[:2]
    first.write_bytes(second.read_bytes())
    shutil.rmtree(line / ".work/dump_teachers")
    shutil.rmtree(line / "targets/resnet18.zarr")
    picture = line / "x.png"
    show = ["store", "show", "targets/hourglass_small.zarr", f"{first.stem}:0", "-o", str(picture)]
    for command in (["dump-teachers", "resnet18", "--dry-run"], show):
        assert "views.on_mismatch: warn" in refused(*command)
        with pytest.warns(UserWarning, match="as views.on_mismatch says"):
            assert CliRunner().invoke(main, [*command, "--set", "views.on_mismatch=warn"]).exit_code == 0
    assert picture.exists()
