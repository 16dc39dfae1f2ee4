import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ensemble import merge_view
from pipeline.ensemble.merging import match_peaks
from pipeline.models.decoding import find_peaks, peaks_to_boxes

CLASSES, H, W, K = 3, 12, 16, 20
IOU, THRESHOLD = 0.5, 0.05
SIGMA = 1.5


def teacher(*objects):
    """The outputs of a teacher that sees (class, score, cx, cy, w, h) objects, in cells.

    Elsewhere its boxes are noise, as a real teacher's are.
    """
    rng = np.random.default_rng(len(objects))
    heatmap = np.full((CLASSES, H, W), 1e-4, np.float32)
    wh_offset = rng.uniform(0, 9, (4, H, W)).astype(np.float32)
    y, x = np.mgrid[:H, :W]
    for label, score, cx, cy, w, h in objects:
        i, j = int(cy), int(cx)
        bump = score * np.exp(-((x - j) ** 2 + (y - i) ** 2) / (2 * SIGMA**2))
        heatmap[label] = np.maximum(heatmap[label], bump)
        wh_offset[:, i, j] = w, h, cx - j, cy - i
    return heatmap, wh_offset, decode(heatmap, wh_offset)


def decode(heatmap, wh_offset):
    maps = torch.from_numpy(heatmap)[None], *torch.from_numpy(wh_offset)[None].split(2, 1)
    return find_peaks(*maps, K)[0].numpy()


def merge(*teachers, iou=IOU, threshold=THRESHOLD):
    return merge_view(*(np.stack(outputs) for outputs in zip(*teachers, strict=True)),
                      iou=iou, threshold=threshold)


def boxes(peaks):
    """{class: [(x1, y1, x2, y2), ...]} by descending score."""
    found = {}
    for *box, score, label in peaks_to_boxes(torch.from_numpy(peaks)[None], W)[0].tolist():
        if score > THRESHOLD:
            found.setdefault(int(label), []).append(tuple(round(value, 3) for value in box))
    return found


def box(cx, cy, w, h):
    return tuple(round(value, 3) for value in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))


def separate(objects):
    """No two centres of a class so near that their bumps, or their boxes' cells, touch."""
    cells = [(int(o[2]), int(o[3])) for o in objects]
    return all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 4 for k, a in enumerate(cells) for b in cells[:k])


SCENE = st.lists(
    st.tuples(st.integers(0, CLASSES - 1), st.floats(0.2, 0.95), st.floats(0, W - 0.01),
              st.floats(0, H - 0.01), st.floats(1, 6), st.floats(1, 6)),
    max_size=5).filter(separate)


@given(SCENE)
@settings(deadline=None)
def test_equal_teachers_say_what_one_says(objects):
    one = teacher(*objects)
    merged = merge(one, one, one)
    np.testing.assert_allclose(merged.heatmap, one[0], rtol=1e-5)
    real = one[2][:, 2] >= THRESHOLD
    np.testing.assert_allclose(merged.peaks[: real.sum()], one[2][real], rtol=1e-4, atol=1e-5)
    assert not merged.peaks[real.sum():].any()
    assert boxes(decode(*merged[:2])) == boxes(one[2])


@given(st.lists(SCENE, min_size=2, max_size=4), st.randoms())
@settings(deadline=None)
def test_the_order_of_teachers_does_not_matter(scenes, random):
    teachers = [teacher(*objects) for objects in scenes]
    merged = merge(*teachers)
    random.shuffle(teachers)
    for ours, theirs in zip(merged, merge(*teachers), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@given(SCENE, SCENE)
@settings(deadline=None)
def test_merged_peaks_are_sound(first, second):
    merged = merge(teacher(*first), teacher(*second))
    score = merged.peaks[:, 2]
    assert np.all(np.diff(score) <= 0)
    cell, label = merged.peaks[score > 0, :2].astype(int).T
    assert np.all((cell >= 0) & (cell < H * W) & (label < CLASSES))
    at_home = merged.heatmap.reshape(CLASSES, -1)[label, cell]
    assert np.all(score[score > 0] >= at_home)
    # Nothing appears that no teacher saw, and nothing that one saw gets lost.
    seen = {o[0] for o in (*first, *second)}
    assert set(label.tolist()) == seen


@pytest.mark.parametrize("scores", [(0.8, 0.8), (0.9, 0.3)])
def test_neighbouring_peaks_fuse_to_the_mean_of_their_absolute_boxes(scores):
    one, other = (0, scores[0], 4.9, 5.5, 6.0, 4.0), (0, scores[1], 5.2, 5.4, 5.0, 5.0)
    merged = merge(teacher(one), teacher(other))
    mean = (np.array(one[2:]) * scores[0] + np.array(other[2:]) * scores[1]) / sum(scores)
    assert boxes(merged.peaks) == {0: [box(*mean)]}
    # Whichever cell is the maximum of the merged heatmap, it decodes to that box.
    assert set(boxes(decode(*merged[:2]))[0]) == {box(*mean)}
    cell, offset = int(merged.peaks[0, 0]), merged.peaks[0, 5:]
    assert (cell % W, cell // W) == (int(mean[0]), int(mean[1]))
    assert np.all((offset >= 0) & (offset < 1))


@given(st.floats(3, 7), st.floats(3, 7), st.floats(-2.5, 2.5), st.floats(-2.5, 2.5),
       st.floats(0.3, 0.95), st.floats(0.3, 0.95))
@settings(deadline=None, max_examples=200)
def test_every_maximum_of_the_merged_heatmap_decodes_to_the_fused_box(cx, cy, dx, dy, a, b):
    one, other = (1, a, cx, cy, 11.0, 11.0), (1, b, cx + dx, cy + dy, 11.0, 11.0)
    merged = merge(teacher(one), teacher(other), iou=0.3)
    assert len(boxes(merged.peaks)[1]) == 1
    decoded = decode(*merged[:2])
    strong = decoded[decoded[:, 2] > THRESHOLD]
    np.testing.assert_allclose(merged.peaks[0, 2], strong[0, 2], rtol=1e-5)
    fused = peaks_to_boxes(torch.from_numpy(merged.peaks[None, :1]), W)[0, :, :4]
    np.testing.assert_allclose(
        peaks_to_boxes(torch.from_numpy(strong[None]), W)[0, :, :4], fused.expand(len(strong), 4), atol=1e-4)


def test_the_score_is_the_mean_where_teachers_agree_on_the_cell():
    merged = merge(teacher((0, 0.9, 5.1, 5.1, 4, 4)), teacher((0, 0.5, 5.8, 5.8, 4, 4)))
    assert merged.peaks[0, 2] == pytest.approx(0.7)


def test_a_single_teachers_peak_keeps_its_box_at_half_its_score():
    seen = (2, 0.8, 5.3, 6.7, 4.5, 3.25)
    merged = merge(teacher(seen), teacher())
    assert boxes(merged.peaks) == {2: [box(*seen[2:])]}
    assert merged.peaks[0, 2] == pytest.approx(0.4, abs=1e-3)
    assert merged.wh_offset[:, 6, 5] == pytest.approx([4.5, 3.25, 0.3, 0.7])


def test_classes_never_mix():
    merged = merge(teacher((0, 0.9, 5.4, 5.4, 4, 4)), teacher((1, 0.6, 5.6, 5.6, 4, 4)))
    assert boxes(merged.peaks) == {0: [box(5.4, 5.4, 4, 4)], 1: [box(5.6, 5.6, 4, 4)]}
    # One cell holds one box: that of the class which is more probable there.
    assert merged.wh_offset[2:, 5, 5] == pytest.approx([0.4, 0.4])


def test_boxes_that_hardly_overlap_stay_apart():
    first, second = (0, 0.9, 4.5, 4.5, 4, 4), (0, 0.9, 7.5, 4.5, 4, 4)
    merged = merge(teacher(first), teacher(second))
    assert sorted(boxes(merged.peaks)[0]) == [box(*first[2:]), box(*second[2:])]


def test_a_teacher_gives_an_object_one_peak_and_the_best_overlap_wins():
    rows = np.array([  # cell, class, score, w, h, dx, dy
        [20, 0, 0.9, 6, 6, 0.5, 0.5], [21, 0, 0.8, 6, 6, 0.5, 0.5], [20, 0, 0.7, 6, 6, 0.6, 0.5],
        [21, 0, 0.6, 6, 6, 0.4, 0.5]], float)
    teachers = np.array([0, 1, 1, 0])
    assert match_peaks(rows, teachers, W, 0.5).tolist() == [0, 1, 0, 1]


def test_peaks_below_the_threshold_take_no_part():
    merged = merge(teacher((0, 0.9, 5.5, 5.5, 4, 4)), teacher((0, 0.1, 6.5, 5.5, 4, 4)), threshold=0.2)
    assert boxes(merged.peaks) == {0: [box(5.5, 5.5, 4, 4)]}
    nothing = merge(teacher(), teacher())
    assert not nothing.peaks.any()


def test_boxes_without_area_match_nothing():
    flat = (0, 0.9, 5.5, 5.5, 0.0, 4.0)
    merged = merge(teacher(flat), teacher(flat))
    assert len(boxes(merged.peaks)[0]) == 2


def test_a_teacher_that_kept_no_box_in_a_cell_does_not_count_there():
    full, sparse = teacher(), teacher()
    full[1][:], sparse[1][:] = 3, 5
    sparse[1][:, 2:], full[1][:, 4:] = 0, 0
    merged = merge(full, sparse)
    assert merged.wh_offset[:, 0] == pytest.approx(4)
    assert merged.wh_offset[:, 3] == pytest.approx(3)
    assert not merged.wh_offset[:, 5:].any()
