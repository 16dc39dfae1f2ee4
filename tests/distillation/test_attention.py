import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distillation.attention import agreement, channel, heatmap, mean_one, on_grid, spatial


@given(st.integers(0, 100), st.floats(0.1, 5))
def test_attention_has_mean_one_and_follows_strength(seed, scale):
    features = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed)) * scale
    features[0, 1] *= 6
    features[0, :, 2, 2] += 200
    place, channels = spatial(features), channel(features)
    assert place.mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-4)
    assert channels.mean((1, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-4)
    assert channels[0, 1] > channels[0, 0]
    assert place[0].argmax() == 2 * 4 + 2


def test_a_heatmap_attends_to_its_objects_by_any_class():
    seen = torch.zeros(2, 3, 4, 4)
    seen[0, 2, 1, 3] = 1.0
    weights = heatmap(seen)
    assert (weights[0, 0, 1, 3] / weights[0, 0, 0, 0]).item() == pytest.approx(7.389, rel=1e-3)
    assert weights.mean((2, 3)).flatten().tolist() == pytest.approx([1, 1])
    assert (weights[1] == 1).all()


def test_agreement_is_one_where_all_say_the_same_and_least_where_they_contradict():
    said = torch.full((2, 1, 2, 3, 3), 0.3)
    said[:, 0, 1, 0, 0] = torch.tensor([0.0, 1.0])
    said[:, 0, 1, 2, 2] = torch.tensor([0.3, 0.5])
    weights = agreement(said)[0, 0]
    assert weights[0, 0] == 0
    assert (weights[2, 2] / weights[1, 1]).item() == pytest.approx(0.8)
    assert weights.mean().item() == pytest.approx(1)


def test_agreement_with_total_dispute_is_finite():
    assert agreement(torch.stack([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])).isfinite().all()


@pytest.mark.parametrize("grid", [(3, 2), (6, 8), (12, 9)])
def test_weights_keep_mean_one_on_another_grid(grid):
    weights = on_grid(mean_one(torch.rand(2, 1, 6, 8)), grid)
    assert weights.shape == (2, 1, *grid)
    assert weights.mean((1, 2, 3)).tolist() == pytest.approx([1, 1])
