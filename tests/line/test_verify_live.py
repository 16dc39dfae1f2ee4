import json
import os
import shutil

from click.testing import CliRunner

from pipeline.cli import main
from pipeline.models import build_detector, save_detector


def verify(folder, *arguments):
    before = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, ["store", "verify", *arguments])
    finally:
        os.chdir(before)


def test_a_store_is_compared_with_its_teacher(finished):
    answer = verify(finished, "targets/resnet18.zarr", "--live", "12", "--json")
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    found = json.loads(answer.stdout)["live"]
    assert found["views"] == 12
    # A teacher of two epochs says a little of everything everywhere, which the encodings cut.
    assert 0 < found["loss_difference"] < 0.05
    assert 0.99 < found["gradient_cosine"] < 1
    assert found["student"].startswith("models/students/mobilenet_v2/")
    assert found["ok"] == (answer.exit_code == 0)
    others = verify(finished, "targets/resnet18.zarr", "--live", "12", "--seed", "1", "--json")
    assert json.loads(others.stdout)["live"]["loss_difference"] != found["loss_difference"]
    for line in ("loss difference", "gradient cosine", "AP difference"):
        assert line in verify(finished, "targets/resnet18.zarr", "--live", "12").stdout


def test_params_may_be_overridden_as_for_the_dump(finished):
    answer = verify(finished, "targets/resnet18.zarr", "--live", "4", "--set", "views.color=0.3")
    assert answer.exit_code == 1
    assert "views.color is 0.2, expected 0.3" in answer.stderr


def test_only_a_teacher_can_be_asked_live(finished):
    answer = verify(finished, "targets/ensemble-both.zarr", "--live", "4")
    assert answer.exit_code == 1
    assert "only a teacher's can be compared" in answer.stderr


def test_a_teacher_that_was_trained_again_is_refused(line):
    weights = line / "models/teachers/resnet18/weights.safetensors"
    weights.unlink()
    weights.write_bytes((line / "models/teachers/hourglass_small/weights.safetensors").read_bytes())
    answer = verify(line, "targets/resnet18.zarr", "--live", "4")
    assert answer.exit_code == 1
    assert "was trained again" in answer.stderr


def test_students_of_another_stride_or_of_other_classes_are_compared_too(line):
    coarse = ["--set", "students.mobilenet_v2.arch={deconv: [16, 16], head_channels: 16}"]
    shutil.rmtree(line / "models/students")
    answer = verify(line, "targets/resnet18.zarr", "--live", "4", "--json", *coarse)
    found = json.loads(answer.stdout)["live"]
    assert found["student"] == "mobilenet_v2, not trained yet"
    assert 0 < found["loss_difference"] < 0.05
    other = build_detector("mobilenet_v2", 2, deconv=[16, 16, 16], head_channels=16)
    folder = line / "models/students/mobilenet_v2/plain/seed0"
    folder.mkdir(parents=True)
    save_detector(other, folder / "weights.safetensors", ["zebra", "yak"])
    answer = verify(line, "targets/resnet18.zarr", "--live", "4", "--json")
    assert json.loads(answer.stdout)["live"]["student"] == "mobilenet_v2, not trained yet"
