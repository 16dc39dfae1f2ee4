"""For all tests."""

import multiprocessing
import os
import subprocess
import sys

# Before torch is imported: pytest runs one process per core, and each needs one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# How long an example takes says more about the machine's other work than about the code.
settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")


@pytest.fixture
def start_method():
    """start_method("fork"): how processes begin, until the test ends."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def grown():
    """grown(code, argument): by how many MB the peak of a process rose while it ran code, and what that printed.

    VmHWM, unlike ru_maxrss, does not begin with the peak of the process that began it.
    """
    def run(code, argument):
        measured = (
            "import sys, storage, storage.hdf5\n"
            "def peak():\n"
            "    with open('/proc/self/status') as file:\n"
            "        return int(file.read().split('VmHWM:')[1].split()[0])\n"
            "before = peak()\n"
            f"{code}\n"
            "print((peak() - before) // 1000)\n")
        found = subprocess.run([sys.executable, "-c", measured, str(argument)], capture_output=True, text=True,
                               check=False)
        assert found.returncode == 0, found.stderr
        *printed, megabytes = found.stdout.splitlines()
        return int(megabytes), "\n".join(printed)

    return run
