import time

import pytest
import torch

from pipeline.engine.stopwatch import Stopwatch


def test_only_what_runs_counts_and_a_reading_begins_anew(monkeypatch):
    clock = iter([0.0, 1.5, 10.0, 12.0, 20.0, 20.25])
    monkeypatch.setattr("pipeline.engine.stopwatch.monotonic", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            pass
    assert watch.read() == 3.5
    with watch.running():
        pass
    assert watch.read() == 0.25
    assert watch.read() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_work_counts_and_not_its_launch():
    watch, device = Stopwatch(torch.device("cuda", 0)), torch.device("cuda", 0)
    large = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    began = time.monotonic()
    with watch.running():
        for _ in range(50):
            large @ large
    launched = time.monotonic() - began
    assert watch.read() > launched
