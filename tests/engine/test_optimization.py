"""Optimizer, schedule, moving average, BatchNorm."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.engine.optimization import MovingAverage, freeze_batchnorm, learning_rate, make_optimizer
from pipeline.params.schema import Train

CPU = torch.device("cpu")


@given(st.integers(1, 500), st.sampled_from(["step", "cosine"]), st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_never_beyond(steps, schedule, warmup):
    params = Train(lr=0.1, schedule=schedule, warmup=warmup)
    rates = [learning_rate(params, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.1 for rate in rates)
    warm = sum(step < warmup * steps for step in range(steps))
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)


def test_cosine_goes_to_zero_and_is_half_in_the_middle():
    params = Train(lr=1.0, schedule="cosine", warmup=0.0)
    assert learning_rate(params, 0, 1000) == 1
    assert learning_rate(params, 500, 1000) == pytest.approx(0.5)
    assert learning_rate(params, 999, 1000) < 1e-5


def test_steps_come_at_shares_of_the_run():
    """The official VOC schedule: 70 epochs, a tenth after 45 and 60."""
    params = Train(lr=1.25e-4, schedule="step", milestones=[45 / 70, 60 / 70], gamma=0.1, warmup=0.0)
    rates = [learning_rate(params, epoch, 70) for epoch in range(70)]
    assert rates == pytest.approx([1.25e-4] * 45 + [1.25e-5] * 15 + [1.25e-6] * 10)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_biases_and_norms_do_not_decay(name, kind):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    optimizer = make_optimizer(net, Train(optimizer=name, weight_decay=0.3), CPU)
    assert type(optimizer) is kind
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in net.parameters()] == [0.3, 0, 0, 0]


def test_parameters_that_are_frozen_are_left_out():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    freeze_batchnorm(net)
    optimizer = make_optimizer(net, Train(), CPU)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [net[0].weight]


def test_frozen_batchnorm_uses_and_keeps_its_statistics():
    net = nn.Sequential(nn.BatchNorm2d(2)).train()
    freeze_batchnorm(net)
    images = torch.randn(3, 2, 4, 4) * 5 + 2
    assert torch.allclose(net(images), images / (1 + 1e-5) ** 0.5)
    assert net[0].running_mean.tolist() == [0, 0]


def test_the_average_follows_the_warmed_up_formula():
    net = nn.Linear(1, 1, bias=False)
    average = MovingAverage(net.parameters(), 0.5)
    expected = net.weight.item()
    for step, value in enumerate([3.0, -1.0, 8.0, 2.0, 2.5, 9.0, 7.0, 1.0, 4.0, 4.0, 6.0], 1):
        nn.init.constant_(net.weight, value)
        average.update(step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    assert average.values[0].item() == pytest.approx(expected)
    average.install()
    assert net.weight.item() == pytest.approx(expected)


def test_without_decay_there_is_no_average():
    net = nn.Linear(1, 1)
    average = MovingAverage(net.parameters(), 0.0)
    before = net.weight.clone()
    average.update(1)
    average.install()
    assert average.values == []
    assert torch.equal(net.weight, before)
