"""What a network costs: parameters, multiply-adds and the time of one image."""

import copy
import statistics
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 3


def cost(model: nn.Module, size_hw: tuple[int, int], latency_runs: int) -> dict[str, float | None]:
    """Parameters, multiply-adds and latency of one image, in eval mode; `model` stays as it is.

    Args:
        model: the detector, on the device to time.
        size_hw: (height, width) of the input in pixels.
        latency_runs: timed forward passes after three to warm up; 0 leaves latency out.

    Returns:
        {"params": count, "macs": multiply-adds of convolutions and matrix products (half the
        operations that torch counts), "latency_ms": median of a float32, channels_last forward pass
        with as many threads as torch has, or None}.
    """
    model = copy.deepcopy(model).eval().float().to(memory_format=torch.channels_last)
    device = next(model.parameters()).device
    image = torch.zeros(1, 3, *size_hw, device=device).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(image)
        latency = _latency_ms(model, image, latency_runs) if latency_runs else None
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "macs": counter.get_total_flops() // 2,
        "latency_ms": latency,
    }


def _latency_ms(model: nn.Module, image: torch.Tensor, runs: int) -> float:
    times = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        model(image)
        if image.is_cuda:
            torch.cuda.synchronize(image.device)
        times.append(1000.0 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])
