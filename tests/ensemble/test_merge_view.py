import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ensemble.merging import box_shares, match_peaks, merge_view
from pipeline.ensemble.weighting import class_weights, rule_of
from pipeline.models.decoding import find_peaks, peaks_to_boxes

CLASSES, H, W, K = 3, 12, 16, 20
IOU, THRESHOLD = 0.5, 0.05
SIGMA = 1.5
NAMES = ("cat", "dog", "hen")
KINDS = ("mean", "max", "confidence", "class-ap", "agreement")
every_kind = pytest.mark.parametrize("kind", KINDS)


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


def merge(*teachers, kind="mean", iou=IOU, threshold=THRESHOLD, ap=None, truth=()):
    """Merges; `ap` and the true (class, score, cx, cy, w, h) objects are for the kinds that need them."""
    shares = class_weights(ap or [{}] * len(teachers), NAMES)
    objects = np.array([(*box(*o[2:]), o[0]) for o in truth], float).reshape(-1, 5)
    return merge_view(*(np.stack(outputs) for outputs in zip(*teachers, strict=True)), iou=iou, threshold=threshold,
                      rule=rule_of(kind, shares=shares, truth=objects))


def made_up_ap(count):
    """AP of `count` teachers, far apart, one of them finding no cat."""
    return [{name: 100.0 * number / count * (1 + label) / 3 for label, name in enumerate(NAMES)}
            for number in range(count)]


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


@every_kind
@given(SCENE)
@settings(deadline=None, max_examples=30)
def test_equal_teachers_say_what_one_says(kind, objects):
    one = teacher(*objects)
    merged = merge(one, one, one, kind=kind, ap=made_up_ap(3), truth=objects)
    np.testing.assert_allclose(merged.heatmap, one[0], rtol=1e-5)
    real = one[2][:, 2] >= THRESHOLD
    # As boxes: a centre on a line between cells may be the end of one or the beginning of the other.
    said, expected = (peaks_to_boxes(torch.from_numpy(peaks)[None], W)[0] for peaks in (merged.peaks, one[2]))
    np.testing.assert_allclose(said[: real.sum()], expected[real], rtol=1e-4, atol=1e-5)
    assert not merged.peaks[real.sum():].any()
    assert boxes(decode(*merged[:2])) == boxes(one[2])


@every_kind
@given(st.lists(SCENE, min_size=2, max_size=4), st.randoms())
@settings(deadline=None, max_examples=30)
def test_the_order_of_teachers_does_not_matter(kind, scenes, random):
    teachers = [(teacher(*objects), ap) for objects, ap in zip(scenes, made_up_ap(len(scenes)), strict=True)]

    def merged():
        return merge(*(outputs for outputs, _ in teachers), kind=kind, ap=[ap for _, ap in teachers], truth=scenes[0])

    before = merged()
    random.shuffle(teachers)
    for ours, theirs in zip(before, merged(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@every_kind
@given(SCENE, SCENE)
@settings(deadline=None, max_examples=30)
def test_merged_peaks_are_sound(kind, first, second):
    teachers = teacher(*first), teacher(*second)
    merged = merge(*teachers, kind=kind, ap=[{"cat": 60.0}, {"cat": 20.0, "dog": 5.0}], truth=first)
    maps = np.stack([outputs[0] for outputs in teachers])
    assert np.all((merged.heatmap >= maps.min(0) * (1 - 1e-6)) & (merged.heatmap <= maps.max(0) * (1 + 1e-6)))
    assert np.all(merged.heatmap <= 1)
    score = merged.peaks[:, 2]
    assert np.all(np.diff(score) <= 0)
    cell, label = merged.peaks[score > 0, :2].astype(int).T
    assert np.all((cell >= 0) & (cell < H * W) & (label < CLASSES))
    at_home = merged.heatmap.reshape(CLASSES, -1)[label, cell]
    least, most = (np.float32([fold([o[1] for o in (*first, *second) if o[0] == name]) for name in label])
                   for fold in (min, max))
    assert np.all(score[score > 0] >= np.minimum(at_home, least))
    assert np.all(score[score > 0] <= most)
    # Nothing appears that no teacher saw, and nothing that one saw gets lost.
    seen = {o[0] for o in (*first, *second)}
    assert set(label.tolist()) == seen


def test_a_weak_box_in_the_cell_of_a_strong_one_stays_weak():
    large, small = (0, 0.9, 5.5, 5.5, 6.0, 6.0), (0, 0.2, 5.5, 5.5, 2.0, 2.0)
    merged = merge(teacher(large), teacher(small))
    assert merged.peaks[:2, 2].tolist() == pytest.approx([0.55, 0.2])
    assert merged.peaks[:2, 3].tolist() == [6.0, 2.0]


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


@every_kind
@given(st.floats(3, 7), st.floats(3, 7), st.floats(-2.5, 2.5), st.floats(-2.5, 2.5),
       st.floats(0.3, 0.95), st.floats(0.3, 0.95), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_every_maximum_of_the_merged_heatmap_decodes_to_the_fused_box(kind, cx, cy, dx, dy, a, b, where):
    one, other = (1, a, cx, cy, 11.0, 11.0), (1, b, cx + dx, cy + dy, 11.0, 11.0)
    true = (1, 1.0, cx + where * dx, cy + where * dy, 11.0, 11.0)
    merged = merge(teacher(one), teacher(other), kind=kind, iou=0.3, ap=[{"dog": 70.0}, {"dog": 20.0}], truth=[true])
    assert len(boxes(merged.peaks)[1]) == 1
    decoded = decode(*merged[:2])
    strong = decoded[decoded[:, 2] > THRESHOLD]
    np.testing.assert_allclose(merged.peaks[0, 2], strong[0, 2], rtol=1e-5)
    fused = peaks_to_boxes(torch.from_numpy(merged.peaks[None, :1]), W)[0, :, :4]
    np.testing.assert_allclose(
        peaks_to_boxes(torch.from_numpy(strong[None]), W)[0, :, :4], fused.expand(len(strong), 4), atol=1e-4)


@pytest.mark.parametrize(("kind", "weights"), [
    ("mean", (0.8, 0.4)), ("max", (0.8, 0.4)), ("confidence", (0.8**2, 0.4**2)), ("class-ap", (0.8 * 3, 0.4 * 1))])
def test_a_box_weighs_its_score_and_what_the_rule_trusts_its_teacher(kind, weights):
    one, other = (0, 0.8, 4.9, 5.5, 6.0, 4.0), (0, 0.4, 5.2, 5.4, 5.0, 5.0)
    merged = merge(teacher(one), teacher(other), kind=kind, ap=[{"cat": 60.0}, {"cat": 20.0}])
    fused = np.average([one[2:], other[2:]], axis=0, weights=weights)
    assert boxes(merged.peaks)[0][0] == pytest.approx(box(*fused), abs=2e-3)


def test_the_teacher_that_agrees_with_the_ground_truth_decides():
    right, wrong = (0, 0.8, 5.5, 5.5, 4.0, 4.0), (0, 0.8, 6.5, 5.5, 4.0, 4.0)  # IoU 12 / 20
    merged = merge(teacher(right), teacher(wrong), kind="agreement", truth=[right])
    fused = np.average([right[2:], wrong[2:]], axis=0, weights=[0.8, 0.8 * 0.6])
    assert boxes(merged.peaks)[0][0] == pytest.approx(box(*fused), abs=2e-3)
    elsewhere = merge(teacher(right), teacher(wrong), kind="agreement", truth=[(1, 1, 5.5, 5.5, 4.0, 4.0)])
    assert boxes(elsewhere.peaks) == boxes(merge(teacher(right), teacher(wrong)).peaks)


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


def test_shares_are_what_the_boxes_are_weighed_by():
    alone, one, other = (2, 0.7, 12.5, 9.5, 3, 3), (0, 0.8, 4.9, 5.5, 6.0, 4.0), (0, 0.4, 5.2, 5.4, 5.0, 5.0)
    first, second = teacher(one), teacher(other, alone)
    maps, _, peaks = (np.stack(outputs) for outputs in zip(first, second, strict=True))
    found = {kind: box_shares(maps, peaks, iou=IOU, threshold=THRESHOLD, rule=rule_of(kind))
             for kind in ("mean", "confidence")}
    np.testing.assert_allclose(found["mean"], [[2 / 3, 1 / 3], [0, 1]], rtol=1e-5)
    np.testing.assert_allclose(found["confidence"], [[4 / 5, 1 / 5], [0, 1]], rtol=1e-5)
    merged = boxes(merge(first, second).peaks)
    assert merged[0] == [box(*(np.array(one[2:]) * 2 / 3 + np.array(other[2:]) / 3))]
    assert box_shares(maps, peaks, iou=IOU, threshold=0.9).shape == (0, 2)


def test_off_peaks_the_surer_teacher_counts_more():
    one, other = teacher(), teacher()
    one[0][:], other[0][:] = 0.03, 0.01  # below the threshold: nobody peaks
    one[1][:], other[1][:] = 2, 6
    assert merge((*one[:2], one[2] * 0), (*other[:2], other[2] * 0)).wh_offset == pytest.approx(3, abs=1e-3)


def test_a_peak_comes_before_a_more_probable_object_that_only_spans_its_cell():
    large = [(0, 0.9, x + 0.5, 5.5, 12.0, 8.0) for x in (2, 6)]
    small = (1, 0.2, 3.5, 5.5, 2.0, 2.0)
    merged = merge(teacher(large[0]), teacher(large[1], small), iou=0.4)
    assert len(boxes(merged.peaks)[0]) == 1
    assert merged.heatmap[0, 5, 3] > merged.heatmap[1, 5, 3]
    assert merged.wh_offset[:, 5, 3] == pytest.approx([2, 2, 0.5, 0.5])
