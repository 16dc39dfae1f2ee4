import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).with_name("tiny.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny():
    """The module tiny.py."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def start_tiny():
    """Starts tiny.py in a process of its own: start_tiny(*arguments, launcher=[...], environment={...}) -> Popen."""
    started = []

    def start(*arguments, launcher=(), environment=None, program=TINY):
        everything = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
        process = subprocess.Popen([sys.executable, *launcher, str(program), *map(str, arguments)], cwd=ROOT,
                                   env=everything, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started itself
        process.stderr.close()
        process.wait()
