"""Devices, processes and seeds."""

import os
import random
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# Denormals in Adam's state slow training several times. The flag belongs to a thread and OpenMP's
# threads inherit it when they start, so it has to be set before the first parallel operation.
torch.set_flush_denormal(True)


def make_fabric(devices: int | Literal["auto"] = "auto",
                precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true", *,
                num_nodes: int = 1, accelerator: str = "auto") -> Fabric:
    """A launched Fabric: after the call this is one of the processes.

    With several devices and no launcher the program is started again, once per further device.
    Under torchrun the launcher's number of processes holds and `devices` and `num_nodes` do not.

    Args:
        devices: processes on this machine; "auto" is all GPUs, or one process without a GPU.
        precision: Fabric's name.
        num_nodes: machines.
        accelerator: Fabric's name: "auto", "cpu", "cuda".

    Raises:
        UserError: the precision or the number of devices does not suit the machine.
    """
    if torch.distributed.is_torchelastic_launched():
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("train.precision is '16-mixed', which needs a GPU; take 'bf16-mixed' or '32-true'.")
    if isinstance(devices, int) and accelerator == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"--devices {devices}: this machine has {torch.cuda.device_count()} GPUs.")
    if devices == "auto":
        devices = torch.cuda.device_count() if accelerator == "cuda" else 1
    # Every process has its own BatchNorm statistics and the first one's are kept, as in the official code.
    strategy = DDPStrategy(broadcast_buffers=False) if devices * num_nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=num_nodes, precision=precision,
                    strategy=strategy)
    fabric.launch()
    return fabric


def mean_over_ranks(fabric: Fabric) -> "Callable[[Tensor], Tensor]":
    """A function that takes a tensor without gradient to its mean over all processes."""
    def mean(tensor: "Tensor") -> "Tensor":
        if fabric.world_size == 1:
            return tensor
        total = tensor.detach().clone()
        torch.distributed.all_reduce(total)
        return total / fabric.world_size

    return mean


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step, so that its random numbers (dropout) do not hang on the steps before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python: for building a network; `fit` seeds its own steps."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
