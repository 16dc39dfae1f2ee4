"""dvc.yaml lists, per stage, the code that the stage runs."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.params.schema import Distill
from stages.code import first_party_files

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def body(stage):
    return STAGES[stage].get("do", STAGES[stage])


def module(stage):
    return body(stage)["cmd"].split()[2]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_the_imports(stage):
    listed = [ROOT / dep for dep in body(stage)["deps"] if "$" not in dep]
    for name, file in first_party_files(module(stage)).items():
        if file.name == "__init__.py" and not file.read_text().strip():
            continue
        assert any(file == dep or dep in file.parents for dep in listed), f"{stage} runs {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_the_stage_does_not_run(stage):
    files = set(first_party_files(module(stage)).values())
    for dep in body(stage)["deps"]:
        path = ROOT / dep
        if dep.startswith(("pipeline", "stages", "storage")):
            assert path.exists(), dep
            assert any(file == path or path in file.parents for file in files), f"{stage} does not run {dep}"


def test_a_teacher_does_not_depend_on_distillation_nor_a_student_on_the_report():
    assert not any("distillation" in name for name in first_party_files("stages.train_teacher"))
    assert not any("weighting" in name for name in first_party_files("stages.dump_teachers"))
    assert not any("report" in name for name in first_party_files("stages.distill"))
    assert not any("demo" in name for name in first_party_files("stages.train_teacher"))


def test_every_key_that_decides_a_student_is_a_param_and_in_every_profile():
    decides = Distill.model_fields.keys() - {"students", "recipes", "seeds"}  # those name the cells
    assert {f"distill.{key}" for key in decides} <= {*body("distill")["params"]}
    for profile in (ROOT / "pipeline/params/profiles").glob("*.yaml"):  # DVC refuses a param that is not there
        assert decides <= YAML(typ="safe").load(profile.read_text())["distill"].keys(), profile
