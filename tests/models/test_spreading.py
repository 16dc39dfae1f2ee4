"""A detector of some classes among more."""

import pytest
import torch

from pipeline.errors import UserError
from pipeline.models import build_detector, load_detector, load_trained, save_detector
from pipeline.models.spreading import spread

ALL = ("ant", "bee", "cat", "dog")
OWN = ("dog", "bee")


@pytest.mark.parametrize(("name", "arch"), [
    ("resnet18", {"deconv": [8, 8, 8], "head_channels": 8}), ("resnet18", {"deconv": [8, 8, 8], "head_channels": 0}),
    ("hourglass_small", {"dims": [8, 8, 8], "modules": [1, 1, 1], "head_channels": 8, "stacks": 2})])
def test_it_says_of_its_classes_what_it_said_and_nothing_of_others(name, arch, tmp_path):
    torch.manual_seed(0)
    model = build_detector(name, len(OWN), **arch)
    save_detector(model, tmp_path / "weights.safetensors", OWN)
    narrow, wide = (load_detector(tmp_path / "weights.safetensors").eval() for _ in range(2))
    spread(wide, ALL)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for old, new in zip(narrow(images), wide(images), strict=True):
            assert new.heatmap.shape == (2, len(ALL), 16, 16)
            torch.testing.assert_close(new.heatmap[:, [3, 1]], old.heatmap, rtol=1e-5, atol=1e-5)
            assert new.heatmap[:, [0, 2]].sigmoid().max() == 0
            assert all(torch.equal(getattr(new, key), getattr(old, key)) for key in ("wh", "offset", "features"))
    assert (wide.config.num_classes, wide.config.classes, wide.config.known) == (4, ALL, OWN)


def test_planes_of_classes_that_the_data_lacks_are_left_out(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.safetensors"
    save_detector(build_detector("resnet18", len(ALL), deconv=[8, 8, 8], head_channels=8), path, ALL)
    model, chosen = load_detector(path).eval(), load_trained(path, OWN, ALL).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(chosen(images)[-1].heatmap, model(images)[-1].heatmap[:, [3, 1]])
    assert (chosen.config.classes, chosen.config.known) == (OWN, None)
    with pytest.raises(UserError, match=r"weights.safetensors: class 'ant' is unknown. Available: wolf"):
        load_trained(path, ["wolf"], ALL)
