"""Teachers in the step say what their stores say."""

import pytest
import torch

from pipeline.billing import live
from pipeline.billing.live import LiveTeachers
from pipeline.billing.rehearsal import rehearse
from pipeline.data import load_data
from pipeline.devices import make_fabric
from pipeline.models import build_detector
from pipeline.params import Recipe, load_params

TEACHERS = ["resnet18", "hourglass_small"]
EXACT = ["dump.encodings={heatmap: exact-fp32, wh_offset: exact-fp32, features: pca-4+exact-fp16}"]
#: Single heads beside the merged ones, with features; heads of each; one teacher's.
RECIPES = {
    "merged": {"teachers": TEACHERS, "ensemble": "both", "attention": ["agreement"]},
    "separate": {"teachers": TEACHERS, "ensemble": "separate"},
    "one": {"teachers": ["hourglass_small"], "weights": [1000.0, 1.0, 0.1, 0.0]},
}


@pytest.fixture(scope="module")
def small(finished, tmp_path_factory):
    """(params, teachers, a rehearsal of six images)."""
    params = load_params(finished / "params.yaml", EXACT)
    data = load_data(finished / "data/demo")
    torch.manual_seed(0)
    teachers = {name: build_detector(params.teachers[name].model, len(data.classes), **params.teachers[name].arch)
                for name in TEACHERS}
    folder = tmp_path_factory.mktemp("rehearsal")
    return params, teachers, rehearse(params, data, "train", 6, teachers, ["both"], folder, make_fabric(1))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [None, (96, 96)])
def test_live_teachers_say_what_the_store_says(small, recipe, size):
    params, teachers, rehearsal = small
    targets = rehearsal.targets(params, Recipe(**RECIPES[recipe]), size)
    raw = targets.source(seed=0).fetch([(index, 0) for index in range(6)])
    batch = {name: torch.from_numpy(array) for name, array in raw.items()}
    asked = LiveTeachers({name: teachers[name] for name in targets.recipe.teachers}, targets, params.dump)
    said, stored = asked(batch)["teacher"], targets.on_device(batch)["teacher"]
    assert set(said.features) == set(stored.features)
    assert set(said.members) == set(stored.members)
    assert said.heatmap.shape == stored.heatmap.shape
    assert said.peaks.shape == stored.peaks.shape
    assert not any(tensor.is_inference() for tensor in (said.heatmap, said.peaks, *said.features.values()))
    if size is None and recipe != "merged":  # the store merges boxes, the step averages cells
        torch.testing.assert_close(said.heatmap, stored.heatmap, atol=1e-5, rtol=0)
        torch.testing.assert_close(said.peaks, stored.peaks, atol=1e-3, rtol=0)
    for name, member in said.members.items() if size is None else ():
        torch.testing.assert_close(member.heatmap, stored.members[name].heatmap, atol=1e-5, rtol=0)
    for name, values in said.features.items() if size is None else ():
        torch.testing.assert_close(values, stored.features[name], atol=1e-2, rtol=1e-2)


def test_teachers_see_a_larger_image_of_a_student_as_bright_as_it_is(small, monkeypatch):
    params, teachers, rehearsal = small
    targets, seen, predict = rehearsal.targets(params, Recipe(**RECIPES["one"]), (96, 96)), [], live.predict
    monkeypatch.setattr(live, "predict", lambda teacher, images, *rest: (
        seen.append(images), predict(teacher, images, *rest))[1])
    raw = targets.source(seed=0).fetch([(0, 0), (1, 0)])
    batch = {name: torch.from_numpy(array) for name, array in raw.items()}
    batch["image"] = torch.randint(0, 256, batch["image"].shape, dtype=torch.uint8)
    LiveTeachers({"hourglass_small": teachers["hourglass_small"]}, targets, params.dump)(batch)
    [images] = seen
    assert images.shape[2:] == (64, 64)
    assert abs(images.float().mean() - batch["image"].float().mean()) < 0.2


def test_the_loss_of_live_teachers_has_gradients(small):
    params, teachers, rehearsal = small
    targets = rehearsal.targets(params, Recipe(**RECIPES["merged"]), None)
    student = build_detector("mobilenet_v2", len(rehearsal.data.classes), deconv=[16, 16, 16])
    raw = targets.source(seed=0).fetch([(0, 0), (1, 0)])
    batch = LiveTeachers(teachers, targets, params.dump)({name: torch.from_numpy(raw[name]) for name in raw})
    objective = targets.objective(student)
    terms = objective(student(batch["image"].float() / 255), batch)
    torch.stack(list(terms.values())).sum().backward()
    assert {"kd_heatmap", "kd_features"} <= set(terms)
    assert all(parameter.grad is None for teacher in teachers.values() for parameter in teacher.parameters())
