import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distillation.heatmap import FORMS, SCALES

FORM = pytest.mark.parametrize("form", FORMS)
PROBABILITY = st.floats(0.001, 0.999)


def gradient(form, logits, teacher):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(FORMS[form](leaf, teacher).mean(), leaf)[0]


@FORM
@given(teacher=PROBABILITY, student=PROBABILITY)
def test_a_student_is_led_towards_its_teacher(form, teacher, student):
    teacher, student = torch.full((1, 1, 1, 1), teacher), torch.full((1, 1, 1, 1), student)
    distance = FORMS[form](student.logit(), teacher).item()
    slope = gradient(form, student.logit(), teacher).item()
    if abs(teacher - student) > 0.01:
        assert distance > 0
        assert slope * (student - teacher).item() > 0
    if teacher == student:
        assert distance == pytest.approx(0, abs=1e-6)


@FORM
def test_a_teacher_that_is_sure_keeps_the_loss_finite(form):
    teacher, logits = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1), torch.tensor([60.0, -60.0]).view(1, 2, 1, 1)
    assert FORMS[form](logits, teacher).isfinite().all()
    assert gradient(form, logits, teacher).isfinite().all()


@FORM
def test_classes_are_summed_cell_by_cell(form):
    logits, teacher = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    parts = [FORMS[form](logits[:, label, None], teacher[:, label, None]) for label in range(3)]
    torch.testing.assert_close(FORMS[form](logits, teacher), torch.stack([part[:, 0] if part.ndim > 3 else part
                                                                         for part in parts]).sum(0))


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"squared"}))
@pytest.mark.parametrize("geometry", [(6, 16, 2), (20, 32, 3)])
def test_one_w_fits_all_forms(form, geometry, objects):
    teacher = objects(*geometry)
    noise = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(1))
    ratios = []
    for learnt in (0.0, 0.25, 0.5, 0.75, 0.9):
        known = learnt * teacher.clamp(3e-3, 1 - 3e-3).logit()
        student = known - (1 - learnt) * 2.19 + noise * (0.5 - learnt / 4)
        ours, squared = (SCALES[name] * gradient(name, student, teacher).norm() for name in (form, "squared"))
        ratios.append(math.log2(ours / squared))
    assert abs(sum(ratios) / len(ratios)) < 0.75
