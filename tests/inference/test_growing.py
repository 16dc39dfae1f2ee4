"""Dumps of views that grew: what an older dump has is copied."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import growable, record_views
from pipeline.inference.dump import dump_spec, dump_teacher
from pipeline.inference.growing import older_dump
from pipeline.inference.planning import plan_dump
from pipeline.params import Dump, Encodings, Views
from storage import FingerprintMismatch, open_store, verify

EXACT = Encodings(heatmap="exact-fp16", wh_offset="exact-fp16", features="exact-fp16")
PARAMS = Dump(batch=2, peaks=6, shard_views=4, encodings=EXACT)
SMALL = PARAMS.model_copy(update={"encodings": Encodings(features="pca-5+pooled+u8-channel")})
NAMED = {"teacher": "small", "teacher_sha256": "weights-sha"}
MORE_VIEWS = Views(per_image=3, size=(32, 32), max_objects=4, shard_views=4)


@pytest.fixture
def more(data, views, tmp_path):
    """The ten views with five more after them."""
    old = growable(views.path, data, "train", MORE_VIEWS)
    record_views(data, "train", MORE_VIEWS, tmp_path / "more.zarr", old=old)
    return RecordedViews(tmp_path / "more.zarr", data, "train")


@pytest.fixture
def dump(detector, data, fabric, tmp_path):
    """dump(name, views, ...) writes a store and opens it."""

    def run(name, views, params=PARAMS, **how):
        dump_teacher(detector, data, views, tmp_path / name, params=params, fabric=fabric, **NAMED, **how)
        assert verify(tmp_path / name).ok
        return open_store(tmp_path / name)

    return run


@pytest.fixture
def find(detector, data):
    """find(paths, views, ...) looks for an older dump."""

    def run(paths, views, params=PARAMS, code="", data=data, **named):
        wanted = dump_spec(detector, data, views, params=params, **{**NAMED, **named})
        return older_dump(paths, wanted, views, code)

    return run


@pytest.fixture
def seen(detector, monkeypatch):
    """How many pictures went through the network, batch by batch."""
    counts, features = [], type(detector).features
    monkeypatch.setattr(type(detector), "features",
                        lambda self, images: counts.append(len(images)) or features(self, images))
    return counts


def contents(store):
    return {array.name: store.read(array.name, range(len(store))) for array in store.spec.arrays}


def test_only_new_views_are_computed_and_the_store_is_the_fresh_one(dump, views, more, find, seen):
    old = find([dump("old.zarr", views).path], more)
    seen.clear()
    calls = []
    store = dump("new.zarr", more, old=old, progress=lambda *call: calls.append(call[:2]))
    assert sum(seen) == 5
    assert calls[-1] == (15, 15)
    fresh = dump("fresh.zarr", more)
    assert store.fingerprint == fresh.fingerprint
    found, expected = contents(store), contents(fresh)
    assert {name: np.array_equal(found[name], expected[name]) for name in expected} == dict.fromkeys(expected, True)
    assert store.manifest["arrays"] == fresh.manifest["arrays"]


def test_fitted_encodings_stay_as_they_were_fitted(dump, views, more, find, seen):
    older = dump("old.zarr", views, SMALL)
    seen.clear()
    store = dump("new.zarr", more, SMALL, old=find([older.path], more, SMALL))
    assert sum(seen) == 5
    assert store.spec.arrays == older.spec.arrays
    assert store.manifest["created"]["flip"] == older.manifest["created"]["flip"]
    assert store.spec.identity["views"] == more.fingerprint
    found, expected = contents(store), contents(older)
    for name in expected:
        np.testing.assert_array_equal(found[name][:10], expected[name])


def test_growth_takes_the_largest_of_a_chain_and_may_add_no_view(detector, data, dump, views, more, find, tmp_path):
    changed = replace(data, fingerprint="other-data")  # an image of another split, say
    record_views(changed, "train", MORE_VIEWS, tmp_path / "same.zarr",
                 old=growable(more.path, changed, "train", MORE_VIEWS))
    same = RecordedViews(tmp_path / "same.zarr")
    first = dump("first.zarr", views)
    second = dump("second.zarr", more, old=first)
    found = find([first.path, second.path, tmp_path / "none.zarr"], same, data=changed)
    assert found.path == second.path
    store = dump("third.zarr", same, old=found)
    assert contents(store).keys() == contents(second).keys()
    for name, codes in contents(second).items():
        np.testing.assert_array_equal(contents(store)[name], codes)


@pytest.mark.parametrize("change", [
    {"teacher_sha256": "other"}, {"teacher": "other"}, {"code": "other"},
    {"params": PARAMS.model_copy(update={"peaks": 5})}, {"params": PARAMS.model_copy(update={"features": False})},
    {"params": PARAMS.model_copy(update={"precision": "bf16-mixed"})}, {"params": SMALL}])
def test_another_teacher_code_or_encoding_takes_nothing_over(dump, views, more, find, change):
    old = dump("old.zarr", views)
    assert find([old.path], more).path == old.path
    assert find([old.path], more, **change) is None


def test_views_that_are_no_growth_take_nothing_over(dump, data, views, find, tmp_path):
    old = dump("old.zarr", views)
    record_views(data, "train", MORE_VIEWS, tmp_path / "fresh.zarr")
    assert find([old.path], RecordedViews(tmp_path / "fresh.zarr")) is None


def test_a_dump_of_the_same_views_is_copied(dump, views, find, seen):
    old = dump("old.zarr", views, SMALL)
    seen.clear()
    other_shards = SMALL.model_copy(update={"shard_views": 3})
    store = dump("new.zarr", views, other_shards, old=find([old.path], views, SMALL))
    assert (sum(seen), store.spec.shard_views, store.fingerprint) == (0, 3, old.fingerprint)
    for name, codes in contents(old).items():
        np.testing.assert_array_equal(contents(store)[name], codes)


def test_what_was_begun_without_the_older_dump_keeps_its_encoding(dump, views, more, find, seen):
    def killed(*_):
        raise KeyboardInterrupt

    old = find([dump("old.zarr", views, SMALL).path], more, SMALL)
    with pytest.raises(KeyboardInterrupt):
        dump("new.zarr", more, SMALL, progress=killed)
    seen.clear()
    store = dump("new.zarr", more, SMALL, old=old)
    assert sum(seen) == 15
    fresh = dump("fresh.zarr", more, SMALL)
    assert store.fingerprint == fresh.fingerprint != old.fingerprint
    for name, codes in contents(fresh).items():
        np.testing.assert_array_equal(contents(store)[name], codes)


def test_a_killed_growth_continues_and_needs_the_older_dump_no_more(dump, views, more, find, seen):
    def killed(done, *_):
        if done > 8:
            raise KeyboardInterrupt

    old = find([dump("old.zarr", views, SMALL).path], more, SMALL)
    whole = dump("whole.zarr", more, SMALL, old=old)
    with pytest.raises(KeyboardInterrupt):
        dump("new.zarr", more, SMALL, old=old, progress=killed)
    seen.clear()
    store = dump("new.zarr", more, SMALL)
    assert sum(seen) == 7  # of views 8 and 9 there is no finished shard
    assert store.fingerprint == whole.fingerprint
    for name, codes in contents(whole).items():
        np.testing.assert_array_equal(contents(store)[name], codes)


def test_a_damaged_view_of_the_older_dump_is_computed(dump, views, more, find, seen):
    old = dump("old.zarr", views)
    shard = next((old.path / "peaks").glob("*.1.*"))
    raw = bytearray(shard.read_bytes())
    raw[40] ^= 1
    shard.write_bytes(raw)
    seen.clear()
    with pytest.warns(UserWarning, match=r"old\.zarr: the shard of view 4 is damaged\. Views 4 to 7 are computed"):
        store = dump("new.zarr", more, old=find([old.path], more))
    assert sum(seen) == 5 + 4
    for name, codes in contents(dump("fresh.zarr", more)).items():
        np.testing.assert_array_equal(contents(store)[name], codes)


def test_the_plan_counts_what_is_missing(detector, data, views, more, fabric, dump, find):
    old = find([dump("old.zarr", views, SMALL).path], more, SMALL)
    plan = plan_dump(detector, data, more, params=SMALL, fabric=fabric, old=old)
    assert (plan["views"], plan["taken_over"]) == (5, 10)
    assert plan["bytes_uncompressed"] == 15 * sum(array.nbytes for array in old.spec.arrays)
    plan = plan_dump(detector, data, more, params=SMALL, fabric=fabric)
    assert (plan["views"], plan["taken_over"]) == (15, 0)


@pytest.fixture
def begun(dump, views):
    """A dump that was interrupted."""

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump("t.zarr", views, progress=killed)


@pytest.mark.parametrize("change", [
    {"peaks": 5}, {"precision": "bf16-mixed"}, {"encodings": SMALL.encodings}, {"features": False}])
def test_other_params_do_not_continue_a_dump(dump, views, begun, change):
    with pytest.raises(FingerprintMismatch, match=next(iter(change))):
        dump("t.zarr", views, PARAMS.model_copy(update=change))


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"classes": ("cat", "dog", "hen")}])
def test_other_data_do_not_continue_a_dump(detector, data, views, fabric, begun, change, tmp_path):
    field = {"fingerprint": "data is .* expected .*other"}.get(next(iter(change)), "classes is .*hen")
    with pytest.raises(FingerprintMismatch, match=field):
        dump_teacher(detector, replace(data, **change), views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric,
                     **NAMED)


@pytest.mark.parametrize(("change", "field"), [({"seed": 1}, "views is"), ({"size": (64, 32)}, "size is")])
def test_other_views_do_not_continue_a_dump(data, dump, begun, change, field, tmp_path):
    params = Views(per_image=2, size=(32, 32), max_objects=4).model_copy(update=change)
    record_views(data, "train", params, tmp_path / "others.zarr")
    with pytest.raises(FingerprintMismatch, match=field):
        dump("t.zarr", RecordedViews(tmp_path / "others.zarr"))
