import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from pipeline.cli import main
from storage import verify

STUDENTS = "models/students/mobilenet_v2"
BOTH = "resnet18+hourglass_small"


def read(path):
    return json.loads(path.read_text())


def test_every_artefact_is_there_and_says_where_it_came_from(finished):
    for folder in ("models/teachers/resnet18", f"{STUDENTS}/plain/seed0", f"{STUDENTS}/{BOTH}/seed0"):
        for name in ("weights.safetensors", "config.json", "summary.json", "log.csv"):
            assert (finished / folder / name).stat().st_size > 0
    for path in finished.glob("results/**/metrics.json"):
        metrics = read(path)
        assert metrics["kind"] in ("teacher", "ensemble", "student")
        assert 0 <= metrics["map_area"] <= 100
        assert 0 <= metrics["map07"] <= 100
        assert metrics["unseen"]["map_area"] is not None
        assert metrics.get("passes", 48) == 48
        assert set(metrics["per_class"]) == set(read(finished / "data/demo/manifest.json")["classes"])
        assert len(metrics["fingerprint"]) == 64
    assert len(list(finished.glob("results/**/metrics.json"))) == 5


@pytest.mark.parametrize("name", ["views", "resnet18", "hourglass_small", "ensemble-both"])
def test_every_store_is_whole(finished, name):
    report = verify(finished / "targets" / f"{name}.zarr")
    assert report.ok, report.problems
    assert report.views == 48


def test_the_report_shows_every_model(finished):
    page, text = ((finished / "report" / name).read_text() for name in ("index.html", "report.md"))
    for word in ("ResNet-18", "Hourglass", "MobileNetV2", "CC BY-SA 4.0"):
        assert word in page
        assert word in text
    assert list((finished / "report").rglob("*.png"))


def test_a_distilled_student_logs_the_teachers_terms_and_a_plain_one_does_not(finished):
    header = {recipe: (finished / STUDENTS / recipe / "seed0/log.csv").read_text().splitlines()[0].split(",")
              for recipe in ("plain", BOTH)}
    assert {"kd_heatmap", "kd_wh", "kd_offset", "kd_features"} <= set(header[BOTH])
    assert not [name for name in header["plain"] if name.startswith("kd_")]


def test_running_again_takes_everything_over(line, pipeline, steps, trained):
    before, made = {path: path.read_bytes() for path in line.rglob("*.safetensors")}, trained(line)
    for step in steps[:-1]:
        pipeline(*step, folder=line)
    assert {path: path.read_bytes() for path in before} == before
    assert trained(line) == made


def test_another_w_retrains_the_distilled_student_alone(line, pipeline):
    plain, both = (line / STUDENTS / recipe / "seed0/weights.safetensors" for recipe in ("plain", BOTH))
    before = plain.read_bytes(), both.read_bytes()
    pipeline("distill", "--student", "mobilenet_v2", "--restart", "--recipe", BOTH,
             "--set", f"recipes.{BOTH}.weights=[100, 10, 1, 0]", folder=line)
    assert plain.read_bytes() == before[0]
    assert both.read_bytes() != before[1]
    assert "kd_features" not in (both.parent / "log.csv").read_text()


def test_w_of_zeros_trains_as_plain_does_and_says_so(line, monkeypatch):
    monkeypatch.chdir(line)
    zeros = CliRunner().invoke(main, ["distill", "--student", "mobilenet_v2", "--recipe", BOTH, "--restart",
                                      "--set", f"recipes.{BOTH}.weights=[0, 0, 0, 0]"])
    assert f"'{BOTH}' has W of zeros" in zeros.stderr
    rows = [(line / STUDENTS / recipe / "seed0/log.csv").read_text().splitlines() for recipe in ("plain", BOTH)]
    losses = [[float(line.split(",")[rows[0][0].split(",").index("loss")]) for line in part[1:]] for part in rows]
    assert losses[0] == losses[1]


def test_a_student_is_taught_with_no_teacher_left(line, pipeline):
    weights = line / STUDENTS / BOTH / "seed0/weights.safetensors"
    before, made = weights.read_bytes(), weights.stat().st_mtime_ns
    for teachers in ("models/teachers", ".work/train_teacher"):
        shutil.rmtree(line / teachers)
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", BOTH, "--restart", folder=line)
    assert weights.stat().st_mtime_ns > made
    assert weights.read_bytes() == before


def test_a_recipe_of_one_teacher_needs_no_ensemble(line, pipeline):
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", "resnet18", "--seed", "3", folder=line)
    assert (line / STUDENTS / "resnet18/seed3/weights.safetensors").exists()


def test_an_oracle_and_fresh_views_need_no_store_and_fresh_views_no_recorded_ones(line, pipeline):
    for name in ("resnet18", "hourglass_small", "ensemble-both"):
        shutil.rmtree(line / f"targets/{name}.zarr")
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", "oracle", folder=line)
    shutil.rmtree(line / "targets")
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", "plain-fresh", folder=line)
    headers = {recipe: (line / STUDENTS / recipe / "seed0/log.csv").read_text().splitlines()[0]
               for recipe in ("oracle", "plain-fresh")}
    assert {"kd_heatmap", "kd_wh", "kd_offset"} <= set(headers["oracle"].split(","))
    assert "kd_" not in headers["plain-fresh"]
    plain, fresh = ((line / STUDENTS / recipe / "seed0/weights.safetensors").read_bytes()
                    for recipe in ("plain", "plain-fresh"))
    assert plain != fresh


def test_forms_attention_schedule_and_separate_teachers_train(line, pipeline):
    change = ("{teachers: [resnet18, hourglass_small], ensemble: separate, heatmap: soft-focal, wh: absolute, "
              "features: fgd, standardise: map, attention: [heatmap, agreement], attend_outputs: true, "
              "schedule: warmup}")
    pipeline("distill", "--student", "mobilenet_v2", "--recipe", BOTH, "--seed", "5", "--set",
             f"recipes.{BOTH}={change}", folder=line)
    header, first, *_ = (line / STUDENTS / BOTH / "seed5/log.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert all(float(row[name]) > 0 for name in ("kd_heatmap", "kd_wh", "kd_offset", "kd_features"))


def test_dry_run_says_what_a_dump_costs_and_writes_nothing(line, pipeline):
    before = sorted(line.rglob("*"))
    there = json.loads(pipeline("dump-teachers", "--dry-run", "--json", folder=line))
    assert there["resnet18"]["views"] == 0  # all of them are in targets/ and would be taken over
    answer = json.loads(pipeline("dump-teachers", "--dry-run", "--restart", "--json", folder=line))
    assert answer["resnet18"]["views"] == 48
    assert answer["resnet18"]["bytes"] > 0
    assert answer["resnet18"]["seconds"] > 0
    assert sorted(line.rglob("*")) == before


@pytest.mark.parametrize(("change", "command", "words"), [
    ("views.seed=5", ["distill", "--student", "mobilenet_v2"], ["views", "dump-teachers"]),
    ("data.seed=9", ["distill", "--student", "mobilenet_v2"], ["data"]),
])
def test_targets_of_other_views_are_refused(line, pipeline, monkeypatch, change, command, words):
    pipeline("prepare", "--set", change, "--set", "data.demo.seed=7" if "data" in change else change, folder=line)
    if "views" in change:
        pipeline("record-views", "--set", change, folder=line)
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [*command, "--recipe", BOTH, "--set", change])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    for word in words:
        assert word in result.output


def test_a_finished_teacher_is_taken_as_it_is(line, pipeline):
    mine, original = line / "mine.safetensors", line / "models/teachers/resnet18/weights.safetensors"
    shutil.copy(original, mine)
    changes = ["--set", f"teachers.resnet18.weights={mine}", "--set", "teachers.resnet18.train={epochs: 0}"]
    pipeline("train-teacher", "resnet18", "--restart", *changes, folder=line)
    ours, theirs = load_file(original), load_file(mine)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    summary = json.loads((original.parent / "summary.json").read_text())
    assert (summary["steps"], summary["passes"]) == (0, 0)
    for command in ("dump-teachers", "evaluate", "report"):
        pipeline(command, *changes, folder=line)
