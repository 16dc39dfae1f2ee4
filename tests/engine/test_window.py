import pytest
import torch

from pipeline.engine.window import gradient_norms


def test_gradients_that_half_precision_cannot_hold_are_seen_at_a_scale():
    weight = torch.nn.Parameter(torch.ones(4))
    terms = {"small": (weight.half().float() * 1e-8).sum()}  # its gradient passes through half precision
    assert gradient_norms(terms, [weight]) == {"small": 0.0}
    assert gradient_norms(terms, [weight], 65536.0)["small"] == pytest.approx(2e-8, rel=1e-3)
    assert weight.grad is None
