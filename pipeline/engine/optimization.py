"""Optimizer, schedule, moving average."""

from math import cos, pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.params.schema import Train


def make_optimizer(module: nn.Module, params: "Train", device: torch.device) -> torch.optim.Optimizer:
    """Adam or AdamW; biases and the scales of norms (everything of one dimension) do not decay."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # A fused step unscales its own gradients, which leaves nothing for clipping to unscale.
    fused = device.type in ("cpu", "cuda") and params.precision != "16-mixed"
    optimizer = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return optimizer([group for group in groups if group["params"]], lr=params.lr, fused=fused)


def learning_rate(params: "Train", step: int, steps: int) -> float:
    """The rate of one step out of `steps`: linear warm-up, then cosine to zero or steps by `gamma`."""
    warm = params.warmup * steps
    if step < warm:
        return params.lr * (step + 1) / (warm + 1)
    if params.schedule == "cosine":
        return params.lr * (1 + cos(pi * (step - warm) / (steps - warm))) / 2
    return params.lr * params.gamma ** sum(step >= share * steps for share in params.milestones)


def freeze_batchnorm(module: nn.Module) -> None:
    """Keep every BatchNorm's running statistics, scale and shift as they are; call after `train()`."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eval().requires_grad_(False)


class MovingAverage:
    """The moving average of parameters, warmed up as min(decay, (1 + step) / (10 + step)).

    Buffers (BatchNorm's statistics) are averages already and are not averaged again.

    Args:
        parameters: of the network, on the training device.
        decay: 0 keeps no average.
    """

    def __init__(self, parameters: "Iterable[Tensor]", decay: float) -> None:
        self.decay = decay
        self.parameters = [p for p in parameters if p.requires_grad] if decay else []
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the parameters after step number `step`, counted from 1."""
        if self.values:
            keep = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, self.parameters, 1 - keep)

    def load(self, values: list[Tensor]) -> None:
        """Continue from saved values."""
        _copy(self.values, values)

    def install(self) -> None:
        """Put the average in the place of the parameters."""
        _copy(self.parameters, self.values)


@torch.no_grad()
def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(into, values, strict=True):
        tensor.copy_(value)
