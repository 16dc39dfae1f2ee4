import json
import os
import re

import matplotlib.image
import pytest
from click.testing import CliRunner

from pipeline.cli import main

TEACHERS = ["Hourglass (small)", "ResNet-18"]


def show(folder, *arguments):
    before = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, ["store", "show", *map(str, arguments)])
    finally:
        os.chdir(before)


@pytest.mark.parametrize(("store", "panels"), [
    ("ensemble-both", [*TEACHERS, "Ensemble"]), ("resnet18", ["ResNet-18"]), ("views", []),
])
def test_a_picture_shows_what_the_store_was_made_of(finished, tmp_path, store, panels):
    out = tmp_path / "x.png"
    answer = show(finished, f"targets/{store}.zarr", "7", "-o", out, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert (found["picture"], found["view"], answer.stderr) == (str(out), 7, "")
    assert list(found["seen"]) == ["Ground truth", *panels]
    height, width = matplotlib.image.imread(out).shape[:2]
    assert width > height * (1 + len(panels)) * 0.9
    named = show(finished, f"targets/{store}.zarr", f"{found['image']}:{found['number']}", "-o", out, "--json")
    assert json.loads(named.stdout) == found


def test_a_store_elsewhere_is_shown_too(finished, tmp_path):
    answer = show(finished, (finished / "targets/resnet18.zarr").as_uri(), "7", "-o", tmp_path / "x.png", "--json")
    assert answer.exit_code == 0, answer.output
    here = show(finished, "targets/resnet18.zarr", "7", "-o", tmp_path / "x.png", "--json")
    assert answer.stdout == here.stdout


def test_people_read_what_is_seen(finished, tmp_path):
    answer = show(finished, "targets/resnet18.zarr", "0", "-o", tmp_path / "x.png", "--set", "report.score=0.001")
    assert answer.exit_code == 0, answer.output
    assert str(tmp_path / "x.png") in answer.stdout
    [line] = [line for line in answer.stdout.splitlines() if "ResNet-18" in line]
    assert re.fullmatch(r" *ResNet-18:( \w+ 0\.\d\d,?)+", line)


def test_an_ensemble_is_shown_without_a_member_that_is_gone_or_another(line, tmp_path):
    (line / "targets/resnet18.zarr").rename(line / "targets/gone")
    (line / "targets/hourglass_small.zarr").rename(line / "targets/resnet18.zarr")
    answer = show(line, "targets/ensemble-both.zarr", "7", "-o", tmp_path / "x.png", "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert list(found["seen"]) == ["Ground truth", "Ensemble"]
    gone, other = answer.stderr.splitlines()
    assert gone.startswith("Hourglass (small) is not shown: ")
    assert "there is no store" in gone
    assert "ResNet-18 is not shown" in other
    assert "another dump" in other


@pytest.mark.parametrize(("arguments", "words"), [
    (["targets/none.zarr", "0"], "there is no store"),
    (["targets/resnet18.zarr", "999"], "0 to 47"),
    (["targets/resnet18.zarr", "cat"], "IMAGE_ID:NUMBER"),
    (["targets/resnet18.zarr", "0", "-o", "x.what"], "Available: "),
    (["targets/resnet18.zarr", "0", "-o", "no/folder/x.png"], "no/folder"),
    (["targets/resnet18.zarr", "0", "--set", "views.seed=5"], "record-views"),
])
def test_what_cannot_be_shown_is_one_line(finished, arguments, words, tmp_path):
    out = [] if "-o" in arguments else ["-o", tmp_path / "x.png"]
    answer = show(finished, *arguments, *out)
    assert (answer.exit_code, answer.output.count("\n")) == (1, 1), answer.output
    assert words in answer.output
