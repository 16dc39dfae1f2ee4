"""What a network costs: parameters, multiply-adds and the time of one image."""

import copy
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.arithmetic import exactly
from pipeline.models import Detector

WARM_UP = 3


def cost(model: nn.Module, size_hw: tuple[int, int], latency_runs: int) -> dict[str, float | None]:
    """Parameters, multiply-adds and latency of one image, in eval mode; `model` stays as it is.

    Args:
        model: the detector, on the device to time. Of its stacks' heads the last alone run, as in use.
        size_hw: (height, width) of the input in pixels.
        latency_runs: timed forward passes after three to warm up; 0 leaves latency out.

    Returns:
        {"params": count, "macs": multiply-adds of convolutions and matrix products (half the
        operations that torch counts), "latency_ms": the least of a float32 (no TF32), channels_last
        forward pass with as many threads as torch has, or None}. The least, since what else a machine does only adds.
    """
    model = copy.deepcopy(model).eval().float().to(memory_format=torch.channels_last)
    device = next(model.parameters()).device
    image = torch.zeros(1, 3, *size_hw, device=device).to(memory_format=torch.channels_last)
    run = _as_used(model)
    with exactly():
        with FlopCounterMode(display=False) as counter:
            run(image)
        latency = _latency_ms(run, image, latency_runs) if latency_runs else None
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "latency_ms": latency,
    }


def _as_used(model: nn.Module) -> Callable[[torch.Tensor], object]:
    """The forward pass; of a detector with the heads of its last stack alone, as `inference.predict` has it."""
    if not isinstance(model, Detector):
        return model
    return lambda image: model.heads_of_stacks[-1](model.features(image)[-1])


def _latency_ms(run: Callable[[torch.Tensor], object], image: torch.Tensor, runs: int) -> float:
    times = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        run(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        times.append(1000.0 * (time.perf_counter() - start))
    return min(times[WARM_UP:])
