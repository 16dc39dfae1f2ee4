import json
import time

import numpy as np
import pytest

from pipeline.billing.bill import (
    Plan,
    StoreCost,
    StudentCost,
    Taught,
    break_even,
    images_of,
    pays_in_words,
    read_plan,
    what_happened,
)
from pipeline.data import DataSet
from pipeline.data.dataset import ImageRecord
from pipeline.errors import UserError
from pipeline.params import Recipe
from storage import ArraySpec, StoreSpec, create_store

BOTH = "large+small"
STORES = {"views": (5.0, 10), "large": (60.0, 300), "small": (30.0, 200), "ensemble-both": (10.0, 100)}


@pytest.fixture
def plan():
    """Stores of 100 s for both teachers; an epoch with them in the step takes 30 s, from the store 10."""
    stores = {name: StoreCost(seconds=seconds, bytes=size) for name, (seconds, size) in STORES.items()}
    taught = {BOTH: Taught(offline=10.0, live=30.0), "small": Taught(offline=9.0, live=9.0)}
    return Plan(deciding={}, images=12, views=36, size=(64, 64), device="cpu", untrained=[],
                recipes={BOTH: ["large", "small", "ensemble-both"], "small": ["small"]}, stores=stores,
                students={"resnet18": StudentCost(epochs=2, plain=8.0, taught=taught)})


def test_an_epoch_shows_images_without_labels_where_the_recipe_learns_from_them():
    record = ImageRecord("a", "", 4, 4, *[np.empty(0)] * 4)
    data = DataSet("any", "data/any", ("cat",), {"train": (record,) * 3, "unlabelled": (record,) * 5}, "f", {})
    taught, all_images = Recipe(teachers=["large"]), Recipe(teachers=["large"], unlabelled=True)
    assert (images_of(taught, data), images_of(all_images, data)) == (3, 8)


def test_a_store_pays_when_what_it_saves_is_what_it_cost():
    assert break_even(100.0, live=30.0, offline=10.0) == 5.0
    assert break_even(0.0, live=30.0, offline=10.0) == 0.0


@pytest.mark.parametrize("live", [10.0, 9.0])
def test_a_store_that_saves_nothing_never_pays(live):
    assert break_even(100.0, live=live, offline=10.0) is None


def test_only_the_stores_of_a_recipe_are_to_be_paid_and_the_views_are_everyones(plan):
    assert plan.pays_from("resnet18", BOTH) == 5.0
    assert plan.pays_from("resnet18", "small") is None


@pytest.mark.parametrize(("epochs", "of_one", "students"), [(5.0, 2.0, 3), (4.0, 2.0, 2), (0.1, 2.0, 1), (0.0, 2.0, 1),
                                                            (0.3, 0.1, 3)])
def test_students_are_whole(epochs, of_one, students):
    assert f"{epochs} epochs in all ({students} student" in pays_in_words(epochs, of_one)


def test_a_plan_comes_back_as_it_was_written(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"predicted": plan.model_dump(mode="json")}))
    assert read_plan(path) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"predicted": {"data": 3}}', '{"predicted": null}'])
def test_what_is_no_plan_is_named(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"plan\.json is no plan .*Run 'pipeline plan' again"):
        read_plan(path)


def write_summary(root, seed, seconds, passes=24):
    folder = root / f"models/students/resnet18/plain/seed{seed}"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"steps": 3, "passes": passes, "seconds": seconds}))
    return folder / "summary.json"


def test_what_happened_is_read_from_stores_and_summaries(tmp_path):
    spec = StoreSpec(arrays=(ArraySpec("x", (2,), "float32", "raw"),), views=3, shard_views=2, identity={"kind": "t"})
    writer = create_store(tmp_path / "targets/large.zarr", spec)
    for number, shard in enumerate(writer.pending()):
        with writer.claim(shard, processes=2) as claim:
            for _ in claim.views:
                claim.append({"x": np.zeros(2, np.float32)})
                time.sleep(0.01)
        if number == 0:
            assert what_happened(tmp_path, ["large"], [], {}).stores == {}  # not finished
    manifest = writer.finish(processes=2, inherited_seconds=7.0)
    for seed, seconds in enumerate((4.0, 6.0, 20.0)):
        write_summary(tmp_path, seed, seconds)
    happened = what_happened(tmp_path, ["large", "nowhere"], ["resnet18", "other"], {"plain": 12, BOTH: 12})
    assert happened.stores["large"].bytes == manifest["counts"]["bytes"]
    assert happened.stores["large"].seconds == pytest.approx(manifest["created"]["shard_seconds"] / 2 + 7.0, abs=2e-3)
    assert happened.epoch("resnet18", "plain") == 3.0  # 24 passes are two epochs of 12 images
    assert happened.epoch("resnet18", BOTH) is None
    assert happened.epoch("other", "plain") is None


def test_a_student_that_saw_nothing_says_nothing(tmp_path):
    """`epochs: 0` takes a network as it is."""
    write_summary(tmp_path, 0, 4.0).write_text('{"seconds": 1, "passes": 0}')
    assert what_happened(tmp_path, [], ["resnet18"], {"plain": 12}).epoch("resnet18", "plain") is None
    write_summary(tmp_path, 1, 4.0)
    assert what_happened(tmp_path, [], ["resnet18"], {"plain": 12}).epoch("resnet18", "plain") == 2.0


@pytest.mark.parametrize("broken", ["", "{}", '{"seconds": "1", "passes": 1}'])
def test_a_broken_summary_is_named(tmp_path, broken):
    path = write_summary(tmp_path, 0, 4.0)
    path.write_text(broken)
    with pytest.raises(UserError, match=r"seed0.summary\.json is no summary"):
        what_happened(tmp_path, [], ["resnet18"], {"plain": 12})
