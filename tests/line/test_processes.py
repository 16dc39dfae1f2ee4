"""Commands of two processes, as a person starts them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(line):
    """Runs a command in two processes in the folder: two("dump-teachers", ...) -> (exit code, stdout, stderr)."""
    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments, "--devices", "2"], cwd=line, capture_output=True, text=True,
            timeout=600, check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        return done.returncode, done.stdout, done.stderr

    return run


def files(store):
    """What a store holds, but for the manifest, which says when it was made and how long that took."""
    return {path.relative_to(store): path.read_bytes() for path in store.rglob("*")
            if path.is_file() and path.name != "manifest.json"}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="each process takes a GPU of its own, or none has one")
def test_two_processes_dump_the_same_bytes_and_teach_students(line, two):
    store = line / "targets/resnet18.zarr"
    alone = files(store)
    shutil.rmtree(store)
    shutil.rmtree(line / ".work/dump_teachers/resnet18")
    code, _, said = two("dump-teachers", "resnet18")
    assert code == 0, said
    assert files(store) == alone

    code, answer, said = two("distill", "--recipe", "plain", "--recipe", "resnet18", "--seed", "3", "--json")
    assert code == 0, said
    summaries = json.loads(answer)  # one answer
    assert list(summaries) == [f"models/students/mobilenet_v2/{recipe}/seed3" for recipe in ("plain", "resnet18")]
    for folder, summary in summaries.items():
        assert summary["origin"]["processes"] == 2
        assert json.loads((line / folder / "summary.json").read_text()) == summary
        assert (line / folder / "weights.safetensors").stat().st_size > 1000
