import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

import stages
from pipeline.cli import main
from pipeline.data.prepare import prepare
from pipeline.errors import UserError
from pipeline.params import load_params, profiles
from stages import ahead

BASE = """
data: {name: mine, source: coco}
views: {size: [64, 64]}
teachers: {a: {model: hourglass_small}, b: {model: resnet50}, c: {model: resnet50, arch: {deconv: [256, 256]}}}
ensembles: {both: {teachers: [a, b]}}
students: {s: {model: resnet18}}
recipes: {plain: {}, apart: {teachers: [a, b], ensemble: separate}}
distill: {students: [s], recipes: [plain, apart]}
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
    ("students.s.size=[64, 32]", r"students\.s: The student's input is \[64, 32\], but the views are \[64, 64\]"),
    ("students.s.size=[160, 160]", r"students\.s: The student's input .*0\.5 to 2 times"),
    ("students.s.arch.deconf=[8]", r"students\.s: .*deconf"),
    ("teachers.b.model=resnet5", r"teachers\.b: Model 'resnet5'"),
    ("views.size=[48, 48]", r"teachers\.a: Input size \[48, 48\] does not fit hourglass_small"),
    ("dump.tta.scales=[1, 1.1]", r"teachers\.a: dump\.tta\.scales: 1\.1 "),
    ("teachers.b.weights=nope.pth", r"teachers\.b: weights file nope\.pth does not exist"),
    ("teachers.b.arch={deconv: [256, 256]}", r"ensembles\.both: a has stride 4, b has stride 8"),
    ("recipes.apart={teachers: [a, c], ensemble: separate}", r"recipes\.apart: a has stride 4, c has stride 8"),
    ("recipes.apart={teachers: [a], views: fresh}", r"'apart' has teachers and views: fresh"),
    ("students.s.arch={num_classes: 3}", r"students\.s: .*num_classes"),
    ("students.s.weights=/tmp", r"students\.s: weights file /tmp is a folder"),
])
def test_what_would_stop_a_later_stage_is_named_before_a_teacher_is_trained(params, override, words):
    ahead.check(params())
    with pytest.raises(UserError, match=words):
        ahead.check(params(override))


def test_weights_of_another_stage_may_not_be_there_yet(params):
    made = Path("models/teachers/b/weights.safetensors")
    for name in (made, made.absolute()):
        ahead.check(params(f"students.s.weights={name}"))


def test_weights_of_a_teacher_that_is_trained_may_be_gone(params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/teachers/b").mkdir(parents=True)
    (tmp_path / "models/teachers/b/weights.safetensors").touch()
    ahead.check(params("teachers.b.weights=nope.pth"))


def test_only_recipes_that_are_distilled_need_features(params):
    params = partial(params, "distill.recipes=[plain]")
    taught = "recipes.t={teachers: [a]}"
    ahead.check(params(taught, "dump.features=false"))
    ahead.check(params(taught, "distill.recipes=[t]"))
    with pytest.raises(UserError, match=r"recipes\.t: w4 is 1000, but with dump\.features: false"):
        ahead.check(params(taught, "distill.recipes=[t]", "dump.features=false"))
    attends = "recipes.t={teachers: [a], weights: [1000, 1, 0.1, 0], attend_outputs: true}"
    ahead.check(params(attends, "distill.recipes=[t]"))
    with pytest.raises(UserError, match=r"recipes\.t: attend_outputs .*spatial.*dump\.features: false"):
        ahead.check(params(attends, "distill.recipes=[t]", "dump.features=false"))
    ahead.check(params(attends, "distill.recipes=[t]", "recipes.t.attention=[heatmap]", "dump.features=false"))


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """data/mine, prepared of a few scenes without val; gives params with overrides."""
    monkeypatch.chdir(tmp_path)
    few = "demo: {train: 2, val: 1, test: 1, unseen: 1, size: [64, 64]}"
    Path("params.yaml").write_text(BASE.replace("source: coco", f"source: demo, {few}"))
    prepare(load_params().data, Path("data/mine"))
    return lambda *overrides: load_params("params.yaml", overrides)


def test_data_that_older_code_prepared_are_made_again(prepared):
    path = Path("data/mine/manifest.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "params"}))
    with pytest.raises(UserError, match=r"data/mine was prepared by other code\. Run 'pipeline prepare' again"):
        ahead.check_prepared(prepared())


def test_data_that_other_params_prepared_are_refused(prepared):
    ahead.check_prepared(prepared("data.cache_mb=7"))
    with pytest.raises(UserError, match=r"data/mine was prepared with other params \(seed is 0, expected 1\)"):
        ahead.check_prepared(prepared("data.seed=1"))
    ahead.check_prepared(prepared("data.name=other"))  # who reads it says that it is not there
    shown = CliRunner().invoke(main, ["record-views", "--set", "data.seed=1"])
    assert (shown.exit_code, "was prepared with other params" in shown.stderr) == (1, True)
    assert not Path("targets").exists()


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_ensemble_by_ap_needs_a_val_and_a_test_split(prepared, split):
    both = ["ensembles.both={teachers: [a, b], heatmap: class-ap}", "recipes.t={teachers: [a, b], ensemble: both}"]
    ahead.check_with_data(prepared(*both, "distill.recipes=[t]"))
    path = Path("data/mine/manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["splits"][split]
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"ensembles\.both weighs .* no {split} split"):
        ahead.check_with_data(prepared(*both))  # `dvc repro` builds it, although nobody learns from it
    ahead.check(prepared(*both, "distill.recipes=[t]", "data.val_fraction=0.5"))  # `prepare` may mend it


def test_both_commands_look_ahead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(BASE.replace("resnet18", "resnt18"))
    said = "Error: students.s: Model 'resnt18' is unknown"
    assert said in CliRunner().invoke(main, ["train-teacher", "a"]).stderr
    root = str(Path(stages.__file__).parents[1])
    found = subprocess.run([sys.executable, "-m", "stages.train_teacher", "a"], check=False, capture_output=True,
                           text=True, env={**os.environ, "PYTHONPATH": root})
    assert (found.returncode, found.stderr.startswith(said)) == (1, True), found.stderr
