"""What the processes of a run share, and the seeds of each."""

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric
    from torch import Tensor


def mean_over_ranks(fabric: "Fabric") -> "Callable[[Tensor], Tensor]":
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
