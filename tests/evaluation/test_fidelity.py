import numpy as np
import pytest
import torch

from pipeline.distillation import DistillationLoss, TeacherTargets
from pipeline.evaluation.fidelity import BoxFidelity, Fidelity
from pipeline.models import find_peaks
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe

CLASSES, SIDE = 3, 8


def outputs(seed):
    """(student, heatmap, wh, offset) of two views."""
    torch.manual_seed(seed)
    student = DenseOutputs(torch.randn(2, CLASSES, SIDE, SIDE), torch.rand(2, 2, SIDE, SIDE),
                           torch.rand(2, 2, SIDE, SIDE), torch.randn(2, 4, SIDE, SIDE))
    return student, torch.rand(2, CLASSES, SIDE, SIDE), 1 + torch.rand(2, 2, SIDE, SIDE), torch.rand(2, 2, SIDE, SIDE)


def fidelity():
    return Fidelity(DistillationLoss(Recipe(teachers=["a"], weights=[1000.0, 1.0, 0.1, 0.0]), {}, 4), CLASSES)


def targets(heatmap, wh, offset, scale=1.0):
    return TeacherTargets(heatmap * scale, find_peaks(heatmap, wh, offset, 10), {})


BOX = np.array([[1, 1, 3, 3, 0, 0], [4, 4, 6, 6, 1, 0]], np.float32)  # class, difficult
FOUND = np.array([[[1, 1, 3, 3, 0.9, 0], [4, 4, 6, 6, 0.8, 1], [0, 0, 0, 0, 0, 0]]], np.float32)


def test_equal_targets_differ_in_nothing():
    compared, (student, *maps) = fidelity(), outputs(0)
    compared.add_targets(student, targets(*maps), targets(*maps))
    compared.add_boxes([BOX], exact=FOUND, stored=FOUND)
    result = compared.result()
    assert result["loss_difference"] == result["ap_difference"] == 0
    assert result["gradient_cosine"] == pytest.approx(1)
    assert result["ap_exact"] == pytest.approx(100)


def test_the_loss_and_gradient_are_those_of_the_loss():
    compared, (student, *maps) = fidelity(), outputs(1)
    exact, stored = targets(*maps), targets(*maps, scale=0.9)
    losses, gradients = [], []
    for one in (exact, stored):
        leaves = DenseOutputs(*(part.clone().requires_grad_() for part in student))
        total = sum(compared.loss([leaves], one).values())
        total.backward()
        losses.append(total.item())
        gradients.append(torch.cat([leaf.grad.flatten() for leaf in leaves[:3]]))
    compared.add_targets(student, exact, stored)
    compared.add_boxes([BOX], exact=FOUND, stored=FOUND)
    result = compared.result()
    assert result["loss_difference"] == pytest.approx(abs(losses[1] - losses[0]) / losses[0], rel=1e-4)
    assert result["gradient_cosine"] == pytest.approx(torch.cosine_similarity(*gradients, dim=0).item(), abs=1e-5)
    assert result["gradient_cosine"] < 0.9999


def test_a_box_that_the_store_lost_costs_ap():
    compared, (student, *maps) = fidelity(), outputs(2)
    compared.add_targets(student, targets(*maps), targets(*maps))
    lost = FOUND.copy()
    lost[0, 1] = 0
    compared.add_boxes([BOX], exact=FOUND, stored=FOUND)
    compared.add_boxes([BOX], exact=FOUND, stored=lost)
    result = compared.result()
    assert (result["ap_exact"], result["ap_stored"]) == (pytest.approx(100), pytest.approx(75))
    assert result["ap_difference"] == pytest.approx(25)


def test_without_objects_there_is_no_ap():
    compared, (student, *maps) = fidelity(), outputs(3)
    compared.add_targets(student, targets(*maps), targets(*maps))
    compared.add_boxes([np.empty((0, 6), np.float32)], exact=FOUND, stored=FOUND)
    assert compared.result()["ap_difference"] is None


def test_boxes_come_from_the_peaks_and_from_the_maps_in_pixels():
    heatmap, wh, offset = torch.zeros(1, CLASSES, SIDE, SIDE), torch.zeros(1, 2, SIDE, SIDE), torch.zeros(1, 2, 8, 8)
    heatmap[0, 0, 2, 2], heatmap[0, 1, 5, 5] = 0.9, 0.8  # the centres of BOX
    wh[:] = 2
    peaks = find_peaks(heatmap, wh, offset, 10)
    objects, lost = [BOX * [4, 4, 4, 4, 1, 1]], peaks.clone()
    lost[0, 0, 2] = 0
    sound, maps, peak = BoxFidelity(CLASSES), BoxFidelity(CLASSES), BoxFidelity(CLASSES)
    sound.add_maps(peaks, peaks, heatmap, torch.cat([wh, offset], 1), 4, objects)
    maps.add_maps(peaks, peaks, heatmap, torch.cat([wh * 0.5, offset], 1), 4, objects)
    peak.add_maps(peaks, lost, heatmap, torch.cat([wh, offset], 1), 4, objects)
    assert sound.result() == {"ap_exact": 100, "ap_stored": 100, "ap_maps": 100, "ap_difference": 0}
    assert maps.result() == {"ap_exact": 100, "ap_stored": 100, "ap_maps": 0, "ap_difference": 0}
    assert peak.result() == {"ap_exact": 100, "ap_stored": 50, "ap_maps": 100, "ap_difference": 50}
