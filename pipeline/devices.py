"""The devices and processes of this run."""

import atexit
import ctypes
import os
import platform
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from datetime import timedelta
from inspect import signature
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import UserError
from pipeline.inform import is_main_process

Accelerator = Literal["auto", "cpu", "cuda"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

#: Has DistributedDataParallel not copy the first process's buffers to all others in each step; renamed in torch 2.14.
_NAMED = "forward_sync_buffers" if "forward_sync_buffers" in signature(DistributedDataParallel).parameters else (
    "broadcast_buffers")
_OWN_BUFFERS: dict[str, Any] = {_NAMED: False}

#: For the others: one may write a shard, or score, for longer than torch's half hour. Dead ones end the run otherwise.
BARRIER = timedelta(days=7)

#: The environment of a process that Fabric starts has here the one that called it.
_STARTED_BY = "PIPELINE_STARTED_BY"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA's error, Python's, or a plain RuntimeError of torch, oneDNN or a GPU library."""
    said, words = str(error), ("DefaultCPUAllocator", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED",
                               "unable to find an engine to execute")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and (
            any(each in said for each in words)
            or said.partition("\n")[0] == "could not create a primitive"))  # more words say that there is none


def pick_device() -> torch.device:
    """Where one process computes: the first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The GPU, or how many threads of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' * (threads > 1)}"


def machine() -> str:
    """This machine in one line: processor, cores, GPUs, Python and torch."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text(encoding="utf-8").splitlines()
             if line.startswith("model name")] if info.is_file() else []
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    parts = [names[0] if names else platform.processor() or platform.machine(), f"{os.cpu_count() or '?'} cores", *gpus]
    return f"{', '.join(parts)}, Python {platform.python_version()}, torch {torch.__version__}"


def suited_precision(accelerator: Literal["cpu", "cuda"]) -> Literal["32-true", "bf16-mixed"]:
    """What `precision: auto` is: "bf16-mixed" where the device calculates in bfloat16 itself, else "32-true".

    A processor without AVX-512 or its like emulates bfloat16, many times slower than float32
    (docs/decisions/0007-precision.md).
    """
    if accelerator == "cuda":
        there = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        there = built and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16-mixed" if there else "32-true"


def make_fabric(devices: int | str = "auto",
                precision: Precision | Literal["auto"] = "32-true", *, accelerator: Accelerator = "auto") -> Fabric:
    """A launched Fabric: after the call this is one of the processes.

    With several devices and no launcher the program is started again, once per further device; those processes end
    with this one. Under torchrun and srun, on one machine or several, the processes are the launcher's.

    Args:
        devices: processes on this machine; "auto" is as many as there are GPUs (one without) or as were launched.
        precision: Fabric's name; "auto" is `suited_precision`. One that the device emulates is taken, with a warning.
        accelerator: "auto" is "cuda" where there is a GPU, else "cpu".

    Raises:
        UserError: the precision or the number of devices does not suit the machine or the launcher.
    """
    accelerator, resolved = _resolved(accelerator, precision)
    there_are = torch.cuda.device_count() if accelerator == "cuda" else 1
    count, num_nodes = _processes(devices, there_are)
    if accelerator == "cuda" and count > there_are:
        raise UserError(f"--devices {count}: this machine has {there_are} GPUs." if not launched() else
                        f"{count} processes are started on this machine, but each sees {there_are} GPUs; let each see "
                        "all of them.")
    # Every process has its own BatchNorm statistics and the first one's are kept, as in the official code.
    # A recipe may leave out heads (no ground truth, a W with zeros): a static graph lets them go unused.
    strategy = DDPStrategy(static_graph=True, timeout=BARRIER, **_OWN_BUFFERS) if count * num_nodes > 1 else "auto"
    # Fabric takes any process in a SLURM job for one of srun's.
    own = LightningEnvironment() if SLURMEnvironment.detect() and launched() is None else None
    return _launch(Fabric(accelerator=accelerator, devices=count, num_nodes=num_nodes, precision=resolved,
                          strategy=strategy, plugins=own))


def lone_fabric(precision: Precision | Literal["auto"] = "32-true", *, accelerator: Accelerator = "auto") -> Fabric:
    """A launched Fabric of this process alone, whatever started it: for measuring.

    Raises:
        UserError: the precision does not suit the machine.
    """
    accelerator, resolved = _resolved(accelerator, precision)
    return _launch(Fabric(accelerator=accelerator, devices=1, precision=resolved, plugins=LightningEnvironment()))


def _resolved(accelerator: Accelerator,
              precision: Precision | Literal["auto"]) -> tuple[Literal["cpu", "cuda"], Precision]:
    """Both without "auto"."""
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("precision '16-mixed' needs a GPU; take 'auto', 'bf16-mixed' or '32-true'.")
    suited = suited_precision(accelerator)
    if precision == "bf16-mixed" != suited and is_main_process():
        warnings.warn("precision 'bf16-mixed': this machine has no bfloat16 arithmetic and emulates it, many "
                      "times slower than '32-true', which train.precision and dump.precision may be.", stacklevel=3)
    return accelerator, suited if precision == "auto" else precision


def _launch(fabric: Fabric) -> Fabric:
    if main := os.environ.pop(_STARTED_BY, None):
        _end_with(int(main))
    os.environ[_STARTED_BY] = str(os.getpid())  # for those that are started now, and for no other
    joined = torch.distributed.is_initialized()  # by an earlier one
    try:
        fabric.launch()
    finally:
        del os.environ[_STARTED_BY]
        started = getattr(fabric.strategy.launcher, "procs", None) or []
        if started or (torch.distributed.is_initialized() and not joined):
            atexit.register(_end, started)  # runs before what Fabric has registered
    torch.set_flush_denormal(True)
    torch.ones(1 << 20).add_(1)  # starts OpenMP's threads, which inherit the flag and keep it
    torch.set_flush_denormal(False)
    _keep_freed_memory()
    return fabric


def _keep_freed_memory() -> None:
    """Has maps of one step lie where those of the step before lay; else the kernel clears new pages for each of them.

    On a CPU at 512 px an Hourglass-104's pass is a third shorter by it, a ResNet-18's training step a tenth; the dump
    of a ResNet-50 holds 2.6 GB instead of 2.0, however many views it has.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # glibc's alone
        mallopt(-4, 0)  # M_MMAP_MAX of <malloc.h>: no pages of their own for large blocks
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: none go back


def _end_with(main: int) -> None:
    """Has the kernel end this process when `main`, which started it, is gone: a signal ends that without `_end`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <sys/prctl.h>
    if os.getppid() != main:  # since before
        sys.exit(1)


def leave() -> None:
    """Where all processes come to the end of their work: they leave their group together.

    One of NCCL's can only be left by all at once. At exit, the main process would wait for the others, and they for it.
    """
    if torch.distributed.is_initialized():
        nccl = torch.distributed.get_backend() == "nccl"
        torch.distributed.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)
        torch.distributed.destroy_process_group()


def _end(started: "list[subprocess.Popen[bytes]]") -> None:
    """Ends the processes that this one started and, where it failed, this one.

    Then it never came to `leave`, and the others may wait for it and hold their GPUs. To leave NCCL's group is to wait
    for them in turn, and Fabric would have it leave at exit.
    """
    processes = list(started)
    started.clear()  # Fabric's observer has the same list, and would kill this process for one that failed too
    failed = torch.distributed.is_initialized()
    deadline = monotonic() + (1 if failed else 10)
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - monotonic()))
    for process in processes:
        process.kill()
    if failed and torch.distributed.get_backend() == "nccl":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def process_count(devices: int | str = "auto") -> int:
    """How many processes `make_fabric` with these devices makes or is one of, on all machines."""
    count, num_nodes = _processes(devices, max(1, torch.cuda.device_count()))
    return count * num_nodes


def _processes(devices: int | str, there_are: int) -> tuple[int, int]:
    """(processes on this machine, machines)."""
    if devices != "auto" and not (str(devices).isdecimal() and int(devices) > 0):
        raise UserError(f"--devices {devices}: expected 'auto' or a number of processes, at least 1.")
    started = launched()
    if started is None:
        return there_are if devices == "auto" else int(devices), 1
    if devices != "auto" and int(devices) != started[0]:
        raise UserError(f"--devices {devices}: torchrun or srun starts {started[0]} on this machine; leave --devices "
                        f"out, or let it start {devices}.")
    return started


def launched() -> tuple[int, int] | None:
    """(processes on this machine, machines) of torchrun or of srun; None where this process was started by itself.

    Raises:
        UserError: variables of SLURM or of another launcher name processes that neither srun nor torchrun has started,
            or not where they are.
    """
    if torch.distributed.is_torchelastic_launched():
        count = int(os.environ["LOCAL_WORLD_SIZE"])
        return count, int(os.environ["WORLD_SIZE"]) // count
    if SLURMEnvironment.detect():
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        if "SLURM_STEP_ID" not in os.environ:
            if tasks == 1:  # the job's script
                return None
            raise UserError(f"This SLURM job is one of {tasks} tasks, but this process was started without srun and "
                            "would wait for the others for ever: write srun before the command.")
        per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE", "1"))
        if per_node * nodes != tasks:
            raise UserError(f"srun starts {tasks} tasks on {nodes} machines; say how many on each, with "
                            "--ntasks-per-node instead of --ntasks.")
        return per_node, nodes
    if (rank := os.environ.get("RANK", "0")) != "0":  # `is_main_process` would have it deliver nothing
        raise UserError(f"RANK is {rank}, but this process was not started by torchrun: start it so, or unset RANK.")
    return None
