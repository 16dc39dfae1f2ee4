import pytest
import torch

from pipeline.data import encode_targets
from pipeline.distillation import DistillationLoss, ground_truth_targets
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe

BOXES = torch.tensor([[1.0, 1.0, 4.5, 3.5], [5.0, 4.0, 7.0, 7.0]])
ORACLE = Recipe(oracle=True, weights=[1000.0, 1.0, 0.1, 0.0])


@pytest.fixture
def batch():
    targets = encode_targets(BOXES.numpy(), torch.tensor([2, 0]).numpy(), 3, (8, 8), 4)
    return {name: torch.from_numpy(value)[None] for name, value in targets.items()}


def test_every_object_is_a_peak_of_score_one(batch):
    said = ground_truth_targets(batch)
    assert torch.equal(said.heatmap, batch["heatmap"])
    cell, label, score, w, h, dx, dy = said.peaks[0].unbind(-1)
    assert score.tolist() == [1, 1, 0, 0]
    assert label[:2].tolist() == [2, 0]
    x, y = cell[:2] % 8 + dx[:2], cell[:2].div(8, rounding_mode="floor") + dy[:2]
    boxes = torch.stack([x - w[:2] / 2, y - h[:2] / 2, x + w[:2] / 2, y + h[:2] / 2], 1)
    torch.testing.assert_close(boxes, BOXES)


def test_a_student_that_is_right_has_no_loss_and_another_has(batch):
    grid = torch.zeros(1, 64, 4)
    grid[0, batch["indices"][0, :2]] = torch.cat([batch["wh"], batch["offset"]], 2)[0, :2]
    wh, offset = grid.transpose(1, 2).reshape(1, 4, 8, 8).split(2, 1)
    right = DenseOutputs(batch["heatmap"].logit(1e-7), wh, offset, torch.zeros(1, 4, 8, 8))
    loss, said = DistillationLoss(ORACLE, {}, 4), ground_truth_targets(batch)
    for value in loss([right], said).values():
        assert value.item() == pytest.approx(0, abs=1e-4)
    for value in loss([right._replace(heatmap=-right.heatmap, wh=wh + 1, offset=offset + 1)], said).values():
        assert value > 0.1


def test_a_batch_without_objects_is_taught_too(batch):
    empty = {**batch, "heatmap": torch.zeros_like(batch["heatmap"]), "mask": torch.zeros_like(batch["mask"])}
    answer = DenseOutputs(*(torch.zeros(1, planes, 8, 8) for planes in (3, 2, 2, 4)))
    terms = DistillationLoss(ORACLE, {}, 4)([answer], ground_truth_targets(empty))
    assert terms["kd_heatmap"] > 0
    assert terms["kd_wh"] == terms["kd_offset"] == 0
