import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.data import encode_targets
from pipeline.data.loading import Batches, FreshViews
from pipeline.errors import UserError
from pipeline.losses import GroundTruthLoss
from pipeline.models.regridding import mirror_peaks
from pipeline.outputs import DenseOutputs
from pipeline.params import Dump, Ensemble, Recipe, Views
from pipeline.targets import channel_weights, open_targets
from storage import ArraySpec, CorruptStore, FingerprintMismatch, IncompleteStore, manifest, open_store

BOTH = Recipe(teachers=["small", "large"], ensemble="both")
SEPARATE = Recipe(teachers=["small", "large"], ensemble="separate")


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
    assert targets.contents == {name: open_store(path).content for name, path in two_teachers.items()}
    batch = first_batch(targets)
    store, teacher = open_store(two_teachers["ensemble"]), batch["teacher"]
    codes = store.read("heatmap", batch["view"].numpy())
    np.testing.assert_array_equal(teacher.heatmap, store.decode("heatmap", codes))
    assert {name: value.shape[1] for name, value in teacher.features.items()} == {"small": 3, "large": 4}


def test_features_of_some_teachers_alone_are_read_and_learnt_from(data, recorded, two_teachers):
    recipe = BOTH.model_copy(update={"features_of": ["large"]})
    targets = open_targets(two_teachers, recipe, data, recorded)
    assert targets.arrays == {"small": (), "large": ("features",), "ensemble": ("heatmap", "peaks")}
    objective, batch = targets.objective(student()), first_batch(targets)
    assert set(batch["teacher"].features) == {"large"}
    assert torch.isfinite(objective(answer(), batch)["kd_features"])
    assert sum(parameter.numel() for parameter in objective.parameters()) == 6 * 4


@pytest.mark.parametrize(("changes", "read"), [
    ({}, True), ({"features": "pkd"}, False), ({"features": "pkd", "attend_outputs": True}, True),
    ({"weights": [1000.0, 1.0, 0.1, 0.0]}, False),
])
def test_heads_of_each_teacher_are_read_where_agreement_weighs_something(data, recorded, two_teachers, changes, read):
    recipe = BOTH.model_copy(update={"attention": ["agreement"], **changes})
    targets = open_targets(two_teachers, recipe, data, recorded)
    assert {"heatmap" in targets.arrays[name] for name in ("small", "large")} == {read}
    objective, batch = targets.objective(student()), first_batch(targets)
    assert all(torch.isfinite(term) for term in objective(answer(), batch).values())


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


def test_separate_teachers_need_no_merged_store(data, recorded, two_teachers):
    del two_teachers["ensemble"]
    targets = open_targets(two_teachers, SEPARATE, data, recorded)
    assert targets.arrays == dict.fromkeys(("small", "large"), ("heatmap", "peaks", "features"))
    batch = first_batch(targets)
    rows, teacher = batch["view"].numpy(), batch["teacher"]
    assert list(teacher.members) == ["small", "large"]
    for name, member in teacher.members.items():
        store = open_store(two_teachers[name])
        np.testing.assert_array_equal(member.heatmap, store.decode("heatmap", store.read("heatmap", rows)))
    torch.testing.assert_close(teacher.heatmap, sum(one.heatmap for one in teacher.members.values()) / 2)
    assert teacher.peaks.shape == (4, 10, 7)
    terms = targets.objective(student())(answer(), batch)
    assert all(torch.isfinite(term) for term in terms.values())


def test_agreement_reads_the_heads_of_each_teacher_beside_the_merged_ones(data, recorded, two_teachers):
    recipe = BOTH.model_copy(update={"attention": ["agreement"], "attend_outputs": True,
                                     "weights": [1000.0, 1.0, 0.1, 0.0]})
    targets = open_targets(two_teachers, recipe, data, recorded)
    assert targets.arrays == dict.fromkeys(("small", "large", "ensemble"), ("heatmap", "peaks"))
    teacher = first_batch(targets)["teacher"]
    assert list(teacher.members) == ["small", "large"]
    store = open_store(two_teachers["ensemble"])
    rows = first_batch(targets)["view"].numpy()
    np.testing.assert_array_equal(teacher.heatmap, store.decode("heatmap", store.read("heatmap", rows)))


def say_of_flips(path, measured):
    """Writes into a store's manifest what was measured of mirrored views."""
    content = manifest.parse((path / "manifest.json").read_bytes())
    content["created"]["flip"] = measured
    (path / "manifest.json").write_bytes(manifest.render(content))


def test_a_mirrored_view_is_mirrored_with_all_that_is_said_of_it(data, recorded, two_teachers):
    for path in two_teachers.values():
        say_of_flips(path, {"views": 16, "error": 0.1, "features": 0.1})
    items = [(index, epoch) for index in range(6) for epoch in range(3)]

    def seen(flip):
        targets = open_targets(two_teachers, SEPARATE, data, recorded, flip=flip)
        batch = targets.source(seed=0).fetch(items)
        return targets.on_device({name: torch.from_numpy(values) for name, values in batch.items()})

    plain, turned = seen(None), seen(1.0)
    mirrored = turned["mirrored"]
    assert mirrored.any()
    assert not mirrored.all()

    def flipped(values):
        return torch.where(mirrored.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)

    assert torch.equal(turned["image"], flipped(plain["image"]))
    one, other = plain["teacher"], turned["teacher"]
    for name, values in one.features.items():
        assert torch.equal(other.features[name], flipped(values))
    for before, after in ((one, other), *((one.members[name], other.members[name]) for name in ("small", "large"))):
        assert torch.equal(after.heatmap, flipped(before.heatmap))
        peaks = torch.where(mirrored.view(-1, 1, 1), mirror_peaks(before.peaks, 8), before.peaks)
        torch.testing.assert_close(after.peaks, peaks)
    for place, row in enumerate(turned["view"].tolist()):
        boxes = recorded.boxes(row).copy()
        if mirrored[place]:
            boxes[:, [0, 2]] = 32 - boxes[:, [2, 0]]
        for name, array in encode_targets(boxes[:, :4] / 4, boxes[:, 4], 2, (8, 8), 5).items():
            np.testing.assert_array_equal(turned[name][place], array)


@pytest.mark.parametrize(("size", "flip"), [((64, 64), None), (None, 1.0)])
def test_members_are_brought_to_the_students_grid_and_mirrored_as_the_target_is(
        data, recorded, two_teachers, size, flip):
    for path in two_teachers.values():
        say_of_flips(path, {"views": 16, "error": 0.1, "features": 0.1})
    targets = open_targets(two_teachers, SEPARATE, data, recorded, size=size, flip=flip)
    batch = first_batch(targets)
    single = open_targets(two_teachers, Recipe(teachers=["large"]), data, recorded, size=size, flip=flip)
    member, alone = batch["teacher"].members["large"], first_batch(single)["teacher"]
    assert member.heatmap.shape[2:] == batch["heatmap"].shape[2:]
    assert torch.equal(member.heatmap, alone.heatmap)
    assert torch.equal(member.peaks, alone.peaks)
    assert bool(flip) == ("mirrored" in batch and bool(batch["mirrored"].any()))


@pytest.mark.parametrize(("size", "flip"), [(None, None), ((64, 64), None), (None, 1.0)])
def test_a_student_is_told_which_classes_a_teacher_knows(data, recorded, write_store, size, flip):
    path = write_store("dogs", known=["dog"])
    say_of_flips(path, {"views": 16, "error": 0.1})
    recipe = Recipe(teachers=["dogs"], weights=[1000.0, 1.0, 0.1, 0.0])
    targets = open_targets({"dogs": path}, recipe, data, recorded, size=size, flip=flip)
    batch = first_batch(targets)
    assert batch["teacher"].known.tolist() == [1]
    logits = torch.randn(batch["heatmap"].shape, requires_grad=True)
    said = [answer()[0]._replace(heatmap=logits, wh=torch.randn_like(logits), offset=torch.randn_like(logits))]
    term = targets.objective(student())(said, batch)["kd_heatmap"]
    assert torch.autograd.grad(term, logits)[0].abs().amax((0, 2, 3)).gt(0).tolist() == [False, True]


@pytest.mark.parametrize("known", [["zebra"], "dog", [["dog"]]])
def test_a_store_that_knows_no_such_class_is_named(data, recorded, write_store, known):
    recipe = Recipe(teachers=["dogs"], weights=[1000.0, 1.0, 0.1, 0.0])
    with pytest.raises(CorruptStore, match=r"'known' is .*, expected some of the classes cat, dog"):
        open_targets({"dogs": write_store("dogs", known=known)}, recipe, data, recorded)


def test_recipes_that_take_not_knowing_for_not_seeing_are_refused(data, recorded, write_store):
    paths = {"cats": write_store("cats", known=["cat"]), "all": write_store("all")}
    heads = {"weights": [1000.0, 1.0, 0.1, 0.0]}
    apart = Recipe(teachers=["cats", "all"], ensemble="separate", attention=["agreement"], **heads)
    with pytest.raises(UserError, match="attention 'agreement' compares teachers, but 'cats' knows cat alone"):
        open_targets(paths, apart, data, recorded)
    with pytest.raises(UserError, match="None of the teachers knows dog, and the recipe has ground_truth 0"):
        open_targets(paths, Recipe(teachers=["cats"], ground_truth=0.0, **heads), data, recorded)
    apart = Recipe(teachers=["cats", "all"], ensemble="separate", ground_truth=0.0, **heads)
    assert open_targets(paths, apart, data, recorded).recipe.taught


@pytest.mark.parametrize(("measured", "w4", "words"), [
    (None, 0.0, "does not say how large the error of its maps"),
    ({"views": 16, "error": 0.3}, 0.0, "its maps err by 0.3 under a mirror, more than the 0.2"),
    ({"views": 16, "error": 0.1}, 0.0, None),
    ({"views": 16, "error": 0.1}, 100.0, "does not say how large the error of its features"),
    ({"views": 16, "error": 0.1, "features": 0.5}, 100.0, "its features err by 0.5 under a mirror"),
    ({"views": 16, "error": 0.1, "features": 0.5}, 0.0, None),
    ({"views": 16, "error": 0.1, "features": 0.2}, 100.0, None)])
def test_views_are_mirrored_where_params_allow_the_error_of_what_is_read(data, recorded, write_store, measured, w4,
                                                                         words):
    path = write_store("mine", features=3)
    say_of_flips(path, measured)
    recipe = Recipe(teachers=["mine"], weights=[1000.0, 1.0, 0.1, w4])
    assert not open_targets({"mine": path}, recipe, data, recorded).flip
    if words is None:
        assert open_targets({"mine": path}, recipe, data, recorded, flip=0.2).flip
    else:
        with pytest.raises(UserError, match=words):
            open_targets({"mine": path}, recipe, data, recorded, flip=0.2)


def test_spatial_attention_to_the_outputs_reads_features_that_have_no_weight(data, recorded, two_teachers, write_store):
    recipe = Recipe(teachers=["large"], weights=[1000.0, 1.0, 0.1, 0.0], attention=["spatial"], attend_outputs=True)
    targets = open_targets(two_teachers, recipe, data, recorded)
    assert targets.arrays == {"large": ("heatmap", "peaks", "features")}
    objective = targets.objective(student())
    assert not list(objective.parameters())
    assert "kd_features" not in objective(answer(), first_batch(targets))
    bare = recipe.model_copy(update={"teachers": ["bare"]})
    with pytest.raises(UserError, match=r"has no features.*attend_outputs: false"):
        open_targets({"bare": write_store("bare")}, bare, data, recorded)


def test_w_of_zeros_reads_nothing_and_is_plain(data, recorded, two_teachers):
    targets = open_targets(two_teachers, BOTH.model_copy(update={"weights": [0.0] * 4}), data, recorded)
    assert not any(targets.arrays.values())
    assert not targets.recipe.taught
    batch = first_batch(targets)
    assert "teacher" not in batch
    assert set(targets.objective(student())(answer(), batch)) == {"heatmap", "wh", "offset"}


def test_an_oracle_learns_from_rendered_ground_truth_without_a_store(data, recorded):
    oracle = Recipe(oracle=True, weights=[1000.0, 1.0, 0.1, 0.0])
    targets = open_targets({}, oracle, data, recorded)
    assert targets.contents == {}
    terms = targets.objective(student())(answer(), first_batch(targets))
    assert set(terms) == {"heatmap", "wh", "offset", "kd_heatmap", "kd_wh", "kd_offset"}


def test_fresh_views_are_those_that_a_teacher_would_see_at_the_students_size(data):
    views = Views(size=(32, 32), max_objects=5)
    targets = open_targets({}, Recipe(views="fresh"), data, views, size=(64, 64))
    ours = targets.source(seed=3).fetch([(0, 0), (0, 1)])
    theirs = FreshViews(data.records("train"), 2, views.model_copy(update={"size": (64, 64)}), seed=3)
    np.testing.assert_array_equal(ours["image"], theirs.fetch([(0, 0), (0, 1)])["image"])
    assert not np.array_equal(ours["image"][0], ours["image"][1])


@pytest.mark.parametrize(("schedule", "shares"), [("warmup", [0.0, 0.5, 1.0]), ("decay", [1.0, 1.0, 0.0])])
def test_a_schedule_weighs_the_teachers_terms_alone(data, recorded, two_teachers, schedule, shares):
    scheduled = BOTH.model_copy(update={"schedule": schedule, "schedule_share": 0.5})
    targets, outputs = open_targets(two_teachers, scheduled, data, recorded), answer()
    batch, objective = first_batch(targets), targets.objective(student())
    objective.recipe = BOTH
    full = objective(outputs, batch)
    objective.recipe = scheduled
    for progress, share in zip((0.0, 0.25, 1.0), shares, strict=True):
        terms = objective(outputs, {**batch, "progress": progress})
        assert list(terms) == list(full)
        assert torch.equal(terms["heatmap"], full["heatmap"])
        torch.testing.assert_close(terms["kd_heatmap"], share * full["kd_heatmap"])


def test_components_weigh_alike_or_as_they_vary():
    array = ArraySpec("features", (2, 4, 4), encoding="pca-2+exact-fp16", parameters={
        "mean": [0.0, 0.0, 0.0], "projection": [[0.5, 0, 0], [0, 1.0, 0]]})
    assert channel_weights(array, Recipe(teachers=["a"], standardise="channel")) == [1, 1]
    assert channel_weights(array, Recipe(teachers=["a"])) == pytest.approx([1.6, 0.4])


def test_unlabelled_images_are_asked_for_in_vain(data, recorded, two_teachers):
    with pytest.raises(UserError, match=r"data 'tiny' has no images without labels: .*data\.unlabelled.*data\.labels"):
        open_targets(two_teachers, BOTH.model_copy(update={"unlabelled": True}), data, recorded)


def test_a_student_of_a_stride_that_targets_cannot_be_brought_to_is_refused(data, recorded):
    with pytest.raises(UserError, match="tiny has stride 16, but students learn at stride 2, 4, 8"):
        open_targets({}, Recipe(), data, recorded).objective(student(stride=16))


@pytest.mark.parametrize("size", [(32, 64), (64, 48), (12, 12), (96, 96)])
@pytest.mark.parametrize("kind", ["stored", "fresh"])
def test_a_size_of_another_shape_or_too_far_from_the_views_is_refused(data, recorded, kind, size):
    shown = recorded if kind == "stored" else Views(size=(32, 32))
    with pytest.raises(UserError, match=r"input is \[.*views are \[32, 32\].*same 0\.5 to 2 times"):
        open_targets({}, Recipe(views=kind), data, shown, size=size)


def test_teachers_of_different_strides_that_nobody_merged_are_refused(data, recorded, write_store):
    paths = {"small": write_store("small", features=3), "large": write_store("large", features=4, stride=8)}
    with pytest.raises(UserError, match="strides are small 4, large 8"):
        open_targets(paths, SEPARATE, data, recorded)


@pytest.mark.parametrize(("field", "value"), [
    ("data", "0" * 64), ("views", "0" * 64), ("classes", ["cat", "cow"]), ("size", [64, 64])])
def test_stores_of_something_else_are_refused(data, recorded, write_store, field, value):
    path = write_store("other", features=3, **{field: value})
    with pytest.raises(FingerprintMismatch, match=rf"other\.zarr.*{field} is .*dump-teachers other"):
        open_targets({"other": path}, Recipe(teachers=["other"]), data, recorded)


def test_stores_that_an_older_version_made_are_refused(data, recorded, write_store):
    dump, merge = Dump(), Ensemble(teachers=["large", "small"])
    paths = {name: write_store(name, **dump.identity) for name in merge.teachers}
    members = {name: open_store(path).content for name, path in paths.items()}
    old = merge.identity | {"ensemble_version": 1}
    paths["ensemble"] = write_store("both", kind="ensemble", members=members, **old)
    dumped = {**dict.fromkeys(merge.teachers, dump.identity), "ensemble": merge.identity}
    recipe = Recipe(teachers=merge.teachers, ensemble="both", weights=[1, 1, 1, 0])
    with pytest.raises(FingerprintMismatch, match=r"ensemble_version is 1.*build-ensemble both"):
        open_targets(paths, recipe, data, recorded, dumped=dumped)
    paths["small"] = write_store("older", **dump.identity | {"dump_version": 1})
    with pytest.raises(FingerprintMismatch, match=r"dump_version is 1.*dump-teachers small"):
        open_targets(paths, recipe, data, recorded, dumped=dumped)


def test_an_ensemble_of_older_dumps_is_refused(data, recorded, two_teachers, write_store):
    paths = {**two_teachers, "small": write_store("newer", features=3)}
    with pytest.raises(FingerprintMismatch, match=r"members\.small is .*build-ensemble both"):
        open_targets(paths, BOTH, data, recorded)


@pytest.mark.parametrize(("more", "words"), [
    (["medium"], "medium is merged into it, but is no teacher of the recipe"),
    (["medium", "huge"], "huge, medium are merged into it, but are no teachers of the recipe")])
def test_an_ensemble_of_more_teachers_than_the_recipe_names_is_refused(data, recorded, two_teachers, write_store, more,
                                                                       words):
    """As it stays where params merged three and now merge two."""
    members = open_store(two_teachers["ensemble"]).spec.identity["members"]
    older = write_store("older", kind="ensemble", members={**members, **dict.fromkeys(more, "0" * 64)})
    with pytest.raises(FingerprintMismatch, match=rf"older\.zarr: {words}\. Run 'pipeline build-ensemble both' again"):
        open_targets({**two_teachers, "ensemble": older}, BOTH, data, recorded)


def test_an_ensemble_of_dumps_that_were_made_again_is_refused(data, recorded, two_teachers, write_store):
    """By other code, which says something else of the same views by the same params."""
    before = open_store(two_teachers["small"]).fingerprint
    shutil.rmtree(two_teachers["small"])
    assert open_store(write_store("small", features=3, seed=99)).fingerprint == before
    with pytest.raises(FingerprintMismatch, match=r"members\.small is .*build-ensemble both"):
        open_targets(two_teachers, BOTH, data, recorded)


def test_an_unfinished_store_is_refused(data, recorded, two_teachers):
    (two_teachers["large"] / "manifest.json").unlink()
    with pytest.raises(IncompleteStore, match=r"large\.zarr"):
        open_targets(two_teachers, BOTH, data, recorded)
