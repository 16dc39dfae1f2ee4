import pytest
import torch

from pipeline.distillation.peaks import at_peaks, object_shares, offset_distance, peak_weights, wh_distance


def peaks_of(*rows):
    """(1, K, 7) of (cell, score, w, h, dx, dy)."""
    return torch.tensor([[(cell, 0, *rest) for cell, *rest in rows]], dtype=torch.float32)


def test_the_strongest_class_stands_for_a_cell():
    peaks = peaks_of((5, 0.9, 1, 1, 0, 0), (5, 0.6, 1, 1, 0, 0), (2, 0.3, 1, 1, 0, 0), (0, 0, 0, 0, 0, 0))
    assert peak_weights(peaks, 16, 0.1).tolist() == [[pytest.approx(0.9), 0, pytest.approx(0.3), 0]]
    assert peak_weights(peaks, 16, 0.3).tolist() == [[pytest.approx(0.9), 0, 0, 0]]  # above, not at


def test_boxes_are_compared_at_the_cells_of_the_peaks():
    peaks = peaks_of((5, 0.9, 4, 2, 0.5, 0.25), (0, 0.9, 0.1, 0.1, 0, 0))
    wh, offset = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    wh[0, :, 1, 1], offset[0, :, 1, 1] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0])
    assert wh_distance(wh, peaks, normalised=False)[0].tolist() == pytest.approx([3, 0.2])
    assert wh_distance(wh, peaks, normalised=True)[0].tolist() == pytest.approx([1, 0.4])  # no side counts below .5
    assert offset_distance(offset, peaks)[0].tolist() == pytest.approx([1.25, 0])
    assert at_peaks(torch.arange(16.0).view(1, 4, 4), peaks).tolist() == [[5, 0]]


def test_a_box_shares_one_among_the_cells_that_it_covers():
    peaks = peaks_of((2 * 8 + 3, 0.9, 4, 2, 0, 0), (6 * 8 + 6, 0.9, 0.2, 0.2, 0.5, 0.5), (40, 0.05, 8, 8, 0, 0))
    shares = object_shares(peaks, 0.1, (8, 8), (8, 8))[0, 0]
    expected = torch.zeros(8, 8)
    expected[1:3, 1:5], expected[6, 6] = 1 / 8, 1
    torch.testing.assert_close(shares, expected)
    coarse = object_shares(peaks, 0.1, (8, 8), (4, 4))[0, 0]
    assert coarse.sum().item() == pytest.approx(2)
    assert coarse[3, 3] == 1


def test_the_smallest_box_owns_a_cell_that_several_cover():
    peaks = peaks_of((3 * 8 + 3, 0.9, 8, 8, 0.5, 0.5), (3 * 8 + 3, 0.2, 1, 1, 0.5, 0.5))
    assert object_shares(peaks, 0.1, (8, 8), (8, 8))[0, 0, 3, 3] == 1


def test_no_peak_covers_nothing_and_a_box_beyond_the_view_is_cut():
    assert not object_shares(peaks_of((0, 0, 0, 0, 0, 0)), 0.1, (4, 4), (4, 4)).any()
    outside = object_shares(peaks_of((15, 0.9, 20, 20, 1, 1)), 0.1, (4, 4), (4, 4))
    torch.testing.assert_close(outside, torch.full((1, 1, 4, 4), 1 / 16))
