"""The bill of the tiny line: before anything is there, and beside what happened."""

import json
import re

import pytest
from click.testing import CliRunner

from pipeline.billing import planning
from pipeline.cli import main
from pipeline.errors import UserError

BOTH = "resnet18+hourglass_small"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """What is measured matters little here."""
    monkeypatch.setattr(planning, "ROUNDS", 1)
    monkeypatch.setattr(planning, "STEPS", 1)


@pytest.fixture
def prepared(tmp_path, finished):
    """A folder with params and data alone."""
    (tmp_path / "params.yaml").write_text((finished / "params.yaml").read_text())
    (tmp_path / "data").symlink_to(finished / "data")
    return tmp_path


def test_an_epoch_is_as_many_steps_as_its_images_take(prepared, pipeline, monkeypatch):
    taken = {"plain": [1.0], f"{BOTH} offline": [2.0], f"{BOTH} live": [8.0]}  # a step of 8 images, of 24
    monkeypatch.setattr(planning, "seconds_of_steps", lambda *_, **__: taken)
    student = json.loads(pipeline("plan", "--json", folder=prepared))["predicted"]["students"]["mobilenet_v2"]
    assert (student["plain"], student["taught"][BOTH]) == (3.0, {"offline": 6.0, "live": 24.0})


def test_a_plan_needs_the_data_alone_and_leaves_one_file(prepared, pipeline):
    answer = json.loads(pipeline("plan", "--json", folder=prepared))
    predicted = answer["predicted"]
    assert (predicted["images"], predicted["views"], predicted["size"]) == (24, 48, [64, 64])
    assert predicted["untrained"] == ["resnet18", "hourglass_small"]
    assert list(predicted["stores"]) == ["views", "resnet18", "hourglass_small", "ensemble-both"]
    assert all(cost["seconds"] > 0 and cost["bytes"] > 0 for cost in predicted["stores"].values())
    student = predicted["students"]["mobilenet_v2"]
    assert (student["epochs"], list(student["taught"])) == (2, [BOTH])
    assert all(seconds > 0 for seconds in (student["plain"], *student["taught"][BOTH].values()))
    assert answer["happened"] == {"stores": {}, "epochs": {}}
    assert json.loads((prepared / "results/plan.json").read_text()) == answer
    assert {path.name for path in prepared.iterdir()} == {"params.yaml", "data", "results"}
    assert [path.name for path in (prepared / "results").iterdir()] == ["plan.json"]


def test_a_teacher_that_was_another_network_counts_as_untrained(line, pipeline):
    answer = json.loads(pipeline("plan", "--json", "--recipe", BOTH, "--set", "teachers.resnet18.model=resnet34",
                                 folder=line))
    assert answer["predicted"]["untrained"] == ["resnet18"]


def test_what_happened_stands_beside_what_was_predicted(line, pipeline):
    text = pipeline("plan", "--recipe", BOTH, folder=line)
    rows = {cells[0]: cells[1:] for row in text.splitlines() if len(cells := row.split()) > 3}
    manifest = json.loads((line / "targets/resnet18.zarr/manifest.json").read_text())
    answer = json.loads((line / "results/plan.json").read_text())
    predicted, happened = answer["predicted"]["stores"]["resnet18"], answer["happened"]["stores"]["resnet18"]
    assert happened == {"seconds": manifest["created"]["shard_seconds"], "bytes": manifest["counts"]["bytes"]}
    assert 0.7 < predicted["bytes"] / happened["bytes"] < 1.4  # the real teacher over other views
    assert answer["predicted"]["untrained"] == []
    assert rows["resnet18"][3] == f"{happened['bytes'] / 1e6:.3g}"
    assert set(answer["happened"]["epochs"]["mobilenet_v2"]) == {"plain", BOTH}
    assert "-" not in rows["mobilenet_v2"]
    pays = answer["pays_from"]["mobilenet_v2"][BOTH]
    assert ("never" if pays is None else "student") in text



def test_the_cost_of_measuring_is_said_before_it_begins(prepared, monkeypatch):
    def stop(*_):
        raise UserError("measuring began")

    monkeypatch.chdir(prepared)
    monkeypatch.setattr(planning, "rehearse", stop)
    result = CliRunner().invoke(main, ["plan"])
    assert result.exit_code == 1
    *_, said, error = result.stderr.splitlines()
    assert re.match(r"plan: about \d+ s of measuring: resnet18, hourglass_small over 16 views", said)
    assert error == "Error: measuring began"
    assert not (prepared / "results").exists()


def test_another_input_size_and_a_store_without_features_are_planned_too(prepared, pipeline):
    given = ("recipes.resnet18.weights=[1000, 1, 0.1, 0]", "dump.features=false", "distill.recipes=[resnet18]",
             "students.mobilenet_v2.size=[96, 96]")
    answer = json.loads(pipeline("plan", "--recipe", "resnet18", "--json", *(f"--set={change}" for change in given),
                                 folder=prepared))
    assert answer["predicted"]["recipes"] == {"resnet18": ["resnet18"]}
    assert answer["predicted"]["students"]["mobilenet_v2"]["taught"]["resnet18"]["live"] > 0
