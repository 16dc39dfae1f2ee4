"""What several teachers find together."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.ensemble.weighting import maximum, mean
from pipeline.errors import UserError
from pipeline.inference import detect
from pipeline.inference.merged_detection import detect_merged
from pipeline.params import Augmentation, Dump, Ensemble

SIZES = [(40, 30), (31, 64), (64, 64)]
ENSEMBLE = Ensemble(teachers=["a", "b"], threshold=0.01)


def test_a_teacher_merged_with_itself_finds_what_it_finds_alone(detector, make_records):
    records = make_records(SIZES)
    alone = detect(detector, records, size_hw=(32, 32), top_k=8)
    both = merged([detector, detector], records, top_k=8)
    assert both.shape == alone.shape
    np.testing.assert_allclose(both, alone, rtol=1e-4, atol=1e-3)


def test_two_teachers_are_asked_and_their_order_does_not_matter(detector, make_detector, make_records):
    records = make_records(SIZES)
    other = make_detector(1)
    both = merged([detector, other], records)
    np.testing.assert_allclose(both, merged([other, detector], records), rtol=1e-4, atol=1e-3)
    assert not np.array_equal(both, merged([detector, detector], records))
    surest = merged([detector, other], records, rule=maximum)
    best = [max(detect(model, records[:1], size_hw=(32, 32))[0, 2] for model in (detector, other))]
    assert surest[:1, 2] == pytest.approx(best, rel=1e-4)


def test_test_time_augmentation_of_the_dump_counts(detector, make_records):
    records = make_records(SIZES)
    mirrored = merged([detector, detector], records, dump=Dump(precision="32-true", tta=Augmentation(flip=True)))
    assert not np.array_equal(mirrored, merged([detector, detector], records))


def test_teachers_of_other_strides_are_refused_by_name(detector, make_detector, make_records):
    coarse = make_detector(1)
    coarse.config = replace(coarse.config, model="hourglass_coarse", stride=8)
    with pytest.raises(UserError, match=r"strides differ, hourglass_small 4, hourglass_coarse 8"):
        merged([detector, coarse], make_records(SIZES))


def merged(models, records, *, rule=mean, dump=None, top_k=100):
    dump = dump or Dump(precision="32-true")
    return detect_merged(models, records, rule=rule, ensemble=ENSEMBLE, dump=dump, size_hw=(32, 32), batch=2,
                         top_k=top_k)
