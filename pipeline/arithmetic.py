"""How numbers are calculated, and constants on a device; unlike `pipeline.devices`, part of what results are."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch


@lru_cache(256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers as a tensor on a device, kept there: bringing them in each step would make a GPU wait for the CPU."""
    with torch.inference_mode(False):  # whoever asks first, it serves training too
        return torch.tensor(values, dtype=dtype, device=device)


@contextmanager
def fast_arithmetic() -> Iterator[None]:
    """Arithmetic as it suits many steps of one shape.

    Numbers under 1e-38 are 0: in Adam's state they slow training several times. The flag is this thread's; the threads
    that share its work have it since `make_fabric`. And cuDNN tries which of its convolutions is fastest.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = True
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        cudnn.benchmark = before


@contextmanager
def exactly() -> Iterator[None]:
    """Inference mode in which float32 is float32: a GPU's convolutions do not round to TF32.

    So what is stored and scored depends on no machine's way of it.
    """
    cudnn = torch.backends.cudnn
    with torch.inference_mode(), cudnn.flags(enabled=cudnn.enabled, benchmark=cudnn.benchmark,
                                             deterministic=cudnn.deterministic, allow_tf32=False):
        yield
