"""log.csv, TensorBoard, progress."""

import sys

import pytest

from pipeline.engine.log import Log, progress


def write(folder, start, steps, *, speaks=True):
    with Log(folder, start, speaks) as log, progress("label", start, 100, speaks) as show:
        for step in steps:
            log.row({"step": step, "lr": 0.5}, {"loss": step / 3}, {"gradient": ""})
            show(step, f"loss {step / 3:.4g}")


def lines(folder):
    return (folder / "log.csv").read_text().splitlines()


def test_rows_stand_under_a_header(tmp_path):
    write(tmp_path, 0, [1, 2])
    assert lines(tmp_path) == ["step,lr,loss,gradient", "1,0.5,0.333333,", "2,0.5,0.666667,"]


def test_rows_of_a_lost_part_go(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [3])
    assert [line.split(",")[0] for line in lines(tmp_path)] == ["step", "1", "2", "3"]


def test_a_fresh_run_starts_an_empty_log(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [5])
    assert [line.split(",")[0] for line in lines(tmp_path)] == ["step", "5"]


@pytest.mark.parametrize("torn", ["", "step,l", "step,lr,loss,gradient\n", "step,lr,loss,gradient\n1,0.5,0.33"])
def test_what_a_kill_cut_short_goes(tmp_path, torn):
    (tmp_path / "log.csv").write_text(torn)
    write(tmp_path, 1, [2])
    assert lines(tmp_path) == ["step,lr,loss,gradient", "2,0.5,0.666667,"]


def test_what_is_logged_may_change_where_a_run_goes_on(tmp_path):
    def write_row(start, step, **rest):
        with Log(tmp_path, start, speaks=True) as log:
            log.row({"step": step}, {"loss": 0.5}, rest)

    write_row(0, 1, seconds=2.0)
    write_row(1, 2, gradient=7.0, seconds=3.0)
    write_row(2, 3, seconds=4.0)
    assert lines(tmp_path) == ["step,loss,seconds,gradient", "1,0.5,2,", "2,0.5,3,7", "3,0.5,4,"]


def test_numbers_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, 0, [10, 20])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (10, pytest.approx(10 / 3)), (20, pytest.approx(20 / 3))]
    assert "gradient" not in events.Tags()["scalars"]


def test_progress_shows_the_losses_on_stderr(tmp_path, capsys):
    write(tmp_path, 0, [99, 100])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("label: ")
    assert "loss 33" in err


def test_a_terminal_gets_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    write(tmp_path, 0, [50, 100])
    assert "100%" in capsys.readouterr().err


def test_other_processes_are_silent(tmp_path, capsys):
    write(tmp_path, 0, [100], speaks=False)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
