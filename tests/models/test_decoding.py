"""Peaks and boxes against hand-made maps and a plain reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import decode_detections, find_peaks, peaks_to_boxes


def maps(classes, height, width):
    wh = torch.arange(2 * height * width, dtype=torch.float32).view(1, 2, height, width) / 7
    offset = torch.arange(2 * height * width, dtype=torch.float32).view(1, 2, height, width) / 1000
    return torch.zeros(1, classes, height, width), wh, offset


def reference(heatmap, wh, offset, k):
    """Every cell in turn, in plain Python: [(score, class, cell, ...)] by score, class, cell."""
    classes, height, width = heatmap.shape
    found = []
    for c in range(classes):
        for y in range(height):
            for x in range(width):
                window = heatmap[c, max(0, y - 1):y + 2, max(0, x - 1):x + 2]
                score = heatmap[c, y, x].item()
                if score > 0 and score == window.max().item():
                    found.append([y * width + x, c, score, *wh[:, y, x].tolist(), *offset[:, y, x].tolist()])
    found.sort(key=lambda row: (-row[2], row[1], row[0]))
    return torch.tensor((found + [[0] * 7] * k)[:k])


def test_one_peak_becomes_the_box_around_its_centre():
    heatmap, wh, offset = maps(3, 4, 6)
    heatmap[0, 2, 3, 1] = 0.75
    wh[0, :, 3, 1] = torch.tensor([4.0, 2.0])
    offset[0, :, 3, 1] = torch.tensor([0.25, 0.5])
    peaks = find_peaks(heatmap, wh, offset, 2)
    assert peaks.tolist() == [[[19, 2, 0.75, 4, 2, 0.25, 0.5], [0] * 7]]
    boxes = [[[-0.75, 2.5, 3.25, 4.5, 0.75, 2], [0] * 6]]
    assert peaks_to_boxes(peaks, 6).tolist() == boxes
    assert decode_detections(heatmap, wh, offset, 2).tolist() == boxes


def test_lower_neighbours_are_suppressed_within_their_class_only():
    heatmap, wh, offset = maps(2, 5, 5)
    heatmap[0, 0, 2, 2], heatmap[0, 0, 1, 1], heatmap[0, 1, 1, 2] = 0.9, 0.8, 0.7
    peaks = find_peaks(heatmap, wh, offset, 5)[0]
    assert [(int(r[0]), int(r[1])) for r in peaks if r[2] > 0] == [(12, 0), (7, 1)]


def test_equal_neighbours_are_all_kept_in_the_order_of_class_and_cell():
    heatmap, wh, offset = maps(2, 4, 4)
    heatmap[0, :, 1:3, 1:3] = 0.5
    peaks = find_peaks(heatmap, wh, offset, 6)[0]
    assert [(int(r[1]), int(r[0])) for r in peaks] == [(0, 5), (0, 6), (0, 9), (0, 10), (1, 5), (1, 6)]


def test_corners_count_and_overlapping_boxes_stay():
    heatmap, wh, offset = maps(1, 5, 5)
    heatmap[0, 0, [0, 0, 4, 4, 2], [0, 4, 0, 4, 2]] = torch.tensor([0.5, 0.4, 0.3, 0.2, 0.1])
    wh.fill_(10)
    detections = decode_detections(heatmap, wh, offset)
    assert detections.shape == (1, 100, 6)
    assert detections[0, :6, 4].tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0])
    assert not detections[0, 5:].any()


def test_images_of_a_batch_do_not_meet():
    heatmap, wh, offset = torch.rand(3, 2, 6, 7), torch.rand(3, 2, 6, 7), torch.rand(3, 2, 6, 7)
    together = find_peaks(heatmap, wh, offset, 9)
    for i in range(3):
        assert torch.equal(together[i:i + 1], find_peaks(*(m[i:i + 1] for m in (heatmap, wh, offset)), 9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_in_float32_out(dtype):
    heatmap, wh, offset = (torch.rand(1, 2, 5, 5).to(dtype) for _ in range(3))
    peaks = find_peaks(heatmap, wh, offset, 4)
    assert peaks.dtype == torch.float32
    assert torch.equal(peaks[0], reference(heatmap[0].float(), wh[0].float(), offset[0].float(), 4))


def test_not_a_number_is_no_peak():
    heatmap, wh, offset = maps(1, 8, 8)
    heatmap[0, 0, 1, 1], heatmap[0, 0, 6, 6] = float("nan"), 0.5
    assert find_peaks(heatmap, wh, offset, 2)[0, :, 2].tolist() == [0.5, 0]


def test_memory_format_does_not_matter():
    heatmap, wh, offset = (torch.rand(2, 4, 6, 6) for _ in range(3))
    wh, offset = wh[:, :2], offset[:, :2]
    last = [m.to(memory_format=torch.channels_last) for m in (heatmap, wh, offset)]
    assert torch.equal(find_peaks(heatmap, wh, offset, 20), find_peaks(*last, 20))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 120))
def test_agrees_with_the_plain_reference(data, classes, height, width, k):
    # Few distinct scores, so that ties and plateaus are the rule.
    scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0])
    values = data.draw(st.lists(scores, min_size=classes * height * width, max_size=classes * height * width))
    _, wh, offset = maps(classes, height, width)
    heatmap = torch.tensor(values).view(1, classes, height, width)
    peaks = find_peaks(heatmap, wh, offset, k)
    assert torch.equal(peaks[0], reference(heatmap[0], wh[0], offset[0], k))
    assert torch.equal(decode_detections(heatmap, wh, offset, k), peaks_to_boxes(peaks, width))
