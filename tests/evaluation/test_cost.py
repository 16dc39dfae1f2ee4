import pytest
import torch
from torch import nn

from pipeline.evaluation import cost
from pipeline.models import build_detector


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


def test_of_a_detectors_heads_those_of_the_last_stack_are_counted():
    arch = {"dims": [8, 8], "modules": [1, 1], "stem_channels": 8}
    macs = {(stacks, hidden): cost(build_detector("hourglass_small", 1, **arch, stacks=stacks, head_channels=hidden),
                                   (32, 32), latency_runs=0)["macs"] for stacks in (1, 2) for hidden in (8, 16)}
    assert macs[2, 16] - macs[2, 8] == macs[1, 16] - macs[1, 8] > 0


def test_latency_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert cost(model, (16, 16), latency_runs=3)["latency_ms"] > 0
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous()
