"""Fabric on this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import devices
from pipeline.devices import (
    is_out_of_memory,
    launched,
    lone_fabric,
    make_fabric,
    pick_device,
    process_count,
    suited_precision,
)
from pipeline.errors import UserError


def test_one_process_on_the_cpu():
    fabric = make_fabric(1, "auto", accelerator="cpu")
    assert fabric.device == torch.device("cpu")
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)
    assert make_fabric("1", accelerator="cpu").world_size == 1
    assert make_fabric("auto", accelerator="cpu").world_size == 1


@pytest.mark.parametrize(("there", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_the_precision_that_suits_the_processor(monkeypatch, there, precision):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there, raising=False)
    assert suited_precision("cpu") == precision
    assert make_fabric(1, "auto", accelerator="cpu").strategy.precision.precision == precision


@pytest.mark.parametrize(("there", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_the_precision_that_suits_the_gpu(monkeypatch, there, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: there or including_emulation)
    assert suited_precision("cuda") == precision


def test_an_emulated_precision_is_taken_with_a_warning(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False, raising=False)
    with pytest.warns(UserWarning, match="'bf16-mixed': this machine has no bfloat16 arithmetic"):
        fabric = make_fabric(1, "bf16-mixed", accelerator="cpu")
    assert fabric.strategy.precision.precision == "bf16-mixed"


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="'16-mixed' needs a GPU; take 'auto', 'bf16-mixed' or '32-true'"):
        make_fabric(1, "16-mixed", accelerator="cpu")


@pytest.mark.parametrize("devices", ["two", "0", 0, "-1", ""])
def test_a_number_of_devices_that_is_none(devices):
    with pytest.raises(UserError, match=r"--devices .*expected 'auto' or a number"):
        make_fabric(devices, accelerator="cpu")


def test_more_gpus_than_there_are():
    with pytest.raises(UserError, match=r"--devices 1000: this machine has \d+ GPUs"):
        make_fabric(1000, accelerator="cuda")


def test_srun_must_say_how_many_tasks_each_machine_has(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NNODES", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    with pytest.raises(UserError, match=r"one of 4 tasks, but .* without srun .*: write srun before the command"):
        make_fabric("auto", accelerator="cpu")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with pytest.raises(UserError, match=r"srun starts 4 tasks on 2 machines; .*--ntasks-per-node"):
        make_fabric("auto", accelerator="cpu")


def test_devices_are_those_of_the_launcher(monkeypatch):
    for name, value in {"NTASKS": "2", "NTASKS_PER_NODE": "2", "STEP_ID": "0", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert process_count("auto") == process_count("2") == 2
    with pytest.raises(UserError, match=r"--devices 1: torchrun or srun starts 2 on this machine"):
        make_fabric(1, accelerator="cpu")
    fabric = lone_fabric(accelerator="cpu")
    assert (fabric.world_size, fabric.is_global_zero) == (1, True)


def test_the_script_of_a_job_with_one_task_starts_its_own_processes(monkeypatch):
    for name, value in {"NTASKS": "1", "NNODES": "1", "PROCID": "0", "LOCALID": "0", "JOB_NAME": "train"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launched() is None
    assert process_count("auto") == process_count(4) == 4
    monkeypatch.setattr(devices, "_launch", lambda fabric: fabric)  # what it would do is to be seen of its launcher
    fabric = make_fabric(4, accelerator="cpu")
    assert not fabric.strategy.cluster_environment.creates_processes_externally
    assert fabric.strategy.num_processes == 4


def test_processes_that_nobody_here_started_are_refused(monkeypatch):
    assert launched() is None
    monkeypatch.setenv("RANK", "0")
    assert launched() is None
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="RANK is 1, but this process was not started by torchrun"):
        process_count()


MAPS = """
import resource
import torch
from pipeline.devices import make_fabric

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

make_fabric(1, accelerator="cpu")
print(min(new_pages() for _ in range(5)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_a_map_lies_where_one_lay_that_was_freed():
    said = subprocess.run([sys.executable, "-c", MAPS], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 1000  # of 16,384


def test_picked_device_is_the_first_gpu_or_the_cpu():
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("error", "expected"), [
    (torch.OutOfMemoryError("CUDA"), True), (MemoryError(), True),
    (RuntimeError("GET was unable to find an engine to execute this computation"), True),
    (RuntimeError("could not create a primitive descriptor for the matmul primitive"), False),
    (RuntimeError("could not create a primitive"), True), (RuntimeError("std::bad_alloc"), True),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("shapes differ"), False), (OSError("out of memory"), False),
])
def test_memory_that_ran_out_is_known_by_what_libraries_say(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.fixture
def start(tmp_path):
    """Starts a program of two processes that begins with some imports: start(code) -> the main one, a Popen."""
    started = []

    def start(code):
        program = tmp_path / "program.py"
        program.write_text(f"""
import os, time
from pathlib import Path
import torch.distributed
from pipeline.devices import make_fabric
from stages.entry import one_line_errors
folder, rank = Path({str(tmp_path)!r}), os.environ.get("LOCAL_RANK", "0")
{code}
""")
        root = str(Path(__file__).parents[1])
        started.append(subprocess.Popen([sys.executable, program], env={**os.environ, "PYTHONPATH": root},
                                        stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stderr.close()
        process.wait()


@pytest.mark.slow
def test_processes_that_end_well_leave_their_group_before_they_exit(start, tmp_path):
    process = start("""
with one_line_errors():
    fabric = make_fabric(2, accelerator="cpu")
    inside = torch.distributed.is_initialized()
(folder / rank).write_text(f"{inside} {torch.distributed.is_initialized()}")
""")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["True False"] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_processes_end_with_a_main_process_that_a_signal_ends(start, tmp_path):
    process = start("""
make_fabric(2, accelerator="cpu")
(folder / f"new{rank}").write_text(str(os.getpid()))
os.rename(folder / f"new{rank}", folder / rank)
time.sleep(600)
""")
    notes = [tmp_path / rank for rank in "01"]
    wait_until(lambda: process.poll() is not None or all(note.exists() for note in notes), 300)
    other = int(notes[1].read_text())
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    wait_until(lambda: has_ended(other), 60)


@pytest.mark.slow
@pytest.mark.parametrize(("fails", "said_by"), [("True", "all"), ("rank == '1'", "1")])
def test_an_error_is_said_once(start, fails, said_by):
    process = start(f"""
from pipeline.errors import UserError
with one_line_errors():
    fabric = make_fabric(2, accelerator="cpu")
    if {fails}:
        raise UserError("said by {said_by}")
    fabric.barrier()
""")
    _, said = process.communicate(timeout=300)
    assert process.returncode
    assert said.count(f"Error: said by {said_by}\n") == 1, said


@pytest.mark.slow
@pytest.mark.parametrize("failing", "01")
def test_a_process_that_fails_does_not_wait_for_the_others_of_nccl(start, failing):
    """Fabric has a process leave NCCL's group at exit, where it waits for the others; here that is a long sleep."""
    process = start(f"""
import atexit
from pipeline.errors import UserError
atexit.register(time.sleep, 600)
with one_line_errors():
    for _ in range(2):  # as of two teachers
        make_fabric(2, accelerator="cpu")
    torch.distributed.get_backend = lambda: "nccl"
    if rank == "{failing}":
        raise UserError("said by {failing}")
    time.sleep(600)
""")
    _, said = process.communicate(timeout=120)
    assert process.returncode
    assert f"Error: said by {failing}" in said


def test_a_process_whose_main_process_is_gone_does_not_begin(monkeypatch):
    monkeypatch.setenv("PIPELINE_STARTED_BY", str(os.getppid() + 1))
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: SimpleNamespace(prctl=lambda *_: 0))
    with pytest.raises(SystemExit):
        make_fabric(1, accelerator="cpu")


def wait_until(true, seconds):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def has_ended(process):
    """Also where nobody has taken note of it yet."""
    try:
        return "State:\tZ" in Path("/proc", str(process), "status").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(("failed", "patience"), [(False, 10), (True, 1)])
def test_all_started_processes_share_the_time_to_end(monkeypatch, failed, patience):
    now = [0.0]

    class Process:
        alive = True

        def wait(self, timeout):
            now[0] += timeout
            raise subprocess.TimeoutExpired("program", timeout)

        def kill(self):
            self.alive = False

    monkeypatch.setattr(devices, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: failed)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    processes = [Process() for _ in range(3)]
    started = [*processes]
    devices._end(started)
    assert now == [patience]
    assert not any(process.alive for process in processes)
    assert not started  # Fabric's observer finds none that failed
