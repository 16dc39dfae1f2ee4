"""The three heads."""

import pytest
import torch

from pipeline.models.heads import Heads


@pytest.mark.parametrize("hidden", [0, 8])
def test_each_head_answers_as_it_would_by_itself(hidden: int) -> None:
    torch.manual_seed(0)
    heads, features = Heads(5, 4, hidden), torch.randn(2, 5, 6, 7)
    said = heads(features)
    for name in ("heatmap", "wh", "offset"):
        torch.testing.assert_close(getattr(said, name), getattr(heads, name)(features))
    assert said.features is features
    (said.heatmap.sum() + said.wh.sum() + said.offset.sum()).backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())
