import csv
import json
import os

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pipeline.billing.live import LiveTeachers
from pipeline.cli import main
from pipeline.models import load_detector
from stages import dump_teachers, work
from storage import open_store

BOTH = "resnet18+hourglass_small"


def cells(folder):
    return json.loads((folder / "docs/study/cells.json").read_text())


def test_a_screening_ranks_variations_by_val_and_the_page_shows_them(line, pipeline):
    answer = json.loads(pipeline("study", "screen", "weights", "--json", folder=line))
    scores = answer["weights"]["mobilenet_v2"]
    assert set(scores) == {"table4-1", "table4-3"}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    result = json.loads((line / "results/study/weights/mobilenet_v2/table4-3/seed0.json").read_text())
    assert (result["split"], result["variation"], result["map_area"]) == ("val", "table4-3", scores["table4-3"])
    assert len(result["origin"]["teachers"]) == 2

    found = json.loads(pipeline("study", "collect", "--json", folder=line))
    assert (found["teachers"], found["students"], found["screening"]) == (2, 2, 2)
    page = (line / "docs/study/README.md").read_text()
    assert "Screening: weights" in page
    assert "table4-3" in page
    assert list((line / "docs/study/figures").iterdir())


def test_a_variation_with_other_views_has_stores_of_its_own(line, pipeline):
    views = line / "targets/views.zarr/manifest.json"
    before = views.read_bytes()
    trained = [path.name for path in line.glob(".work/train_teacher/*/*")]
    pipeline("study", "screen", "views", folder=line)
    assert views.read_bytes() == before
    assert [path.name for path in line.glob(".work/train_teacher/*/*")] == trained
    assert len(open_store(line / "targets/views.zarr")) == 48
    origins = {name: json.loads((line / f"results/study/views/mobilenet_v2/{name}/seed0.json").read_text())["origin"]
               for name in ("as-they-are", "one")}
    assert origins["one"]["views"] != origins["as-they-are"]["views"]
    assert origins["one"]["teachers"] == origins["as-they-are"]["teachers"]
    assert not (line / ".screening/views/one").exists()


def test_the_stores_of_a_variation_are_left_to_who_is_there_first(line, monkeypatch):
    monkeypatch.chdir(line)
    folder = line / ".screening/views/one"
    folder.mkdir(parents=True)
    with work.locked(folder, alone=True):
        result = CliRunner().invoke(main, ["study", "screen", "views"])
    assert result.exit_code == 1
    assert f"views/one: .screening/views/one is being worked on by process {os.getpid()}" in result.stderr
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert [path.parent.name for path in line.glob("results/study/views/*/*/*.json")] == ["as-they-are"]


def test_clean_frees_what_screenings_keep_only_if_all_is_asked_for(line, pipeline):
    pipeline("study", "screen", "weights", folder=line)
    students = sorted(line.glob(".work/screened/*/*/*/*/weights.safetensors"))
    (line / ".screening/views/one/targets").mkdir(parents=True)
    pipeline("clean", folder=line)
    assert students
    assert sorted(line.glob(".work/screened/*/*/*/*/weights.safetensors")) == students
    pipeline("clean", "--all", folder=line)
    assert not [*line.glob(".work/screened"), *line.glob(".screening/*")]
    assert (line / "params.yaml").exists()


def test_a_variation_without_val_trains_nobody(line, monkeypatch, trained):
    before = trained(line)
    monkeypatch.chdir(line)
    variations = """{none: [data.source=data/demo, data.format=voc, 'data.sets={train: train, test: test}',
                           data.val_fraction=0]}"""
    result = CliRunner().invoke(main, ["study", "screen", "weights", "--set",
                                       f"screening.weights.variations={variations}"])
    assert result.exit_code == 1
    assert "weights/none: data set 'demo' has no val split" in result.stderr
    assert trained(line) == before


def test_a_variation_with_stores_of_its_own_finds_what_params_name_from_here(line, pipeline):
    images = line.parent / "beside"
    images.mkdir()
    for path in sorted((line / "data/demo/JPEGImages").glob("*"))[:2]:
        Image.open(path).rotate(90).save(images / f"{path.stem}.png")
    variation = {"first": ["data.unlabelled=../beside", "views.per_image=1"]}
    pipeline("study", "screen", "views", "--set", f"screening.views.variations={json.dumps(variation)}", folder=line)
    assert (line / "results/study/views/mobilenet_v2/first/seed0.json").exists()


def test_a_variation_that_stops_stops_no_other(line, monkeypatch):
    monkeypatch.chdir(line)
    variations = """{diverges: ["distill.train.lr=1e30", "distill.train.clip=0"], away: [data.source=nowhere],
                     table4-3: ["recipes.{recipe}.weights=table4-3"]}"""
    result = CliRunner().invoke(main, ["study", "screen", "weights", "--set",
                                       f"screening.weights.variations={variations}"])
    assert (result.exit_code, result.stdout) == (1, "")
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: 2 of the screening stopped")
    assert "weights/mobilenet_v2/diverges/seed0: every loss term became" in error
    assert "weights/away: " in error
    assert [path.parent.name for path in line.glob("results/study/weights/*/*/*.json")] == ["table4-3"]


def test_memory_that_a_variation_lacks_stops_no_other(line, monkeypatch):
    def out_of_memory(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")

    monkeypatch.chdir(line)
    monkeypatch.setattr(dump_teachers, "run", out_of_memory)
    result = CliRunner().invoke(main, ["study", "screen", "views"])
    assert result.exit_code == 1
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: 1 of the screening stopped")
    assert "views/one: out of memory" in error
    assert [path.parent.name for path in line.glob("results/study/views/*/*/*.json")] == ["as-they-are"]


@pytest.mark.parametrize("command", [["study", "screen"], ["study", "collect"]])
def test_data_of_other_params_are_refused(line, monkeypatch, command):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [*command, "--set", "data.labels=0.5"])
    assert (result.exit_code, "was prepared with other params (labels is" in result.stderr) == (1, True), result.stderr
    assert not list(line.glob("results/study/*")) + list(line.glob("docs/study/*"))


def test_cells_that_are_done_are_not_trained_again(line, pipeline, trained):
    before = trained(line)
    pipeline("study", "screen", "weights", folder=line)
    made = trained(line)
    assert made.items() > before.items()
    pipeline("study", "screen", "weights", folder=line)
    assert trained(line) == made


def test_who_was_taught_so_already_is_scored_and_not_taught_again(line, pipeline, trained):
    before = trained(line)
    pipeline("study", "screen", "weights", "--set", "screening.weights.variations={as-it-is: []}", folder=line)
    assert trained(line) == before
    screened = json.loads((line / "results/study/weights/mobilenet_v2/as-it-is/seed0.json").read_text())
    student = json.loads((line / f"results/students/mobilenet_v2/{BOTH}/seed0/metrics.json").read_text())
    assert screened["map_area"] == student["val"]["map_area"]


def test_what_a_group_changes_holds_for_all_its_variations(line, pipeline):
    pipeline("study", "screen", "weights", "--set", "screening.weights.variations={short: []}",
             "--set", "screening.weights.changes=[distill.train.epochs=1]", folder=line)
    assert json.loads((line / "results/study/weights/mobilenet_v2/short/seed0.json").read_text())["passes"] == 24


LIVE = ("study", "screen", "weights",
        "--set", "screening.weights.variations={live: ['recipes.{recipe}.views=fresh']}")


def test_a_student_can_be_compared_with_one_whose_teachers_run_in_every_step(line, pipeline, trained, monkeypatch):
    asked = []
    monkeypatch.setattr(LiveTeachers, "__call__", lambda self, batch, call=LiveTeachers.__call__: (
        asked.append(batch["view"]), call(self, batch))[1])
    pipeline(*LIVE, folder=line)
    assert len(asked) == 6  # two epochs of three batches
    assert sorted(torch.cat(asked).tolist()) == sorted([*range(24)] * 2)  # images: recorded views have 48 numbers
    student = line / ".work/screened/weights/mobilenet_v2/live/seed0"
    taught = [load_detector(folder / "weights.safetensors")
              for folder in (student, line / f"models/students/mobilenet_v2/{BOTH}/seed0")]
    assert not all(map(torch.equal, *(model.parameters() for model in taught)))
    with (student / "log.csv").open(encoding="utf-8") as log:
        rows = [*csv.DictReader(log)]
    assert all(float(row[term]) > 0 for row in rows for term in ("kd_heatmap", "kd_wh", "kd_offset", "kd_features"))
    origin = json.loads((line / "results/study/weights/mobilenet_v2/live/seed0.json").read_text())["origin"]
    assert origin["views"]["flip"] == 0.5  # how they are drawn, where others name the recorded ones
    assert origin["recipe"]["views"] == "fresh"
    assert len(origin["teachers"]) == 2
    made = trained(line)
    pipeline(*LIVE, folder=line)
    assert trained(line) == made
    pipeline("study", "collect", folder=line)


@pytest.mark.parametrize(("override", "words"), [
    ("ensembles.both.heatmap=max", "ensembles.both.heatmap is 'max'"),
    ("dump.tta.flip=true", "dump.tta asks them several times"),
    ("teachers.resnet18.classes=[bird, car]", "resnet18 knows some classes alone"),
])
def test_live_teachers_that_would_not_say_what_stores_say_are_refused(line, monkeypatch, override, words):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [*LIVE, "--set", override])
    assert result.exit_code == 1
    assert words in result.output
    assert "set views: stored" in result.output
    assert not (line / "results/study").exists()


@pytest.mark.parametrize("command", ["distill", "plan"])
def test_only_a_screening_runs_teachers_in_every_step(line, monkeypatch, command):
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, [command, "--recipe", "resnet18", "--set", "recipes.resnet18.views=fresh"])
    assert result.exit_code == 1
    assert "recipe 'resnet18' has teachers and views: fresh, of which no store says anything" in result.output


def test_every_result_names_what_made_it(finished):
    student = json.loads((finished / f"results/students/mobilenet_v2/{BOTH}/seed0/metrics.json").read_text())
    teacher = json.loads((finished / "results/teachers/resnet18/metrics.json").read_text())
    assert student["origin"]["precision"] == teacher["origin"]["precision"] == "32-true"
    ensemble = json.loads((finished / "results/ensembles/both/metrics.json").read_text())
    assert set(student["origin"]["teachers"]) == {"resnet18", "hourglass_small"}
    assert student["origin"]["teachers"]["resnet18"] == teacher["weights"]
    assert student["origin"]["teachers"] == ensemble["origin"]["teachers"]
    assert student["origin"]["data"] == teacher["origin"]["data"]
    assert len(student["origin"]["code"]) == 64
    assert {split for split in ("unseen", "val", "train") if teacher[split]} == {"unseen", "val", "train"}
    assert student["val"]["map_area"] is not None


def test_committed_cells_stay_when_results_are_gone(line, pipeline):
    import shutil

    (line / "docs/study").mkdir(parents=True)
    (line / "docs/study/findings.md").write_text("# Why\n")
    pipeline("study", "collect", folder=line)
    assert "[findings.md](findings.md)" in (line / "docs/study/README.md").read_text()
    before = cells(line)
    shutil.rmtree(line / "results")
    pipeline("study", "collect", folder=line)
    assert cells(line) == before


@pytest.mark.parametrize("text", ["{", '{"students": [{"kind": "student"}]}'])
def test_damaged_cells_are_one_line_and_stay(line, monkeypatch, text):
    (line / "docs/study").mkdir(parents=True)
    (line / "docs/study/cells.json").write_text(text)
    monkeypatch.chdir(line)
    result = CliRunner().invoke(main, ["study", "collect"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert "docs/study/cells.json" in result.output
    assert [path.name for path in (line / "docs/study").iterdir()] == ["cells.json"]
