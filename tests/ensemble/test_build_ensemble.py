import numpy as np
import pytest

from pipeline.ensemble import building
from pipeline.ensemble.building import build_ensemble
from pipeline.ensemble.merging import box_shares, merge_view
from pipeline.ensemble.weighting import class_weights, rule_of
from pipeline.errors import UserError
from pipeline.params import Ensemble
from storage import ArraySpec, FingerprintMismatch, StoreSpec, create_store, encode, open_store

C, H, W, K, VIEWS = 2, 4, 6, 5, 7
PARAMS = Ensemble(teachers=["a", "b"], iou=0.4, threshold=0.1)


def teacher_store(path, seed=0, known=None, shard_views=3, **identity):
    spec = StoreSpec(
        arrays=(ArraySpec("heatmap", (C, H, W), encoding="exact-fp16"),
                ArraySpec("wh_offset", (4, H, W), encoding="exact-fp16"),
                ArraySpec("peaks", (K, 7), encoding="exact-fp32"),
                ArraySpec("features", (3, H, W), encoding="exact-fp16")),
        views=VIEWS, shard_views=shard_views,
        identity={"kind": "teacher", "teacher": path.stem, "weights": f"sha of {seed}", "data": "d",
                  "views": "v", "size": [16, 24], "classes": ["cat", "dog"], "stride": 4, "peaks": K,
                  **identity},
        attributes={"licence": "CC", **({"known": known} if known else {})})
    rng = np.random.default_rng(seed)
    writer = create_store(path, spec)
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            for _ in claim.views:
                peaks = np.zeros((K, 7), np.float32)
                peaks[:3] = np.column_stack([
                    rng.integers(0, H * W, 3), rng.integers(0, C, 3), np.sort(rng.random(3))[::-1],
                    rng.uniform(1, 5, (3, 2)), rng.random((3, 2))])
                values = {"heatmap": rng.random((C, H, W)), "wh_offset": rng.uniform(0, 5, (4, H, W)),
                          "peaks": peaks, "features": rng.random((3, H, W))}
                claim.append({name: encode(spec[name], value) for name, value in values.items()})
    writer.finish()
    return open_store(path)


@pytest.fixture
def stores(tmp_path):
    return {name: teacher_store(tmp_path / f"{name}.zarr", seed) for seed, name in enumerate("ab")}


def contents(store):
    return {array.name: store.read(array.name, range(len(store))) for array in store.spec.arrays}


def test_every_view_is_the_merger_of_its_teachers(stores, tmp_path):
    calls = []
    manifest = build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS, progress=lambda *c: calls.append(c))
    merged = open_store(tmp_path / "e.zarr")
    assert calls[-1] == (VIEWS, VIEWS, "views")
    assert [array.name for array in merged.spec.arrays] == ["heatmap", "wh_offset", "peaks"]
    for view in range(VIEWS):
        given = [np.stack([store.decode(name, store.read(name, [view])[0]) for store in stores.values()])
                 for name in ("heatmap", "wh_offset", "peaks")]
        expected = merge_view(*given, iou=0.4, threshold=0.1)
        for name, values in expected._asdict().items():
            assert np.array_equal(merged.read(name, [view])[0], encode(merged.spec[name], values))
    errors = {name: array["error"] for name, array in manifest["arrays"].items()}
    assert 0 < errors["heatmap"]["measured"] <= errors["heatmap"]["bound"]
    assert errors["peaks"]["measured"] == 0


def test_the_store_says_what_it_was_made_of(stores, tmp_path):
    build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)
    spec = open_store(tmp_path / "e.zarr").spec
    assert spec.identity["members"] == {name: store.content for name, store in stores.items()}
    for key in ("data", "views", "classes", "size", "stride"):
        assert spec.identity[key] == stores["a"].spec.identity[key]
    assert spec.attributes == {"licence": "CC", "teachers": ["a", "b"]}


def test_the_order_of_teachers_does_not_matter(stores, tmp_path):
    build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)
    build_ensemble(dict(reversed(stores.items())), tmp_path / "f.zarr", params=PARAMS)
    ours, theirs = (open_store(tmp_path / name) for name in ("e.zarr", "f.zarr"))
    assert ours.fingerprint == theirs.fingerprint
    for name, codes in contents(ours).items():
        assert np.array_equal(codes, contents(theirs)[name])


def test_an_interrupted_run_is_continued(stores, tmp_path):
    def interrupt(done, total, _):
        if done > 3:
            raise KeyboardInterrupt

    out = tmp_path / "e.zarr"
    with pytest.raises(KeyboardInterrupt):
        build_ensemble(stores, out, params=PARAMS, progress=interrupt)
    assert not (out / "manifest.json").exists()
    calls = []
    build_ensemble(stores, out, params=PARAMS, progress=lambda *c: calls.append(c[0]))
    assert calls == [6, 7]  # the first shard of three was kept
    build_ensemble(stores, tmp_path / "f.zarr", params=PARAMS)
    whole = contents(open_store(tmp_path / "f.zarr"))
    for name, codes in contents(open_store(out)).items():
        assert np.array_equal(codes, whole[name])
    build_ensemble(stores, out, params=PARAMS, progress=lambda *c: calls.append(c[0]))
    assert calls == [6, 7]  # a finished one is left alone
    with pytest.raises(FingerprintMismatch, match="iou"):
        build_ensemble(stores, out, params=PARAMS.model_copy(update={"iou": 0.9}))


def test_progress_counts_the_shards_that_are_there(stores, tmp_path):
    """Not those that a member has by now: its store was made again, with others."""
    def interrupt(*_):
        raise KeyboardInterrupt

    out, calls = tmp_path / "e.zarr", []
    with pytest.raises(KeyboardInterrupt):
        build_ensemble(stores, out, params=PARAMS, progress=lambda done, *_: done > 3 and interrupt())
    again = {name: teacher_store(tmp_path / "again" / f"{name}.zarr", seed, shard_views=5)
             for seed, name in enumerate("ab")}
    build_ensemble(again, out, params=PARAMS, progress=lambda *c: calls.append(c))
    assert calls == [(6, VIEWS, "views"), (7, VIEWS, "views")]


@pytest.mark.parametrize(("field", "value"), [
    ("classes", ["dog", "cat"]), ("stride", 8), ("size", [32, 24]), ("views", "others"), ("data", "other"),
    ("peaks", 9)])
def test_teachers_that_do_not_fit_are_named(stores, tmp_path, field, value):
    stores["odd"] = teacher_store(tmp_path / "odd.zarr", **{field: value})
    with pytest.raises(UserError, match=rf"'a' and 'odd'.*\({field}\)"):
        build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)
    assert not (tmp_path / "e.zarr").exists()


def test_an_ensemble_is_no_teacher(stores, tmp_path):
    build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)
    stores["e"] = open_store(tmp_path / "e.zarr")
    with pytest.raises(UserError, match=r"e\.zarr holds 'ensemble'"):
        build_ensemble(stores, tmp_path / "f.zarr", params=PARAMS)


def test_the_error_under_a_mirror_is_the_worst_teachers(stores, tmp_path):
    assert build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)["created"]["flip"] is None
    for error, store in zip((0.2, 0.3), stores.values(), strict=True):
        store.manifest["created"]["flip"] = {"views": 16, "error": error, "features": 0.5}
    assert build_ensemble(stores, tmp_path / "f.zarr", params=PARAMS)["created"]["flip"] == {"views": 16, "error": 0.3}


CLASS_AP = {"a": {"cat": 60.0, "dog": None}, "b": {"cat": 20.0, "dog": None}}


def objects(view):
    """Each view has a dog in another place: x1 y1 x2 y2 in pixels, label, difficult."""
    return np.array([[view, 0, view + 12, 10, 1, 0]], np.float32)


@pytest.mark.parametrize("kind", ["max", "confidence", "class-ap", "agreement"])
def test_every_view_is_merged_by_the_rule_that_params_name(stores, tmp_path, kind):
    params = PARAMS.model_copy(update={"heatmap": kind})
    build_ensemble(stores, tmp_path / "e.zarr", params=params, class_ap=CLASS_AP, truth=objects)
    merged = open_store(tmp_path / "e.zarr")
    shares = class_weights([CLASS_AP["a"], CLASS_AP["b"]], ["cat", "dog"])
    for view in range(VIEWS):
        given = [np.stack([store.decode(name, store.read(name, [view])[0]) for store in stores.values()])
                 for name in ("heatmap", "wh_offset", "peaks")]
        rule = rule_of(kind, shares=shares, truth=objects(view)[:, :5] / [4, 4, 4, 4, 1])
        expected = merge_view(*given, iou=0.4, threshold=0.1, rule=rule)
        for name, values in expected._asdict().items():
            assert np.array_equal(merged.read(name, [view])[0], encode(merged.spec[name], values))


def test_a_store_of_another_rule_or_of_other_ap_is_not_continued(stores, tmp_path):
    by_ap = PARAMS.model_copy(update={"heatmap": "class-ap"})
    build_ensemble(stores, tmp_path / "e.zarr", params=by_ap, class_ap=CLASS_AP)
    spec = open_store(tmp_path / "e.zarr").spec
    assert spec.identity["class_ap"] == CLASS_AP
    assert spec.attributes["weights"] == {"a": {"cat": 0.75, "dog": 0.5}, "b": {"cat": 0.25, "dog": 0.5}}
    with pytest.raises(FingerprintMismatch, match="heatmap"):
        build_ensemble(stores, tmp_path / "e.zarr", params=PARAMS)
    with pytest.raises(FingerprintMismatch, match=r"class_ap\.b\.cat"):
        build_ensemble(stores, tmp_path / "e.zarr", params=by_ap, class_ap={**CLASS_AP, "b": {"cat": 30.0}})


@pytest.mark.parametrize("kind", ["mean", "confidence", "class-ap", "agreement"])
def test_the_manifest_says_how_much_each_teacher_counts(stores, tmp_path, kind):
    params = PARAMS.model_copy(update={"heatmap": kind})
    given = {"params": params, "class_ap": CLASS_AP, "truth": objects}
    created = build_ensemble(stores, tmp_path / "e.zarr", **given)["created"]
    found = []
    for view in range(VIEWS):
        heatmaps, peaks = (np.stack([store.decode(name, store.read(name, [view])[0]) for store in stores.values()])
                           for name in ("heatmap", "peaks"))
        rule = rule_of(kind, shares=class_weights([CLASS_AP["a"], CLASS_AP["b"]], ["cat", "dog"]),
                       truth=objects(view)[:, :5] / [4, 4, 4, 4, 1])
        found.append(box_shares(heatmaps, peaks, iou=0.4, threshold=0.1, rule=rule))
    assert list(created["shares"].values()) == pytest.approx(np.concatenate(found).mean(0), abs=1e-4)
    assert sum(created["shares"].values()) == pytest.approx(1, abs=2e-4)
    turned = build_ensemble(dict(reversed(stores.items())), tmp_path / "f.zarr", **given)["created"]
    assert turned["shares"] == created["shares"]


def test_teachers_that_see_nothing_have_no_shares(stores, tmp_path):
    nothing = PARAMS.model_copy(update={"threshold": 1.0})
    assert build_ensemble(stores, tmp_path / "e.zarr", params=nothing)["created"]["shares"] is None


def test_an_ensemble_knows_what_any_of_its_teachers_knows(tmp_path):
    def merged(name, **known):
        stores = {key: teacher_store(tmp_path / f"{name}{key}.zarr", known=known.get(key)) for key in "ab"}
        build_ensemble(stores, tmp_path / name, params=PARAMS.model_copy(update={"heatmap": "class-ap"}),
                       class_ap={key: dict.fromkeys(known.get(key, ()), 50.0) for key in "ab"})
        return open_store(tmp_path / name), stores

    store, stores = merged("half", a=["cat"], b=["dog"])
    assert "known" not in store.spec.attributes
    heatmap = {key: one.decode("heatmap", one.read("heatmap", range(VIEWS))) for key, one in stores.items()}
    expected = np.stack([heatmap["a"][:, 0], heatmap["b"][:, 1]], axis=1)
    np.testing.assert_allclose(store.decode("heatmap", store.read("heatmap", range(VIEWS))), expected, atol=1e-3)
    assert merged("same", a=["dog"], b=["dog"])[0].spec.attributes["known"] == ["dog"]


@pytest.mark.parametrize("rule", ["mean", "confidence", "agreement"])
def test_nobody_is_asked_about_what_he_does_not_know(tmp_path, rule):
    stores = {"a": teacher_store(tmp_path / "a.zarr", known=["cat"]), "b": teacher_store(tmp_path / "b.zarr", 1)}
    with pytest.raises(UserError, match=rf"'{rule}' asks each teacher of each class, but 'a' knows cat alone; merge"):
        build_ensemble(stores, tmp_path / "out", params=PARAMS.model_copy(update={"heatmap": rule}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["mean", "agreement"])
def test_a_shard_of_several_batches(stores, tmp_path, monkeypatch, kind):
    params = PARAMS.model_copy(update={"heatmap": kind})
    first = build_ensemble(stores, tmp_path / "e.zarr", params=params, truth=objects)
    monkeypatch.setattr(building, "BATCH", 2)
    second = build_ensemble(stores, tmp_path / "f.zarr", params=params, truth=objects)
    for name, codes in contents(open_store(tmp_path / "e.zarr")).items():
        assert np.array_equal(codes, contents(open_store(tmp_path / "f.zarr"))[name])
    assert first["created"]["shares"] == second["created"]["shares"]
