"""How several processes end: in one step with the others, or because of them."""

import signal
import time
from pathlib import Path

import pytest

#: Puts words before and after tiny.py's run, in each process.
PROGRAM = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import tiny
folder, rank = Path(sys.argv[1]), int(os.environ.get("LOCAL_RANK", 0))
{before}
try:
    tiny.main(folder, *sys.argv[2:])
finally:
    {after}
"""

SLOW_CHECKPOINT = """
from pipeline.engine import checkpoint
replace = checkpoint._replace
def slowly(*given):
    (folder / "writing").touch()
    time.sleep(1)
    replace(*given)
checkpoint._replace = slowly
"""
NOTE_CHECKPOINT = '(folder / f"left{rank}").write_text(str((folder / "checkpoint.pt").exists()))'


@pytest.fixture
def start_program(start_tiny, tmp_path):
    """Starts tiny.py's run with words before and after it: start_program(*arguments, before="", after="pass")."""
    def start(*arguments, before="", after="pass", **options):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.format(here=str(Path(__file__).parent), before=before, after=after))
        return start_tiny(*arguments, program=program, **options)

    return start


def wait_for(path, process):
    """Waits until there is such a file."""
    while process.poll() is None and not path.exists():
        time.sleep(0.01)


@pytest.mark.slow
def test_no_process_leaves_before_the_checkpoint_is_written(start_program, tmp_path):
    """Fabric kills the main process, which writes it, when another one ends with an error."""
    never = 10**9
    process = start_program(tmp_path, "teacher", f"steps={never}", "devices=2", f"log_every={never}",
                            before=SLOW_CHECKPOINT, after=NOTE_CHECKPOINT)
    wait_for(tmp_path / "log.csv", process)
    process.send_signal(signal.SIGTERM)  # to one: all stop together, long before the next row
    _, said = process.communicate(timeout=120)
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["True", "True"], said
    assert process.returncode == 1, said
    assert not (tmp_path / "checkpoint.pt.partial").exists()
