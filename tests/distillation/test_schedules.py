import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distillation.schedules import share_of_weight


@pytest.mark.parametrize(("kind", "expected"), [
    ("constant", [1, 1, 1, 1, 1]), ("warmup", [0, 0.5, 1, 1, 1]), ("decay", [1, 1, 1, 0.5, 0])])
def test_weights_over_a_run(kind, expected):
    shares = [share_of_weight(kind, 0.5, progress) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert shares == pytest.approx(expected)


@given(st.sampled_from(["constant", "warmup", "decay"]), st.floats(0.01, 1), st.floats(0, 1))
def test_a_weight_never_leaves_zero_to_one(kind, share, progress):
    assert 0 <= share_of_weight(kind, share, progress) <= 1
