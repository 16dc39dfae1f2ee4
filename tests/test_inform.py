"""Progress."""

import sys

import pytest

from pipeline import inform
from pipeline.inform import progress_bar


@pytest.mark.parametrize("terminal", [True, False])
def test_the_main_process_alone_shows_progress(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress_bar("work") as progress:
        progress(3, 3, "views")
    assert "work" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    with progress_bar("work") as progress:
        progress(3, 3, "views")
    assert capsys.readouterr().err == ""


def test_the_time_left_is_that_of_this_runs_speed(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 140.0, 150.0])
    monkeypatch.setattr(inform, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with progress_bar("dump") as progress:
        progress(9000, 10000, "views")  # an earlier run's
        progress(9200, 10000, "views")
        progress(10000, 10000, "views")
    assert capsys.readouterr().err.splitlines() == [
        "dump: 9000/10000 views", "dump: 9200/10000 views, 160 s left", "dump: 10000/10000 views"]
