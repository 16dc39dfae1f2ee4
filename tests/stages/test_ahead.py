import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import stages
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.params import load_params, profiles
from stages import ahead

BASE = """
data: {name: mine, source: coco}
views: {size: [64, 64]}
teachers: {a: {model: hourglass_small}, b: {model: resnet50}}
students: {s: {model: resnet18}}
recipes: {plain: {}}
distill: {students: [s], recipes: [plain]}
"""


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.yaml").write_text(BASE)
    return lambda *overrides: load_params(tmp_path / "params.yaml", overrides)


@pytest.mark.parametrize("name", ["demo", "study", "voc"])
def test_profiles_pass(name):
    ahead.check(load_params(profiles.__path__[0] + f"/{name}.yaml"))


@pytest.mark.parametrize(("override", "words"), [
    ("students.s.model=resnt18", r"students\.s: Model 'resnt18' .*resnet18"),
    ("students.s.size=[40, 40]", r"students\.s: Input size \[40, 40\] does not fit resnet18: .*\[32, 32\]"),
    ("students.s.arch.deconf=[8]", r"students\.s: .*deconf"),
    ("teachers.b.model=resnet5", r"teachers\.b: Model 'resnet5'"),
    ("views.size=[48, 48]", r"teachers\.a: Input size \[48, 48\] does not fit hourglass_small"),
    ("dump.tta.scales=[1, 1.1]", r"teachers\.a: dump\.tta\.scales: 1\.1 "),
])
def test_what_would_stop_a_later_stage_is_named_before_a_teacher_is_trained(params, override, words):
    ahead.check(params())
    with pytest.raises(UserError, match=words):
        ahead.check(params(override))


def test_both_commands_look_ahead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(BASE.replace("resnet18", "resnt18"))
    said = "Error: students.s: Model 'resnt18' is unknown"
    assert said in CliRunner().invoke(main, ["train-teacher", "a"]).stderr
    root = str(Path(stages.__file__).parents[1])
    found = subprocess.run([sys.executable, "-m", "stages.train_teacher", "a"], check=False, capture_output=True,
                           text=True, env={**os.environ, "PYTHONPATH": root})
    assert (found.returncode, found.stderr.startswith(said)) == (1, True), found.stderr
