"""The whole line at the smallest size that is still the whole line."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main

#: Two small teachers of different kinds, one student; real networks, a few dozen scenes, two epochs.
PARAMS = """
profile: tiny
data: {name: demo, demo: {train: 24, val: 8, test: 10, unseen: 6}}
views: {per_image: 2, size: [64, 64], scale: [0.8, 1.2, 0.1], flip: 0.5, color: 0.2, lighting: 0.1, max_objects: 16,
        shard_views: 20}
train: &train {epochs: 2, batch: 8, log_every: 2, precision: 32-true}
teachers:
  resnet18: {model: resnet18, arch: {deconv: [16, 16, 16], head_channels: 16}}
  hourglass_small: {model: hourglass_small, arch: {dims: [16, 24, 32], modules: [1, 1, 1]}}
dump: {batch: 8, peaks: 20, shard_views: 20}
ensembles:
  both: {teachers: [resnet18, hourglass_small]}
students:
  mobilenet_v2: {model: mobilenet_v2, arch: {deconv: [16, 16, 16], head_channels: 16}}
recipes:
  plain: {}
  resnet18: {teachers: [resnet18]}
  resnet18+hourglass_small: {teachers: [resnet18, hourglass_small], ensemble: both}
  plain-fresh: {views: fresh}
  oracle: {oracle: true, weights: [1000, 1, 0.1, 0]}
distill: {students: [mobilenet_v2], recipes: [plain, resnet18+hourglass_small], seeds: [0], flip: null, train: *train}
evaluate: {latency_runs: 2}
report: {images: 2, baseline: resnet18}
screening:
  weights:
    students: [mobilenet_v2]
    recipe: resnet18+hourglass_small
    variations: {table4-1: [], table4-3: ["recipes.{recipe}.weights=table4-3"]}
  views:
    students: [mobilenet_v2]
    recipe: resnet18+hourglass_small
    variations: {as-they-are: [], one: [views.per_image=1]}
"""

STEPS = (
    ["prepare"], ["record-views"], ["train-teacher", "resnet18"], ["train-teacher", "hourglass_small"],
    ["dump-teachers"], ["build-ensemble"], ["distill", "--student", "mobilenet_v2"], ["evaluate"], ["report"],
)


def run_pipeline(*arguments: str, folder: Path) -> str:
    """Runs one command in a folder; returns what it printed."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(main, arguments)
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="session")
def tiny():
    """The params of the finished folder, as text."""
    return PARAMS


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder in which every command ran once. Read it, don't write in it: that is looked after at the end."""
    folder = tmp_path_factory.mktemp("line")
    (folder / "params.yaml").write_text(PARAMS)
    for step in STEPS:
        run_pipeline(*step, folder=folder)

    def files():
        return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}

    before = files()
    yield folder
    changed = {path for path, _ in before.items() ^ files().items()}
    assert not changed, "a test wrote into the finished folder, and not into a copy"


@pytest.fixture
def line(finished, tmp_path):
    """A copy of the finished folder, to be changed. Networks are the same files: replace, don't write in them."""
    def copied(source, target):
        (os.link if Path(source).name == "weights.safetensors" else shutil.copy2)(source, target)

    shutil.copytree(finished, tmp_path / "line", symlinks=True, copy_function=copied)
    return tmp_path / "line"


@pytest.fixture(scope="session")
def pipeline():
    """Runs one command: pipeline("prepare", "--json", folder=...) -> what it printed."""
    return run_pipeline


@pytest.fixture(scope="session")
def trained():
    """When each detector in the work folders of a folder was written, in ns: training again would write it again."""
    return lambda folder: {path: path.stat().st_mtime_ns for path in folder.glob(".work/**/weights.safetensors")}


@pytest.fixture
def steps():
    """The commands that made the finished folder, in order."""
    return STEPS
