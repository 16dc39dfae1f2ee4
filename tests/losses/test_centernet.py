"""CenterNet's losses against slow restatements of their formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.losses import GroundTruthLoss, focal_loss, l1_at
from pipeline.outputs import DenseOutputs


def focal_by_hand(logits, target):
    """Cell by cell, in float64."""
    total, objects = 0.0, 0
    for x, y in zip(np.ravel(logits).tolist(), np.ravel(target).tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-x)), 1e-4), 1 - 1e-4)
        if y == 1:
            total += (1 - p) ** 2 * math.log(p)
            objects += 1
        else:
            total += (1 - y) ** 4 * p**2 * math.log(1 - p)
    return -total / (objects or 1)


def random_maps(seed, objects, spread=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 4, generator=generator) * spread
    target = torch.rand(2, 3, 5, 4, generator=generator) * 0.99
    target.view(-1)[torch.randperm(target.numel(), generator=generator)[:objects]] = 1
    return logits, target


@given(st.integers(0, 10_000), st.integers(0, 30))
def test_focal_is_the_clamped_formula(seed, objects):
    logits, target = random_maps(seed, objects)
    assert focal_loss(logits, target).item() == pytest.approx(focal_by_hand(logits, target), rel=1e-4)


def test_focal_of_known_cells():
    """One centre at p = .5, one background cell at p = .5: -(.25 ln .5 + .25 ln .5)."""
    loss = focal_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]]))
    assert loss.item() == pytest.approx(0.5 * math.log(2))


def test_focal_is_finite_and_still_where_the_clamp_holds():
    logits = torch.tensor([[[[-200.0, 200.0, 0.0]]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[[[1.0, 0.0, 0.3]]]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.flatten()[:2].tolist() == [0, 0]


def test_losses_are_float32_under_autocast():
    logits, target = random_maps(0, 5)
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = focal_loss(half, target)
        distance = l1_at(half, torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, 3))
    assert loss.dtype == distance.dtype == torch.float32
    assert loss == focal_loss(half.float(), target)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
def test_l1_divides_by_the_expanded_mask_of_any_dtype(dtype):
    output = torch.arange(2 * 2 * 2 * 3, dtype=torch.float32).view(2, 2, 2, 3)
    indices = torch.tensor([[5, 0], [2, 2]])
    target = torch.full((2, 2, 2), 1.0)
    mask = torch.tensor([[1, 0], [1, 1]]).to(dtype)
    # image 0: cell 5 holds (5, 11); image 1: cell 2 holds (14, 20), twice
    expected = (4 + 10 + 2 * (13 + 19)) / (6 + 1e-4)
    assert l1_at(output, mask, indices, target).item() == pytest.approx(expected)


def test_l1_without_objects_is_zero():
    output = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = l1_at(output, torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, 2))
    loss.backward()
    assert loss == 0
    assert (output.grad == 0).all()


def random_batch(seed, images=4, objects=3):
    generator = torch.Generator().manual_seed(seed)
    maps = [random_maps(seed + i, i + 1) for i in range(images // 2)]
    logits, target = (torch.cat([pair[k] for pair in maps]) for k in (0, 1))
    batch = {"heatmap": target, "wh": torch.rand(images, objects, 2, generator=generator) * 9,
             "offset": torch.rand(images, objects, 2, generator=generator),
             "indices": torch.randint(0, 20, (images, objects), generator=generator),
             "mask": (torch.rand(images, objects, generator=generator) < 0.6).float()}
    outputs = DenseOutputs(logits, *(torch.randn(images, 2, 5, 4, generator=generator) for _ in range(2)),
                           torch.zeros(images, 1, 5, 4))
    return outputs, batch


def test_ground_truth_loss_weighs_terms_and_averages_stacks():
    first, batch = random_batch(0)
    second, _ = random_batch(50)
    terms = GroundTruthLoss()([first, second], batch)
    assert list(terms) == ["heatmap", "wh", "offset"]

    def mean(loss):
        return ((loss(first) + loss(second)) / 2).item()

    where = batch["mask"], batch["indices"]
    assert terms["heatmap"].item() == pytest.approx(mean(lambda o: focal_loss(o.heatmap, batch["heatmap"])))
    assert terms["wh"].item() == pytest.approx(0.1 * mean(lambda o: l1_at(o.wh, *where, batch["wh"])))
    assert terms["offset"].item() == pytest.approx(mean(lambda o: l1_at(o.offset, *where, batch["offset"])))


def test_images_without_labels_do_not_count_whatever_their_targets_say():
    outputs, batch = random_batch(1)
    labelled = torch.tensor([True, False, True, False])
    batch["heatmap"][1].view(-1)[:3] = 1  # centres where nobody said so
    loss = GroundTruthLoss()
    terms = loss([outputs], {**batch, "labelled": labelled})
    alone = loss([DenseOutputs(*(part[labelled] for part in outputs))], {k: v[labelled] for k, v in batch.items()})
    for name, term in alone.items():
        assert term > 0
        assert terms[name].item() == pytest.approx(term.item())
    every = loss([outputs], {**batch, "labelled": torch.ones(4, dtype=torch.bool)})
    assert {name: term.item() for name, term in every.items()} == {
        name: term.item() for name, term in loss([outputs], batch).items()}


def test_images_without_labels_have_no_gradient_and_a_batch_of_them_no_loss():
    outputs, batch = random_batch(2)
    for labelled in (torch.tensor([False, True, False, True]), torch.zeros(4, dtype=torch.bool)):
        leaves = DenseOutputs(*(part.clone().requires_grad_() for part in outputs))
        terms = GroundTruthLoss()([leaves], {**batch, "labelled": labelled})
        sum(terms.values()).backward()
        for part in (leaves.heatmap, leaves.wh, leaves.offset):
            assert (part.grad[~labelled] == 0).all()
        if labelled.any():
            assert (leaves.heatmap.grad[labelled] != 0).any()
        else:
            assert [term.item() for term in terms.values()] == [0, 0, 0]


def test_with_shared_normalisers_the_mean_of_two_processes_is_the_loss_of_the_whole_batch():
    outputs, batch = random_batch(3)
    whole = GroundTruthLoss()([outputs], batch)
    halves = [slice(0, None, 2), slice(1, None, 2)]
    counts = [[], []]

    def terms(half, mean_over_ranks):
        loss = GroundTruthLoss(mean_over_ranks)
        return loss([DenseOutputs(*(o[half] for o in outputs))], {k: v[half] for k, v in batch.items()})

    for half, seen in zip(halves, counts, strict=True):  # what each process would send
        terms(half, lambda count, seen=seen: seen.append(count) or count)
    assert counts[0] != counts[1]
    means = [[sum(pair) / 2 for pair in zip(*counts, strict=True)] for _ in halves]
    parts = [terms(half, lambda _, left=left: left.pop(0)) for half, left in zip(halves, means, strict=True)]
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name]).item() / 2 == pytest.approx(value.item(), rel=1e-4)
