import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.evaluation import voc, voc_ap


def naive_voc_ap(detections, ground_truth, num_classes, iou, metric):
    """One detection at a time, as the challenge describes it."""
    result = []
    for label in range(num_classes):
        objects = [row for row in ground_truth if row[1] == label]
        countable = sum(not row[2] for row in objects)
        if not countable:
            result.append(float("nan"))
            continue
        found = sorted((row for row in detections if row[1] == label), key=lambda row: -row[2])
        taken, tp, fp, curve = set(), 0, 0, []
        for det in found:
            best, best_overlap = None, 0.0
            for number, box in enumerate(objects):
                overlap = naive_iou(det[3:], box[3:]) if box[0] == det[0] else 0.0
                if overlap > best_overlap:
                    best, best_overlap = number, overlap
            if best_overlap > iou:
                if not objects[best][2]:
                    tp, fp = (tp, fp + 1) if best in taken else (tp + 1, fp)
                    taken.add(best)
            else:
                fp += 1
            curve.append((tp / countable, tp / (tp + fp) if tp + fp else 0.0))
        if metric == "07":
            points = np.arange(0, 1.1, 0.1)
            result.append(sum(max((p for r, p in curve if r >= t), default=0.0) for t in points) / 11)
        else:
            area, before = 0.0, 0.0
            for recall, _ in curve:
                area += (recall - before) * max((p for r, p in curve if r >= recall), default=0.0)
                before = recall
            result.append(area)
    return np.array(result)


def naive_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)]
    return width * height / (sum(areas) - width * height)


BOX = st.tuples(*[st.integers(1, 6)] * 2, *[st.integers(0, 6)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
SCORE = st.integers(0, 5).map(lambda s: s / 5)


def rows(third):
    """Rows image, class, `third`, x1, y1, x2, y2."""
    return st.tuples(st.integers(0, 2), st.integers(0, 2), third, BOX).map(lambda t: (*t[:3], *t[3]))


DETECTION, OBJECT = rows(SCORE), rows(st.integers(0, 1))


@given(st.lists(DETECTION, max_size=25), st.lists(OBJECT, max_size=12),
       st.sampled_from([0.3, 0.5, 0.75]), st.sampled_from(["07", "area"]))
@settings(max_examples=300, deadline=None)
def test_equals_a_naive_evaluation(detections, objects, iou, metric):
    ours = voc_ap(detections, objects, 3, iou=iou, metric=metric)
    np.testing.assert_allclose(ours, naive_voc_ap(detections, objects, 3, iou, metric), rtol=1e-12)


@given(st.lists(OBJECT, min_size=1, max_size=12, unique_by=lambda row: (row[0], row[1], row[3:])))
@settings(deadline=None)
def test_the_ground_truth_itself_is_perfect(objects):
    detections = [(*row[:2], 0.5, *row[3:]) for row in objects]
    for metric in ("07", "area"):
        ap = voc_ap(detections, objects, 3, metric=metric)
        assert np.all(np.isnan(ap) | np.isclose(ap, 1.0))


def at(x, score=0.9, image=0, label=0):
    return (image, label, score, x, 1, x + 9, 10)


def test_no_detections_score_zero_and_no_objects_nan():
    assert voc_ap(np.empty((0, 7)), [at(1, 0)], 2).tolist()[0] == 0.0
    assert np.isnan(voc_ap([at(1)], [at(1, 1)], 2)).all()  # only a difficult one
    assert np.isnan(voc_ap([], [], 2)).all()


def test_an_overlap_of_exactly_half_is_no_match():
    # 10 pixels wide both, with the +1 convention; 5 by shift would be 1/3, so widen one instead.
    assert voc_ap([(0, 0, 0.9, 1, 1, 20, 10)], [at(1, 0)], 1)[0] == 0.0
    assert voc_ap([(0, 0, 0.9, 1, 1, 19, 10)], [at(1, 0)], 1)[0] == 1.0


def test_a_second_match_is_a_false_positive_and_difficult_counts_neither_way():
    objects = [at(1, 0), at(40, 0), at(80, 1)]
    twice = [at(1, 0.9), at(1, 0.8), at(40, 0.7)]
    assert voc_ap(twice, objects, 1)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)
    on_difficult = [at(80, 0.95), at(80, 0.9), at(1, 0.9), at(40, 0.7)]
    assert voc_ap(on_difficult, objects, 1)[0] == 1.0


def test_a_detection_does_not_fall_back_to_its_second_best_box():
    near, far = (0, 0, 0, 1, 1, 10, 10), (0, 0, 0, 3, 1, 12, 10)
    ap = voc_ap([at(1, 0.9), at(1, 0.8)], [near, far], 1)
    assert ap[0] == pytest.approx(0.5)  # both take `near`; `far` (IoU 2/3) stays unfound


def test_equal_scores_keep_their_order():
    hit, miss = at(1, 0.5), at(60, 0.5)
    assert voc_ap([hit, miss], [at(1, 0)], 1)[0] == 1.0
    assert voc_ap([miss, hit], [at(1, 0)], 1)[0] == 0.5


def test_the_eleven_points_are_floats():
    objects = [at(1, 0, image) for image in range(10)]
    detections = [at(1, 0.9, image) for image in range(3)]
    # Recall .3 does not reach np.arange(0, 1.1, .1)[3] = .30000000000000004: three points, not four.
    assert voc_ap(detections, objects, 1, metric="07")[0] == pytest.approx(3 / 11)


def test_an_unknown_metric_is_named():
    with pytest.raises(UserError, match=r"'12' is unknown.*07, area"):
        voc_ap([], [], 1, metric="12")


def test_a_detection_is_compared_with_the_boxes_of_its_image_and_class_alone(monkeypatch):
    """All with all would be hours for VOC: 500,000 detections and 25,000 boxes."""
    rng, images, classes, compared = np.random.default_rng(0), 50, 4, []

    def random_rows(n, middle):
        corner = rng.uniform(1, 300, (n, 2))
        return np.column_stack([rng.integers(0, images, n), rng.integers(0, classes, n), middle, corner,
                                corner + rng.uniform(10, 200, (n, 2))])

    detections, objects = random_rows(2000, rng.random(2000)), random_rows(200, rng.random(200) < 0.1)
    iou = voc._iou
    monkeypatch.setattr(voc, "_iou", lambda one, other: compared.append(len(one)) or iou(one, other))
    voc_ap(detections, objects, classes)
    pairs = (detections[:, None, :2] == objects[:, :2]).all(2)
    assert (len(compared), sum(compared)) == (classes, pairs.sum())
