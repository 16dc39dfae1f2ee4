from types import SimpleNamespace

import torch

from pipeline.distillation import TeacherTargets
from pipeline.models import build_detector
from pipeline.params import load_params
from pipeline.verification import loss_against, within_bounds
from storage import ArraySpec


def test_a_recipe_of_features_is_asked_for_its_heads_where_a_store_has_no_more(pytestconfig):
    params = load_params(pytestconfig.rootpath / "params.yaml", [
        "recipes.t={teachers: [resnet50], attend_outputs: true}", "distill.recipes=[plain, t]"])
    spec = SimpleNamespace(identity={"teacher": "resnet50"}, arrays=[ArraySpec("heatmap", (2, 8, 8), "float32")])
    student = build_detector("resnet18", 2, deconv=[16, 16, 16]).eval()
    loss, weights = loss_against(params, SimpleNamespace(spec=spec), student)
    assert weights == [*params.recipes["t"].weights[:3], 0.0]
    peaks = torch.zeros(1, 1, 7)
    peaks[0, 0, 2:5] = 1
    terms = loss(student(torch.zeros(1, 3, 32, 32)), TeacherTargets(torch.rand(1, 2, 8, 8), peaks, {}))
    assert set(terms) == {"kd_heatmap", "kd_wh", "kd_offset"}


def test_the_bounds_of_a_store():
    near = {"loss_difference": 0.005, "gradient_cosine": 0.9995, "ap_difference": 0.05}
    assert within_bounds(near)
    assert within_bounds({**near, "ap_difference": None})
    for worse in ({"loss_difference": 0.01}, {"gradient_cosine": 0.999}, {"ap_difference": 0.1}):
        assert not within_bounds(near | worse)
