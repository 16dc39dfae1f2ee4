import errno
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.errors import UserError
from stages.entry import one_line_errors, stage_main
from storage import CorruptStore, StoreError


@pytest.mark.parametrize(("error", "words"), [
    (UserError("two\nlines"), "two lines"),
    (StoreError("bad shard"), "bad shard"),
    (CorruptStore("c.0: view 3 fails its checksum"), "checksum; run the command that made this store"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "No space left on device: /x/y"),
    (OSError(errno.ENOSPC, "No space left on device"), f"No space left on device: {Path.cwd()}; free some space"),
    (KeyboardInterrupt(), "run the same command again"),
    (RuntimeError("DefaultCPUAllocator: no room\nframe 1"), "out of memory (DefaultCPUAllocator: no room); lower"),
    (MemoryError(), "out of memory (MemoryError); lower the batch"),
])
def test_what_a_person_can_cause_is_one_line_and_exit_one(error, words, capsys):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise error
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert words in printed


def test_another_process_leaves_it_to_the_main_one_to_say_the_same(monkeypatch, capsys):
    waited = []
    monkeypatch.setattr("stages.entry.sleep", lambda seconds: waited.append((seconds, capsys.readouterr().err)))
    monkeypatch.setenv("LOCAL_RANK", "1")
    for error in (KeyboardInterrupt(), UserError("mine")):
        with pytest.raises(SystemExit) as caught, one_line_errors():
            raise error
        assert caught.value.code == 1
    assert waited == [(5, "")]
    assert capsys.readouterr().err == "Error: mine\n"


def test_pillows_warnings_of_odd_images_are_no_further_lines():
    with one_line_errors():
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
    with pytest.raises(UserWarning), one_line_errors():
        warnings.warn_explicit("something of ours", UserWarning, "views.py", 1, "pipeline.data.views")


def test_a_warning_is_one_line():
    code = "import warnings; from stages.entry import one_line_errors\nwith one_line_errors(): warnings.warn('a,\\nb')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "Warning: a, b\n"


def test_an_interrupted_restart_goes_on_without_restart(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipeline", "train-teacher", "a", "--restart"])
    with pytest.raises(SystemExit), one_line_errors():
        raise KeyboardInterrupt
    assert "run it again without --restart to continue" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
    monkeypatch.setenv("PIPELINE_DEBUG", "1")
    with pytest.raises(UserError), one_line_errors():
        raise UserError("x")


@pytest.mark.parametrize(("given", "words"), [
    ([], "required: student, seed"), (["a", "-1"], "'-1' is no whole number"), (["a", "x"], "'x' is no whole number"),
    (["a", str(2**32)], "is no whole number from 0 to 4294967295"), (["a", "1", "b"], "unrecognized arguments: b"),
])
def test_wrong_arguments_of_a_stage_are_a_usage_error(monkeypatch, capsys, given, words):
    monkeypatch.setattr(sys, "argv", ["stage", *given])
    with pytest.raises(SystemExit) as caught:
        stage_main(lambda *_: pytest.fail("it ran"), "student", "seed")
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
