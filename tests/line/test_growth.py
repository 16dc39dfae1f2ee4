"""A finished folder grows: more views, more images, another teacher; and what is no growth is refused."""

import json
import shutil
import struct

import numpy as np
import pytest
from click.testing import CliRunner
from crc32c import crc32c
from PIL import Image

from pipeline.cli import main
from storage import open_store, verify

BOTH = "resnet18+hourglass_small"
DISTILL = ["distill", "--student", "mobilenet_v2", "--recipe", BOTH]
TEACHERS = ("resnet18", "hourglass_small")


@pytest.fixture
def command(line, monkeypatch):
    """Runs a command in the folder; returns what it said on stderr."""
    monkeypatch.chdir(line)

    def run(*arguments, fails=False):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == fails, result.output
        return result.stderr

    return run


def contents(path):
    store = open_store(path)
    return {array.name: store.read(array.name, range(len(store))) for array in store.spec.arrays}


def stores(line):
    return {name: contents(line / "targets" / f"{name}.zarr") for name in TEACHERS}


def assert_grown(line, before, views):
    """Each teacher's store begins with what it had before."""
    for name, arrays in stores(line).items():
        assert verify(line / "targets" / f"{name}.zarr").ok
        for array, codes in arrays.items():
            assert len(codes) == views
            np.testing.assert_array_equal(codes[:48], before[name][array])


def test_more_views_per_image(line, command):
    before, more = stores(line), ["--set", "views.per_image=3"]
    cost = open_store(line / "targets/resnet18.zarr").manifest["created"]["shard_seconds"]
    assert "record_views: 48 views are taken over from" in command("record-views", *more)
    assert open_store(line / "targets/views.zarr").spec.views == 72
    plan = json.loads(CliRunner().invoke(main, ["dump-teachers", "resnet18", "--dry-run", "--json", *more]).stdout)
    assert (plan["resnet18"]["views"], plan["resnet18"]["taken_over"]) == (24, 48)
    said = command("dump-teachers", *more)
    for name in TEACHERS:
        assert f"dump_teachers/{name}: 48 views are taken over from" in said
    assert "another state" not in said
    assert_grown(line, before, 72)
    assert open_store(line / "targets/resnet18.zarr").manifest["created"]["inherited_seconds"] == cost > 0
    assert "Run 'pipeline build-ensemble both' again" in command(*DISTILL, *more, fails=True)
    command("build-ensemble", *more)
    command(*DISTILL, *more, "--restart")


def test_more_images_after_dvc_deleted_the_outs(line, command):
    before, more = stores(line), ["--set", "data.demo.train=30"]
    command("prepare", *more)
    shutil.rmtree(line / "targets")
    assert f"48 views are taken over from {line}/.work/record_views/" in command("record-views", *more)
    said = command("dump-teachers", *more)
    for name in TEACHERS:
        assert f"dump_teachers/{name}: 48 views are taken over from {line}/.work/dump_teachers/{name}/" in said
        assert f"models/teachers/{name} was trained on another state of the data" in said
    assert_grown(line, before, 60)
    command("build-ensemble", *more)
    assert open_store(line / "targets/ensemble-both.zarr").spec.views == 60
    assert command("evaluate", *more).count("was trained on another state of the data") >= 4  # teachers and students


def test_images_without_labels_are_dumped_beside_what_is_there(line, command):
    (line / "loose").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (50, 70, 3), np.uint8)
        Image.fromarray(pixels).save(line / f"loose/{number}.png")
    before, more = stores(line), ["--set", "data.unlabelled=loose"]
    taught = ["--set", f"recipes.{BOTH}.unlabelled=true"]
    assert "has no images without labels: name a folder of them as data.unlabelled" in command(
        *DISTILL, *taught, fails=True)
    command("prepare", *more)
    assert "Run 'pipeline record-views' again" in command(*DISTILL, *more, *taught, fails=True)
    assert "record_views: 48 views are taken over from" in command("record-views", *more)
    said = command("dump-teachers", *more)
    for name in TEACHERS:
        assert f"dump_teachers/{name}: 48 views are taken over from" in said
    assert_grown(line, before, 54)
    command("build-ensemble", *more)
    command(*DISTILL, *more, *taught, "--restart")


def test_another_teacher_is_one_more_store_and_one_more_ensemble(line, command):
    before = {path: path.stat().st_mtime_ns for path in (line / "targets").rglob("*")}
    more = ["--set", "teachers.third={model: resnet18, arch: {deconv: [16, 16, 16], head_channels: 8}}",
            "--set", "ensembles.three={teachers: [resnet18, hourglass_small, third]}",
            "--set", "recipes.three={teachers: [resnet18, hourglass_small, third], ensemble: three}"]
    command("train-teacher", "third", *more)
    command("dump-teachers", "third", *more)
    command("build-ensemble", "three", *more)
    after = {path: path.stat().st_mtime_ns for path in before if path != line / "targets"}
    assert after.items() <= before.items()
    command("distill", "--student", "mobilenet_v2", "--recipe", "three", *more)


def test_a_restart_takes_nothing_over(line, command):
    more = ["--set", "views.per_image=3"]
    command("record-views", *more)
    command("dump-teachers", "resnet18", *more)
    grown = contents(line / "targets/resnet18.zarr")
    for what in (["record-views"], ["dump-teachers", "resnet18"], ["dump-teachers", "resnet18"]):
        said = command(*what, *more, "--restart")
        assert "beginning anew in .work/" in said
        assert "taken over" not in said
    assert open_store(line / "targets/views.zarr").spec.identity["grown_from"] == {}
    assert len(list((line / ".work/dump_teachers/resnet18").glob("*/done"))) == 3
    assert contents(line / "targets/resnet18.zarr")["peaks"].shape == grown["peaks"].shape


def test_a_restart_that_was_stopped_takes_nothing_over_when_it_goes_on(line, command, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    command("clean")
    monkeypatch.setattr("pipeline.inference.dump.outputs", stopped)
    assert "interrupted" in command("dump-teachers", "resnet18", "--restart", fails=True)
    monkeypatch.undo()
    monkeypatch.chdir(line)
    assert "taken over" not in command("dump-teachers", "resnet18")


def test_a_restart_of_a_training_that_was_stopped_goes_on(line, command, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    weights = line / "models/teachers/resnet18/weights.safetensors"
    before = weights.stat().st_mtime_ns
    monkeypatch.setattr("pipeline.engine.fit", stopped)
    assert "interrupted" in command("train-teacher", "resnet18", "--restart", fails=True)
    monkeypatch.undo()
    monkeypatch.chdir(line)
    command("train-teacher", "resnet18")
    assert weights.stat().st_mtime_ns > before
    assert "nothing to do" in command("train-teacher", "resnet18")


def test_sound_chunks_in_the_wrong_places_are_not_taken_over(line, command):
    store, before = line / "targets/resnet18.zarr", contents(line / "targets/resnet18.zarr")
    command("clean")
    swap_first_chunks(store / "peaks/c.1.0.0", open_store(store).spec.shard_views)
    assert not verify(store).ok
    with pytest.warns(UserWarning, match="the shard of view 20 is damaged"):
        command("dump-teachers", "resnet18")
    for name, codes in contents(store).items():
        np.testing.assert_array_equal(codes, before[name])


def swap_first_chunks(shard, views):
    """Lets the index of a shard say of its views 0 and 1 that each is the other."""
    data = bytearray(shard.read_bytes())
    start = len(data) - 16 * views - 4
    index = bytes(data[start + 16:start + 32]) + bytes(data[start:start + 16]) + bytes(data[start + 32:-4])
    data[start:] = index + struct.pack("<I", crc32c(index))
    shard.write_bytes(data)


def test_a_teacher_is_not_asked_again_when_the_work_folders_are_gone(line, command, monkeypatch):
    before, shard = contents(line / "targets/resnet18.zarr"), line / "targets/resnet18.zarr/peaks/c.1.0.0"
    command("clean")
    monkeypatch.setattr("pipeline.inference.dump.outputs", None)
    assert "48 views are taken over from" in command("dump-teachers", "resnet18")
    monkeypatch.undo()
    monkeypatch.chdir(line)
    command("clean")
    damaged = bytearray(shard.read_bytes())
    damaged[40] ^= 1
    shard.write_bytes(damaged)
    with pytest.warns(UserWarning, match="the shard of view 20 is damaged"):
        command("dump-teachers", "resnet18")
    assert verify(line / "targets/resnet18.zarr").ok
    for name, codes in contents(line / "targets/resnet18.zarr").items():
        np.testing.assert_array_equal(codes, before[name])


def test_a_smaller_batch_is_no_other_dump(command):
    """It is what one that ran out of memory asks for."""
    assert "taken over from .work/dump_teachers/resnet18/" in command("dump-teachers", "resnet18", "--set",
                                                                      "dump.batch=4")


def test_what_was_made_of_a_dump_is_stale_where_other_code_made_it_again(command, monkeypatch):
    """By the same params, weights and views, which alone name a store's fingerprint."""
    from pipeline.inference import dump

    def other(*given):
        said = outputs(*given)
        return {**said, "heatmap": said["heatmap"] / 2}

    outputs = dump.outputs
    assert "nothing to do" in command(*DISTILL)
    command("dump-teachers", "resnet18", "--restart")
    assert "nothing to do" in command(*DISTILL)  # the same again
    monkeypatch.setattr(dump, "outputs", other)
    command("dump-teachers", "resnet18", "--restart")
    assert "members.resnet18 is" in command(*DISTILL, fails=True)
    assert "taken over" not in command("build-ensemble")
    assert "stores.resnet18 is" in command(*DISTILL, fails=True)


@pytest.mark.parametrize(("what", "change", "out", "words"), [
    (["dump-teachers", "resnet18"], "dump.peaks=10", "resnet18", "peaks is 20, expected 10"),
    (["build-ensemble"], "ensembles.both.iou=0.6", "ensemble-both", "iou is 0.5, expected 0.6"),
    (["record-views"], "views.color=0.3", "views", "views.color is 0.2, expected 0.3"),
])
def test_the_only_copy_of_a_store_is_replaced_only_when_asked(line, command, what, change, out, words):
    manifest = line / "targets" / f"{out}.zarr/manifest.json"
    before = manifest.read_bytes()
    command("clean")
    said = command(*what, "--set", change, fails=True)
    assert words in said
    assert said.endswith("There is no other copy of it: move it away, or add --restart to replace it.\n")
    assert manifest.read_bytes() == before
    command(*what, "--set", change, "--restart")
    assert manifest.read_bytes() != before
    command(*what, "--set", change)  # what is there was asked for
    replaced = manifest.read_bytes()
    manifest.write_bytes(b"")
    shutil.rmtree(line / ".work")
    assert "There is no other copy" in command(*what, "--set", change, fails=True)
    assert (manifest.read_bytes(), len(replaced) > 0) == (b"", True)


def test_a_teacher_that_was_trained_again_is_refused(line, command):
    again = ["train-teacher", "resnet18", "--set", "train.seed=5"]
    assert "Add --restart to replace it." in command(*again, fails=True)
    command(*again, "--restart")
    for what in (["build-ensemble"], DISTILL):
        said = command(*what, fails=True)
        assert "weights is" in said
        assert "Run 'pipeline dump-teachers resnet18' again." in said
    shutil.rmtree(line / "models/teachers/resnet18")  # a store is enough to learn from
    command("build-ensemble")


@pytest.mark.parametrize(("change", "field"), [
    ("dump.encodings.heatmap=exact-fp16", "encodings.heatmap is"), ("dump.peaks=10", "peaks is 20, expected 10")])
def test_a_dump_that_params_no_longer_describe_is_refused(command, change, field):
    for what in (["build-ensemble"], DISTILL):
        said = command(*what, "--set", change, fails=True)
        assert field in said
        assert "Run 'pipeline dump-teachers" in said
