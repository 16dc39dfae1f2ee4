import time

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.billing import steps
from pipeline.billing.steps import Arm, seconds_of_steps
from pipeline.devices import make_fabric
from pipeline.params import Train


class Source:
    """Eight images; each batch takes a while to load."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 8

    def fetch(self, items):
        time.sleep(self.seconds)
        return {"image": np.ones((len(items), 3, 2, 2), np.float32)}


class Objective(nn.Module):
    slow = 0.0  # seconds of the first step of a block

    def forward(self, outputs, batch):
        if Objective.slow and not self.__dict__.setdefault("steps", 0) % (1 + 2 + 3 + 1):
            time.sleep(Objective.slow)  # so that a worker gets ahead
        self.steps = self.__dict__.get("steps", 0) + 1
        return {"loss": outputs.square().mean()}


@pytest.fixture
def taken():
    """Seconds of steps of arms whose batches load in the given seconds."""
    def run(seconds, **options):
        arms = {name: Arm(nn.Conv2d(3, 1, 1), Source(each), Objective(), dict) for name, each in seconds.items()}
        train = Train(batch=4, precision="32-true", log_every=1, **options)
        return seconds_of_steps(arms, train=train, fabric=make_fabric(1, "32-true", accelerator="cpu"), rounds=2,
                                steps=3, done=lambda: done.append(torch.is_grad_enabled()))

    done = []
    yield run
    assert len(done) == 4


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only where something sleeps."""
    now = [0.0]
    monkeypatch.setattr(steps, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))


def test_loading_is_part_of_a_step(taken, clock, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = taken({"slow": 0.5, "fast": 0.0})
    assert found == {"slow": [0.5, 0.5], "fast": [0.0, 0.0]}
    assert capsys.readouterr().err == ""  # the blocks' own progress
    assert list(tmp_path.iterdir()) == []


def test_a_pause_of_the_machine_does_not_count(taken, clock, monkeypatch):
    fetch, calls = Source.fetch, iter(range(100))

    def paused(source, items):
        time.sleep(0.6 if next(calls) == 6 else 0)  # 2 and 2 of reading everything once, 1 that warms up
        return fetch(source, items)

    monkeypatch.setattr(Source, "fetch", paused)
    assert taken({"one": 0.0, "other": 0.0}) == {"one": [0.0, 0.0], "other": [0.0, 0.0]}


def test_what_is_read_for_the_first_time_is_not_counted(taken, clock, monkeypatch):
    fetch, seen = Source.fetch, set()

    def first(source, items):
        asked = {(id(source), index) for index, _ in items}
        time.sleep(0 if asked <= seen else 0.5)
        seen.update(asked)
        return fetch(source, items)

    monkeypatch.setattr(Source, "__len__", lambda _: 32)  # more than the steps of a block show
    monkeypatch.setattr(Source, "fetch", first)
    assert taken({"one": 0.0, "other": 0.0}) == {"one": [0.0, 0.0], "other": [0.0, 0.0]}


def test_what_workers_made_ahead_is_not_counted(taken, monkeypatch):
    # 0.2 s a batch of one worker, and two are ready when the first step ends: the three measured ones wait.
    monkeypatch.setattr(Objective, "slow", 0.6)
    assert min(taken({"one": 0.2, "other": 0.2}, workers=1)["one"]) > 0.15
