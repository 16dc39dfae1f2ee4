"""Ctrl-C and SIGTERM between two steps."""

import os
import signal
import threading

import pytest

from pipeline.engine.interrupt import Interrupt


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_is_noted_and_the_second_stops_at_once(capsys):
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        assert not interrupt.asked
        ctrl_c()
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    assert "writing a checkpoint" in capsys.readouterr().err


def test_sigterm_is_noted_and_may_come_again(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.asked
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.count("writing a checkpoint") == 1


def test_one_process_speaks_for_all(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Interrupt() as interrupt:
        ctrl_c()
        assert interrupt.asked
    assert capsys.readouterr().err == ""


def test_other_threads_cannot_watch_and_do_without():
    seen = []

    def work():
        with Interrupt() as interrupt:
            seen.append(interrupt.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
