"""Arithmetic."""

import pytest
import torch

from pipeline.arithmetic import constant, exactly, fast_arithmetic


def test_denormals_are_flushed_for_a_while():
    tiny = torch.full((4,), 1e-30)
    with fast_arithmetic():
        assert (tiny * 1e-10 == 0).all()
    assert (tiny * 1e-10 != 0).all()


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_tries_its_convolutions_for_a_while(monkeypatch, before):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with fast_arithmetic():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


def test_float32_is_float32_and_without_gradients_for_a_while(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with exactly():
        assert torch.is_inference_mode_enabled()
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert not torch.is_inference_mode_enabled()


def test_a_constant_is_made_once_and_serves_training_too():
    with torch.inference_mode():
        first = constant((1.0, 2.0), torch.device("cpu"))
    assert constant((1.0, 2.0), torch.device("cpu")) is first
    assert (first * torch.ones(2, requires_grad=True)).requires_grad
