"""Progress."""

import sys

import pytest

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
