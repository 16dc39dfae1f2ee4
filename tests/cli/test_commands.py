import json
import re
import subprocess
import sys
import textwrap

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


def leaf(words):
    """(the command that words name, the words after its name)."""
    node, rest = main, list(words)
    while isinstance(node, click.Group):
        node = node.commands[rest.pop(0)]
    return node, rest


def assert_params_name(params, given):
    """What a command is called with are entries of params."""
    tables = {"name": params.teachers, "names": params.teachers, "keys": params.ensembles, "students": params.students,
              "recipes": params.recipes, "groups": params.screening}
    for key, table in tables.items():
        values = given.get(key) or ()
        assert ({values} if isinstance(values, str) else set(values)) <= set(table)


def test_what_the_readme_types_is_accepted(request, run, tmp_path):
    """Line by line, with the params that the last `pipeline profile` before it has written."""
    text = (request.config.rootpath / "README.md").read_text()
    typed = re.findall(r"^    pipeline (.*?)(?:\s{2,}#.*)?$", text, re.MULTILINE)
    assert len(typed) > 8
    for line in typed:
        if line.startswith("profile"):
            (tmp_path / "params.yaml").unlink(missing_ok=True)
            assert run(*line.split()).exit_code == 0
        node, words = leaf(line.split())
        given = node.make_context(node.name, words).params
        if "params" in given:
            assert_params_name(given["params"], given)


@pytest.mark.parametrize("page", ["README.md", "architecture.md", "ensembles.md", "losses.md", "store-format.md"])
def test_what_pages_name_are_commands_and_their_options(request, run, page):
    """Some are named without their arguments, or with NAME in their place: those that are whole are accepted."""
    file = request.config.rootpath / ("" if page == "README.md" else "docs") / page
    named = re.findall(r"`pipeline ([a-z][^`]+)`", file.read_text())
    assert named
    for line in named:
        node, words = leaf(re.sub(r"[\[\]…]|\.{3}", "", line).split())
        options = {option for parameter in node.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line
        if not any(word.isupper() for word in words) and len(words) > sum(word.startswith("-") for word in words):
            assert run("profile", "study", "--force").exit_code == 0
            given = node.make_context(node.name, words).params
            if "params" in given:
                assert_params_name(given["params"], given)


def test_the_readmes_program_finds_what_evaluation_finds(request, tmp_path, monkeypatch):
    import numpy as np
    import torch
    from PIL import Image

    from pipeline.data import ImageRecord
    from pipeline.inference import detect
    from pipeline.models import build_detector, decode_detections, load_detector, preprocess, save_detector

    text = (request.config.rootpath / "README.md").read_text()
    programs = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    [program] = [part for part in programs if "load_detector" in part]
    [export] = [part for part in programs if "torch.export.save" in part]
    program, [path] = textwrap.dedent(program), re.findall(r'load_detector\("(.*?)"\)', program)
    (tmp_path / path).parent.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_detector("resnet18", 2, deconv=[8, 8, 8], head_channels=8)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # scores that differ, boxes that are larger than nothing
    save_detector(model, tmp_path / path, ["cat", "dog"])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    said = {}
    exec(program, said)

    nothing = np.empty(0, bool)
    record = ImageRecord("photo", tmp_path / "photo.jpg", 50, 30, np.empty((0, 4), np.float32),
                         np.empty(0, np.int64), nothing, nothing)
    expected = detect(load_detector(path), [record], size_hw=(512, 512))
    corners = said["corners"].reshape(-1, 4).numpy().clip(0, [50, 30, 50, 30])
    np.testing.assert_allclose(corners, expected[:, 3:], atol=1e-2)
    np.testing.assert_allclose(said["scores"], expected[:, 2], rtol=1e-4)
    assert said["names"] == [("cat", "dog")[int(number)] for number in expected[:, 1]]

    exec(textwrap.dedent(export), said)
    images = preprocess(said["image"][None], said["student"].config)
    with torch.inference_mode():
        heatmap, wh, offset = torch.export.load("student.pt2").module()(images)
    assert torch.allclose(decode_detections(heatmap, wh, offset, k=100)[0], said["found"], atol=1e-3)


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
