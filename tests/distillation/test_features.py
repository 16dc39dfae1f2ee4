import numpy as np
import pytest
import torch

from pipeline.distillation.attention import channel, mean_one, spatial
from pipeline.distillation.features import cwd, fgd, hint, pkd, standardise
from pipeline.distillation.peaks import object_shares

SPREAD = torch.ones(6, 1, 1)
#: As of the principal components of a trained teacher: the first ones vary most.
STEEP = (6 * torch.tensor([1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]) * 32 / 63).sqrt().view(-1, 1, 1)
NONE = torch.zeros(4, 1, 8, 8)


def identity(tensor):
    return tensor


def maps(seed, mixed=0.0):
    """(4, 6, 8, 8) standardised, smooth; the two have `mixed` in common."""
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.nn.functional.avg_pool2d(torch.randn(4, 6, 10, 10, generator=generator), 3, 1)
                  for _ in range(2))
    return standardise(mixed * one + (1 - mixed) * other, identity), standardise(one, identity)


FORMS = {
    "hint": lambda student, teacher, _: hint(student, teacher, 1.0),
    "pkd": lambda student, teacher, _: pkd(student, teacher),
    "cwd": cwd,
    "fgd": lambda student, teacher, spread: fgd(student, teacher, spread, NONE),
}
FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@FORM
def test_equal_maps_have_no_distance(form):
    _, teacher = maps(0)
    assert form(teacher, teacher, SPREAD).item() == pytest.approx(0, abs=1e-6)


@FORM
def test_the_distance_falls_as_a_student_learns(form):
    distances = [form(*maps(0, mixed), SPREAD).item() for mixed in (0, 0.3, 0.6, 0.9)]
    assert distances == sorted(distances, reverse=True)


@FORM
@pytest.mark.parametrize("spread", [SPREAD, STEEP], ids=["even", "steep"])
@pytest.mark.parametrize("mixed", [0.0, 0.5])
def test_one_w4_fits_all_forms(form, mixed, spread):
    student, teacher = (spread * side for side in maps(1, mixed))
    leaf = student.clone().requires_grad_()
    ours, plain = (torch.autograd.grad(term, leaf)[0].norm()
                   for term in (form(leaf, teacher, spread), hint(leaf, teacher, 1.0)))
    assert 1 / 4 < ours / plain < 4


@pytest.mark.parametrize(("cells", "side", "least", "most"), [(16, 5, 2, 3.5), (64, 8, 4, 9), (64, 3, 10, 25)])
def test_fgd_pulls_the_harder_the_smaller_its_objects_are(cells, side, least, most):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (standardise(torch.nn.functional.avg_pool2d(
        torch.randn(4, 6, cells + 2, cells + 2, generator=generator), 3, 1), identity) for _ in range(2))
    peaks = torch.zeros(4, 1, 7)
    peaks[:, 0] = torch.tensor([cells // 2 * (cells + 1), 0, 0.9, side, side, 0.5, 0.5])
    shares = object_shares(peaks, 0.1, (cells, cells), (cells, cells))
    leaf = student.clone().requires_grad_()
    ours, plain = (torch.autograd.grad(term, leaf)[0].norm()
                   for term in (fgd(leaf, teacher, SPREAD, shares), hint(leaf, teacher, 1.0)))
    assert least < ours / plain < most


@FORM
def test_a_step_down_the_gradient_lessens_the_distance(form):
    student, teacher = maps(2)
    leaf = student.clone().requires_grad_()
    before = form(leaf, teacher, SPREAD)
    step = torch.autograd.grad(before, leaf)[0]
    assert form(student - 0.1 * step / step.abs().max(), teacher, SPREAD) < before


def test_pkd_is_twice_one_minus_the_correlation():
    student, teacher = maps(3, 0.4)
    pairs = zip(*(side.transpose(0, 1).flatten(1).numpy() for side in (student, teacher)), strict=True)
    r = np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])
    assert pkd(student, teacher).item() == pytest.approx(2 * (1 - r), rel=1e-3)


def test_cwd_sees_where_a_channel_is_active_and_not_how_high_it_lies():
    student, teacher = maps(4)
    assert cwd(student + 5, teacher, SPREAD).item() == pytest.approx(cwd(student, teacher, SPREAD).item(), rel=1e-4)


def test_cwd_looks_at_as_many_cells_of_a_channel_that_varies_much():
    student, teacher = maps(4)
    first = slice(0, 1)
    alone = cwd(student[:, first], teacher[:, first], SPREAD[first])
    wide = cwd(2 * student[:, first], 2 * teacher[:, first], 2 * SPREAD[first])
    assert wide.item() == pytest.approx(4 * alone.item(), rel=1e-4)


def test_hint_counts_what_attention_weighs():
    student, teacher = maps(5)
    weights = torch.zeros(4, 1, 8, 8)
    weights[..., 0, 0] = 64
    expected = (student - teacher)[..., 0, 0].square().mean().item()
    assert hint(student, teacher, weights).item() == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "columns", "share"), [
    (slice(0, 4), slice(0, 4), 1 / 3), (slice(7, 8), slice(7, 8), 1 / 3), (slice(4, 7), slice(8), 24 / 47 / 3)])
def test_fgd_weighs_small_objects_as_large_ones_and_all_objects_twice_the_background(rows, columns, share):
    shares = torch.zeros(4, 1, 8, 8)
    shares[..., :4, :4], shares[..., 7, 7] = 1 / 16, 1
    teacher = torch.ones(4, 6, 8, 8)
    student = teacher.clone()
    student[..., rows, columns] = -1  # as strong as the teacher, so attention stays as it is
    context = (2 * (student < 0)[0, 0].float().mean().item()) ** 2
    assert fgd(student, teacher, SPREAD, shares).item() == pytest.approx(4 * share + context, rel=1e-4)


def test_standardised_channels_have_mean_zero_and_variance_one_over_the_batch():
    features = torch.randn(4, 3, 5, 5) * torch.tensor([1.0, 30.0, 0.0]).view(3, 1, 1) + 8
    flat = standardise(features.bfloat16().float(), identity).transpose(0, 1).flatten(1)
    assert flat.mean(1).tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert flat.var(1, unbiased=False).tolist() == pytest.approx([1, 1, 0], abs=1e-3)


def test_fgd_is_its_three_parts():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([2.0, 1.0, 0.5]).view(-1, 1, 1)
    student, teacher = (spread * standardise(torch.randn(2, 3, 4, 4, generator=generator), lambda x: x)
                        for _ in range(2))
    shares = torch.zeros(2, 1, 4, 4)
    shares[..., 1:3, 1:3] = 1 / 4
    place, channels = spatial(teacher), channel(teacher / spread)
    cells = mean_one(place * torch.where(shares > 0, 2 / 4, 1 / 12))
    focal = (cells * channels * (student - teacher).square()).mean()
    imitated = (spatial(student) - place).abs().mean() + (channel(student / spread) - channels).abs().mean()
    context = (place * (student - teacher)).mean((2, 3)).square().mean()
    expected = (focal + imitated + context).item()
    assert fgd(student, teacher, spread, shares).item() == pytest.approx(expected, rel=1e-4)


def test_cwd_is_the_divergence_of_the_student_from_the_teacher():
    student, teacher = maps(4, 0.5)
    spread = STEEP
    ours, theirs = (side.flatten(2) for side in (student, teacher))
    by_channel = torch.nn.functional.kl_div(ours.log_softmax(2), theirs.softmax(2), reduction="none").sum(2)
    expected = 2 * (spread.flatten() ** 2 * by_channel).mean()
    assert cwd(spread * student, spread * teacher, spread).item() == pytest.approx(expected.item(), rel=1e-5)
    backwards = cwd(spread * teacher, spread * student, spread).item()
    assert backwards != pytest.approx(expected.item(), rel=1e-3)
