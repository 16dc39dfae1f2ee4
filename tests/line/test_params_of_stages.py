"""dvc.yaml lists, per stage, the params that the stage reads."""

import json
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.billing.bill import Plan, StudentCost, Taught, deciding
from pipeline.data.dataset import load_data
from pipeline.params import load_params
from pipeline.params.blocks import Block

STAGES = YAML(typ="safe").load((Path(__file__).parents[2] / "dvc.yaml").read_text())["stages"]
NAMES = {"${key}": "resnet18", "${item.student}": "mobilenet_v2", "${item.recipe}": "resnet18+hourglass_small",
         "${item.seed}": "0"}


def body(stage):
    """The text of a stage's cmd, deps and params, for one cell of the finished folder."""
    given = STAGES[stage].get("do", STAGES[stage])
    names = {**NAMES, "${key}": "both"} if "ensemble" in stage else NAMES

    def fill(text):
        for key, name in names.items():
            text = text.replace(key, name)
        return text

    return {"cmd": fill(given["cmd"]), **{part: [fill(text) for text in given[part]] for part in ("deps", "params")}}


def carried(deps):
    """What decided a dependency is read to check it, or to know its form: DVC runs the stage that makes it."""
    carry = {"data/": ["data.name"], "targets": ["views", "dump", "ensembles"], "results/dumps": ["dump"],
             "models/teachers/": ["teachers"], "models/students/": ["students"]}
    return {key for dep in deps for start, keys in carry.items() if dep.startswith(start) for key in keys}


def blocks(value, path=""):
    """{id of a block: its dotted path}, of all blocks below `value`."""
    below = dict(value) if isinstance(value, Block | Mapping) else {}
    found = {id(value): path} if isinstance(value, Block) else {}
    for key, one in below.items():
        found |= blocks(one, f"{path}.{key}" if path else key)
    return found


@pytest.fixture
def read(monkeypatch):
    """read(params) -> a set that fills with the dotted keys that are read of them from then on."""
    def watch(params):
        paths, found = blocks(params), set()
        get, dump = Block.__getattribute__, Block.model_dump

        def getting(self, name):
            value, path = get(self, name), paths.get(id(self))
            table = not path and isinstance(value, dict)  # of blocks
            if path is not None and name in type(self).model_fields and not table and id(value) not in paths:
                found.add(f"{path}.{name}" if path else name)
            return value

        def dumping(self, *args, **named):
            values = dump(self, *args, **named)
            found.update(f"{paths[id(self)]}.{key}" for key in values if id(self) in paths)
            return values

        monkeypatch.setattr(Block, "__getattribute__", getting)
        monkeypatch.setattr(Block, "model_dump", dumping)
        return found

    return watch


@pytest.fixture(scope="module")
def copy(finished, tmp_path_factory):
    """Stages write into it what is there already, and a plan."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("params") / "line", symlinks=True)
    params, (student, recipe) = load_params(folder / "params.yaml"), (NAMES["${item.student}"], NAMES["${item.recipe}"])
    about = deciding(params, load_data(folder / "data/demo"), [student], [recipe])
    cost = StudentCost(epochs=1, plain=1.0, taught={recipe: Taught(offline=1.0, live=2.0)})
    plan = Plan(deciding=about, images=1, views=1, size=params.views.size, device="cpu", untrained=[],
                recipes={recipe: []}, stores={}, students={student: cost})
    (folder / "results/plan.json").write_text(json.dumps({"predicted": plan.model_dump(mode="json")}))
    return folder


def covers(keys, key):
    return any(key == one or key.startswith(f"{one}.") for one in keys)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_a_stage_reads(copy, monkeypatch, read, stage):
    """All of them but weights files: of these the params are the names alone, and a changed file needs a new one."""
    monkeypatch.chdir(copy)
    params = load_params("params.yaml", ["report.images=1"])
    given = body(stage)
    _, _, module, *arguments = given["cmd"].split()
    run = import_module(module).run
    found = read(params)
    run(params, *(int(word) if word.isdecimal() else word for word in arguments))
    known = {*given["params"], *carried(given["deps"])}
    assert not {key for key in found if not covers(known, key)}, "read and not listed"
    assert not {one for one in given["params"] if not any(covers([one], key) for key in found)}, "listed and not read"
