"""What the processes of a run share, and the seeds of each."""

import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric
    from torch import Tensor


class _Mean(torch.autograd.Function):
    """The mean over all processes; each process's gradient is the mean of all processes' gradients."""

    @staticmethod
    def forward(context: Any, tensor: "Tensor") -> "Tensor":
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    @staticmethod
    def backward(context: Any, gradient: "Tensor") -> "Tensor":
        return _Mean.forward(context, gradient)


def mean_over_ranks(fabric: "Fabric") -> "Callable[[Tensor], Tensor]":
    """A differentiable function that takes a tensor to its mean over all processes.

    With the normalisers of every loss so averaged, the mean of the processes' gradients, which DDP
    takes, is the gradient of the whole batch; 1/N of it where no process has a centre and the normaliser is 1.
    """
    def mean(tensor: "Tensor") -> "Tensor":
        return tensor if fabric.world_size == 1 else _Mean.apply(tensor)

    return mean


def of_all_ranks(fabric: "Fabric") -> "Callable[[Tensor], Tensor]":
    """A function that takes a tensor of the same shape in all processes to all of them, one after the other."""
    def gather(tensor: "Tensor") -> "Tensor":
        gathered = cast("Tensor", fabric.all_gather(tensor))
        return gathered.flatten(0, 1) if fabric.world_size > 1 else gathered

    return gather


class AnyRank:
    """Whether something is so in any process, without a wait for the device: the answer comes one call later."""

    def __init__(self, fabric: "Fabric") -> None:
        self.device = fabric.device
        self.before: tuple[Tensor, torch.cuda.Event | None] | None = None

    def __call__(self, own: bool) -> bool:
        """Whether it was so in any process at the call before; all processes call it together."""
        said = self.before
        flag = torch.full((1,), float(own), device=self.device)  # filled there: bringing it would wait
        torch.distributed.all_reduce(flag)
        answer, arrived = flag.to("cpu", non_blocking=True), None
        if self.device.type == "cuda":
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(torch.cuda.current_stream(self.device))
        self.before = answer, arrived
        if said is None:
            return False
        answer, arrived = said
        if arrived:
            arrived.synchronize()  # long since
        return bool(answer.item())


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for one step, so that its random numbers (dropout) do not hang on the steps before."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def seed_everything(seed: int) -> None:
    """Seed the generators of torch, numpy and Python: for building a network; `fit` seeds its own steps."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
