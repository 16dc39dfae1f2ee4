import json
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.cli.options import print_answer


def commands(group=main, prefix=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield (*prefix, name), command


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(("words", "command"), list(commands()),
                         ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_every_command_has_help_and_stands_in_the_readme(words, command, request):
    assert CliRunner().invoke(main, [*words, "--help"]).exit_code == 0
    assert command.help
    assert f"pipeline {' '.join(words)}" in (request.config.rootpath / "README.md").read_text()


def test_what_the_readme_types_is_accepted(request):
    text = (request.config.rootpath / "README.md").read_text()
    typed = re.findall(r"^    pipeline (.*?)(?:\s{2,}#.*)?$", text, re.MULTILINE)
    assert len(typed) > 8
    for line in typed:
        words, node, context = line.split(), main, click.Context(main)
        while isinstance(node, click.Group):
            node = node.commands[words.pop(0)]
        parser = node.make_parser(context)
        parser.parse_args(args=words)


def test_help_needs_no_heavy_package():
    script = ("import sys, pipeline.cli; "
              "print([m for m in ('torch', 'numpy', 'zarr', 'pydantic', 'cv2') if m in sys.modules])")
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_one_of_several_processes_answers(monkeypatch, capsys):
    print_answer({"views": 3}, True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    print_answer({"views": 3}, True)
    assert json.loads(capsys.readouterr().out) == {"views": 3}


@pytest.mark.parametrize(("arguments", "words"), [
    (["prepare"], ["params.yaml does not exist", "pipeline profile demo"]),
    (["profile", "vock"], ["'vock'", "'voc'", "demo"]),
    (["store", "info", "nowhere.zarr"], ["nowhere.zarr"]),
    (["store", "verify", "nowhere.zarr"], ["nowhere.zarr"]),
])
def test_without_anything_the_error_says_what_to_do(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    for word in words:
        assert word in result.output


@pytest.mark.parametrize(("arguments", "words"), [
    (["train-teacher", "resnet51"], ["teacher", "'resnet51'", "resnet50", "hourglass_small"]),
    (["dump-teachers", "resnet51"], ["'resnet51'", "resnet50"]),
    (["build-ensemble", "bath"], ["ensemble", "'bath'", "both"]),
    (["distill", "--student", "resnet17"], ["student", "'resnet17'", "resnet18"]),
    (["distill", "--student", "resnet18", "--recipe", "plane"], ["recipe", "'plane'", "plain"]),
    (["prepare", "--set", "view.size=[64, 64]"], ["view", "'views'"]),
    (["prepare", "--set", "data.source=/nowhere"], ["/nowhere"]),
    (["record-views"], ["data/demo", "pipeline prepare"]),
    (["train-teacher", "resnet50"], ["data/demo", "pipeline prepare"]),
    (["evaluate"], ["models/", "train-teacher"]),
    (["study", "screen", "plain"], ["data/demo", "pipeline prepare"]),
    (["study", "screen", "plane"], ["'plane'", "plain", "weights"]),
    (["study", "screen", "--set", "screening={}"], ["screening", "pipeline profile study"]),
    (["study", "screen", "--set", "screening.weights.variations.odd=[recipes.x=1]"], ["variations.odd", "recipes.x"]),
    (["study", "screen", "--set", "screening.weights.changes=[recipes.x=1]"], ["weights.changes", "recipes.x"]),
    (["study", "collect"], ["data/demo", "pipeline prepare"]),
    (["plan"], ["data/demo", "pipeline prepare"]),
    (["plan", "--student", "resnet17"], ["student", "'resnet17'", "resnet18"]),
    (["plan", "--recipe", "plane"], ["recipe", "'plane'", "plain"]),
    (["plan", "--recipe", "plain"], ["nothing to plan", "plain needs no store", "resnet50+hourglass_small"]),
])
def test_what_params_do_not_name_is_one_line_and_leaves_nothing(run, tmp_path, arguments, words):
    assert run("profile", "demo").exit_code == 0
    result = run(*arguments)
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    for word in words:
        assert word in result.output
    assert {path.name for path in tmp_path.iterdir()} <= {"params.yaml", ".work"}
    assert not [path for path in (tmp_path / ".work").rglob("*") if path.name == "done"]


def test_a_wrong_word_is_a_usage_error(run):
    assert run("distil").exit_code == 2
    for seed in ("one", str(2**32)):
        assert run("distill", "--seed", seed).exit_code == 2


def test_profiles_are_listed_and_written(run, tmp_path):
    assert {"demo", "study", "voc"} <= {line.split()[0] for line in run("profile").output.splitlines()}
    run("profile", "voc")
    with (tmp_path / "params.yaml").open("a") as file:
        file.write("# mine\n")
    result = run("profile", "demo")
    assert result.exit_code == 1
    assert "--force" in result.output


def test_clean_says_what_it_freed(run):
    assert run("clean").output.startswith("freed 0.0 MB")


def test_json_answers_are_json(run, tmp_path):
    import numpy as np

    from storage import ArraySpec, StoreSpec, create_store

    spec = StoreSpec(arrays=(ArraySpec("x", (2, 2), "float32", "raw"),), views=3, shard_views=2,
                     identity={"kind": "test"})
    writer = create_store(tmp_path / "x.zarr", spec)
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            for view in spec.shard_range(shard):
                claim.append({"x": np.full((2, 2), view, np.float32)})
    writer.finish()
    answer = json.loads(run("store", "info", "x.zarr", "--json").output)
    assert (answer["views"], answer["arrays"]["x"]["encoding"]) == (3, "raw")
    assert json.loads(run("store", "verify", "x.zarr", "--json").output)["ok"] is True
    shard = next(path for path in (tmp_path / "x.zarr").rglob("c.*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    result = run("store", "verify", "x.zarr", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["bad_views"]
