import pytest
import torch
from torch import nn

from pipeline.evaluation import cost


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8),
                         nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1))


def test_parameters_and_multiply_adds(model):
    result = cost(model, (16, 32), latency_runs=0)
    convolution = 8 * 16 * (3 * 8 * 9)
    transposed = 8 * 16 * (8 * 4 * 16)
    assert result == {
        "params": 3 * 8 * 9 + 8 + 16 + 8 * 4 * 16 + 4, "macs": convolution + transposed, "latency_ms": None}


def test_latency_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert cost(model, (16, 16), latency_runs=3)["latency_ms"] > 0
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()
