"""The loop beside one that shares nothing with it."""

import copy

import torch
from torch import nn

from pipeline.devices import make_fabric
from pipeline.engine import Trainee, fit, seed_everything
from pipeline.losses import GroundTruthLoss

RATES = [0.002, 0.004, 0.006, 0.008, 0.01, *[0.001] * 5]


def test_steps_are_those_of_a_loop_by_hand(tiny, tmp_path):
    """With a rate that moves, gradients that are clipped, weights that decay and their average."""
    seed_everything(0)
    model = tiny.TinyDetector(dropout=0.0)
    twin = copy.deepcopy(model)
    params = tiny.params_of(schedule="step", milestones=[0.5], gamma=0.1, warmup=0.4, clip=0.5, weight_decay=0.1,
                            ema=0.4)
    fit([Trainee(model=model, objective=GroundTruthLoss(), params=params, seed=0, folder=tmp_path,
                 fabric=make_fabric(1, "32-true", accelerator="cpu"))], tiny.TinyBatches(len(RATES)))

    average = [parameter.detach().clone() for parameter in twin.parameters()]
    wide, flat = ([each for each in twin.parameters() if (each.ndim > 1) == many] for many in (True, False))
    optimizer = torch.optim.AdamW([{"params": wide, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}])
    for step, (rate, batch) in enumerate(zip(RATES, tiny.TinyBatches(len(RATES)).iterate(), strict=True), 1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        sum(GroundTruthLoss()(twin(batch["image"]), batch).values()).backward()
        assert nn.utils.clip_grad_norm_(twin.parameters(), 0.5) > 0.5
        optimizer.step()
        keep = min(0.4, (1 + step) / (10 + step))
        for mean, parameter in zip(average, twin.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - keep)
    for mean, (name, parameter) in zip(average, model.named_parameters(), strict=True):
        if name != "body.0.bias":  # BatchNorm takes it away: its gradient is rounding, which Adam makes as large as any
            torch.testing.assert_close(parameter.detach(), mean, rtol=1e-3, atol=1e-5)
