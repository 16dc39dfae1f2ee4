"""`dvc repro`, as `make repro` runs it, on the smallest line: once, killed, continued, and once more."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, finished):
    for name in ("pipeline", "stages", "storage"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(finished / "params.yaml", tmp_path)
    dvc(tmp_path, "config", "--local", "core.no_scm", "true")
    return tmp_path


def environment():
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def dvc(folder, *arguments):
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_a_killed_repro_continues_and_a_second_one_does_nothing(project):
    running = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=project, env=environment(),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    checkpoint = project / ".work/train_teacher"
    while running.poll() is None and not list(checkpoint.rglob("log.csv")):
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (project / "models").exists()

    first = dvc(project, "repro")
    assert "Running stage 'report'" in first
    assert "Running stage 'prepare'" not in first
    assert (project / "report/index.html").exists()
    assert "up to date" in dvc(project, "repro")

    shown = dvc(project, "metrics", "show")
    assert "results/students/mobilenet_v2/plain/seed0/metrics.json" in shown
    assert "map_area" in shown
    assert "html" in dvc(project, "plots", "show")

    params = project / "params.yaml"
    params.write_text(params.read_text().replace("images: 2", "images: 1"))
    changed = dvc(project, "repro")
    assert changed.count("Running stage") == 1
    assert "Running stage 'report'" in changed
    shutil.rmtree(project / ".work")
    assert "up to date" in dvc(project, "repro")


@pytest.mark.slow
def test_what_was_run_by_hand_is_taken_over(project, finished, trained):
    """DVC, which knows nothing of it yet, deletes the outs of a stage and runs it; here a teacher and a student."""
    shutil.copytree(finished, project, symlinks=True, dirs_exist_ok=True)
    weights = {path: path.read_bytes() for path in project.glob("models/**/weights.safetensors")}
    made = trained(project)
    assert len(weights) == len(made) == 4
    said = dvc(project, "repro", "--single-item", "--glob", "train_teacher@resnet18", "distill@*hourglass*")
    assert said.count("Running stage") == said.count(": taken over from .work/") == 2
    assert trained(project) == made
    assert {path: path.read_bytes() for path in project.glob("models/**/weights.safetensors")} == weights
