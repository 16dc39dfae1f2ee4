from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data.loading import Batches
from pipeline.errors import UserError
from pipeline.losses import GroundTruthLoss
from pipeline.outputs import DenseOutputs
from pipeline.params import Recipe
from pipeline.targets import open_targets
from storage import FingerprintMismatch, IncompleteStore, open_store

BOTH = Recipe(teachers=["small", "large"], ensemble="both")


def student(stride=4, channels=6):
    return SimpleNamespace(config=SimpleNamespace(model="tiny", stride=stride, feature_channels=channels))


def answer(batch=4):
    torch.manual_seed(0)
    shapes = {"heatmap": 2, "wh": 2, "offset": 2, "features": 6}
    return [DenseOutputs(**{name: torch.randn(batch, planes, 8, 8) for name, planes in shapes.items()})]


def first_batch(targets):
    return targets.on_device(next(Batches(targets.source(seed=0), batch=4, epochs=1, seed=0).iterate()))


def test_two_teachers_give_merged_heads_and_their_own_features(data, recorded, two_teachers):
    targets = open_targets(two_teachers, BOTH, data, recorded)
    assert targets.heads == "ensemble"
    assert targets.fingerprints == {name: open_store(path).fingerprint for name, path in two_teachers.items()}
    batch = first_batch(targets)
    store, teacher = open_store(two_teachers["ensemble"]), batch["teacher"]
    codes = store.read("heatmap", batch["view"].numpy())
    np.testing.assert_array_equal(teacher.heatmap, store.decode("heatmap", codes))
    assert {name: value.shape[1] for name, value in teacher.features.items()} == {"small": 3, "large": 4}


def test_one_teacher_gives_heads_and_features(data, recorded, two_teachers):
    targets = open_targets(two_teachers, Recipe(teachers=["large"]), data, recorded)
    assert targets.arrays == {"large": ("heatmap", "peaks", "features")}
    assert targets.heads == "large"


def test_features_that_have_no_weight_are_not_read(data, recorded, write_store):
    paths = {"bare": write_store("bare")}
    targets = open_targets(paths, Recipe(teachers=["bare"], weights=[1000.0, 1.0, 0.1, 0.0]), data, recorded)
    assert targets.arrays == {"bare": ("heatmap", "peaks")}
    with pytest.raises(UserError, match="has no features, but the recipe needs it"):
        open_targets(paths, Recipe(teachers=["bare"]), data, recorded)


def test_a_plain_recipe_needs_no_store(data, recorded):
    targets = open_targets({}, Recipe(), data, recorded)
    batch, outputs = first_batch(targets), answer()
    assert "teacher" not in batch
    terms, expected = targets.objective(student())(outputs, batch), GroundTruthLoss()(outputs, batch)
    assert terms.keys() == expected.keys()
    assert all(torch.equal(terms[name], expected[name]) for name in terms)


def test_the_objective_adds_the_teachers_terms(data, recorded, two_teachers):
    targets = open_targets(two_teachers, BOTH, data, recorded)
    objective, batch = targets.objective(student()), first_batch(targets)
    terms = objective(answer(), batch)
    assert set(terms) == {"heatmap", "wh", "offset", "kd_heatmap", "kd_wh", "kd_offset", "kd_features"}
    assert all(torch.isfinite(term) for term in terms.values())
    assert sum(parameter.numel() for parameter in objective.parameters()) == 6 * (3 + 4)  # adapters, without a bias


def test_ground_truth_is_weighted_and_can_be_left_out(data, recorded, two_teachers):
    outputs = answer()
    full, half, none = (
        open_targets(two_teachers, BOTH.model_copy(update={"ground_truth": weight}), data, recorded)
        for weight in (1.0, 0.5, 0.0))
    batch = first_batch(full)
    terms = full.objective(student())(outputs, batch)
    assert torch.equal(half.objective(student())(outputs, batch)["heatmap"], terms["heatmap"] / 2)
    assert "heatmap" not in none.objective(student())(outputs, batch)


def test_counts_are_those_of_all_processes(data, recorded, two_teachers):
    targets = open_targets(two_teachers, BOTH, data, recorded)
    batch = first_batch(targets)
    alone = targets.objective(student())(answer(), batch)
    shared = targets.objective(student(), lambda tensor: 2 * tensor)(answer(), batch)
    assert torch.allclose(shared["heatmap"], alone["heatmap"] / 2)
    assert torch.allclose(shared["kd_wh"], alone["kd_wh"] / 2)


def test_a_recipe_that_teaches_nothing_is_refused(data, recorded, two_teachers):
    zeros = BOTH.model_copy(update={"weights": [0.0, 0.0, 0.0, 0.0], "ground_truth": 0.0})
    for paths, recipe in (({}, Recipe(ground_truth=0.0)), (two_teachers, zeros)):
        with pytest.raises(UserError, match="nothing to learn"):
            open_targets(paths, recipe, data, recorded).objective(student())


def test_unlabelled_images_are_asked_for_in_vain(data, recorded, two_teachers):
    with pytest.raises(UserError, match=r"data 'tiny' has no images without labels: .*data\.unlabelled.*data\.labels"):
        open_targets(two_teachers, BOTH.model_copy(update={"unlabelled": True}), data, recorded)


def test_a_student_of_a_stride_that_targets_cannot_be_brought_to_is_refused(data, recorded):
    with pytest.raises(UserError, match="tiny has stride 16, but students learn at stride 2, 4, 8"):
        open_targets({}, Recipe(), data, recorded).objective(student(stride=16))


@pytest.mark.parametrize(("field", "value"), [
    ("data", "0" * 64), ("views", "0" * 64), ("classes", ["cat", "cow"]), ("size", [64, 64])])
def test_stores_of_something_else_are_refused(data, recorded, write_store, field, value):
    path = write_store("other", features=3, **{field: value})
    with pytest.raises(FingerprintMismatch, match=rf"other\.zarr.*{field} is .*dump-teachers other"):
        open_targets({"other": path}, Recipe(teachers=["other"]), data, recorded)


def test_an_ensemble_of_older_dumps_is_refused(data, recorded, two_teachers, write_store):
    paths = {**two_teachers, "small": write_store("newer", features=3)}
    with pytest.raises(FingerprintMismatch, match=r"members\.small is .*build-ensemble both"):
        open_targets(paths, BOTH, data, recorded)


def test_an_unfinished_store_is_refused(data, recorded, two_teachers):
    (two_teachers["large"] / "manifest.json").unlink()
    with pytest.raises(IncompleteStore, match=r"large\.zarr"):
        open_targets(two_teachers, BOTH, data, recorded)
