import copy
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.inference.dump import dump_teacher
from pipeline.inference.planning import plan_dump
from pipeline.inference.prediction import inference, predict
from pipeline.inference.sampling import Reduction
from pipeline.models import decode_detections, peaks_to_boxes
from pipeline.params import Dump, Encodings
from storage import (
    ArraySpec,
    FingerprintMismatch,
    StoreError,
    fit_parameters,
    open_store,
    reduce,
    reduced_shape,
    sample_cells,
    verify,
)

EXACT = Encodings(heatmap="exact-fp16", wh_offset="exact-fp16", features="exact-fp16")
PARAMS = Dump(batch=2, peaks=6, shard_views=4, encodings=EXACT)
NAMED = {"teacher": "small", "teacher_sha256": "weights-sha"}


def contents(path):
    store = open_store(path)
    return {array.name: store.read(array.name, range(len(store))) for array in store.spec.arrays}


def files(path):
    """The bytes of all shards and of the metadata but for the manifest, which says when and how long."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*")
            if file.is_file() and file.name != "manifest.json"}


def test_the_store_holds_what_the_teacher_says(detector, data, views, fabric, tmp_path):
    calls = []
    manifest = dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED,
                            progress=lambda *call: calls.append(call))
    assert calls[0] == (2, 10, "views")
    assert calls[-1] == (10, 10, "views")
    store = open_store(tmp_path / "t.zarr")
    assert verify(tmp_path / "t.zarr").ok
    assert {array.name: array.shape for array in store.spec.arrays} == {
        "heatmap": (3, 8, 8), "wh_offset": (4, 8, 8), "features": (8, 8, 8), "peaks": (6, 7)}

    records = data.records("train")
    images = np.stack([views.render(row, records[row // 2].read, records[row // 2].path) for row in range(10)])
    with inference(detector, "cpu"):
        heatmap, wh, offset, features = predict(
            detector, torch.from_numpy(images).permute(0, 3, 1, 2), "32-true")
    expected = {"heatmap": heatmap, "wh_offset": torch.cat([wh, offset], 1), "features": features}
    for name, values in expected.items():
        stored = store.decode(name, store.read(name, range(10)))
        np.testing.assert_allclose(stored, values, rtol=2e-3, atol=1e-4)
        error = manifest["arrays"][name]["error"]
        assert 0 < error["measured"] <= error["bound"]
    peaks = torch.from_numpy(store.read("peaks", range(10)))
    assert peaks.dtype == torch.float32
    torch.testing.assert_close(peaks_to_boxes(peaks, 8), decode_detections(heatmap, wh, offset, 6),
                               rtol=1e-4, atol=1e-4)


def test_the_manifest_says_what_decided_the_content_and_what_it_cost(detector, data, views, fabric, tmp_path):
    manifest = dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert manifest["spec"]["identity"] == {
        "kind": "teacher", "teacher": "small", "weights": "weights-sha", "data": "data-sha",
        "views": views.fingerprint, "size": [32, 32], "classes": ["cat", "dog", "cow"], "stride": 4,
        "encodings": {"heatmap": "exact-fp16", "wh_offset": "exact-fp16", "features": "exact-fp16"},
        "peaks": 6, "precision": "32-true", "tta": {"flip": False, "scales": [1.0]}, "dump_version": 3}
    assert manifest["spec"]["attributes"]["licence"] == "CC"
    assert manifest["created"]["seconds"] > 0
    assert manifest["created"]["device"].startswith("cpu, ")


def test_without_features_and_in_other_encodings(detector, data, views, fabric, tmp_path):
    more = EXACT.model_copy(update={"heatmap": "exact-fp32"})
    params = PARAMS.model_copy(update={"features": False, "encodings": more})
    dump_teacher(detector, data, views, tmp_path / "t.zarr", params=params, fabric=fabric, **NAMED)
    dtypes = {name: codes.dtype.name for name, codes in contents(tmp_path / "t.zarr").items()}
    assert dtypes == {"heatmap": "float32", "wh_offset": "float16", "peaks": "float32"}
    unknown = PARAMS.model_copy(update={"encodings": EXACT.model_copy(update={"heatmap": "exact-fp61"})})
    with pytest.raises(StoreError, match=r"'exact-fp61' is unknown.*exact-fp16"):
        dump_teacher(detector, data, views, tmp_path / "u.zarr", params=unknown, fabric=fabric, **NAMED)


def test_small_encodings_stand_for_what_the_teacher_said(detector, data, views, fabric, tmp_path):
    small = Encodings(features="pca-5+pooled+u8-channel")
    manifest = dump_teacher(detector, data, views, tmp_path / "s.zarr", fabric=fabric, **NAMED,
                            params=PARAMS.model_copy(update={"encodings": small}))
    dump_teacher(detector, data, views, tmp_path / "e.zarr", params=PARAMS, fabric=fabric, **NAMED)
    store, exact = open_store(tmp_path / "s.zarr"), open_store(tmp_path / "e.zarr")
    rows = range(len(store))

    def values(which, name):
        return which.decode(name, which.read(name, rows))

    assert store.spec["features"].shape == (5, 4, 4)
    assert np.array_equal(store.read("peaks", rows), exact.read("peaks", rows))
    assert np.abs(values(store, "heatmap") - values(exact, "heatmap")).max() <= 1 / 255 + 1e-3
    kept, all_of_them = values(store, "wh_offset"), values(exact, "wh_offset")
    assert ((kept == all_of_them) | (kept == 0)).all()
    assert (kept != 0).any()
    # Reduced on the teacher's device as storage does it in numpy.
    step = np.array(store.spec["features"].parameters["step"])[:, None, None]
    expected = reduce(store.spec["features"], values(exact, "features"))
    assert (np.abs(values(store, "features") - expected) <= step).mean() > 0.999
    for name, array in manifest["arrays"].items():
        assert array["error"]["measured"] <= array["error"]["bound"], name
    assert 0 < store.spec["features"].parameters["explained_variance"] <= 1


@pytest.mark.parametrize("side", [32, 36])
def test_features_are_reduced_alike_on_the_device_and_in_numpy(side):
    values = np.random.default_rng(1).normal(size=(3, 7, side // 4, side // 4)).astype(np.float32)
    for encoding in ("pooled+exact-fp16", "pca-3+exact-fp16", "pca-2+pooled+u8-channel"):
        array = ArraySpec("features", reduced_shape(encoding, values.shape[1:]), encoding=encoding,
                          parameters=fit_parameters(encoding, sample_cells(encoding, values)))
        found = Reduction(array, torch.device("cpu"))(torch.from_numpy(values))
        np.testing.assert_allclose(found.numpy(), reduce(array, values), atol=1e-5)


def test_what_a_mirror_changes_is_measured(detector, data, views, fabric, tmp_path):
    manifest = dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    flip = manifest["created"]["flip"]
    assert flip["views"] == 10
    assert 0 < flip["error"] < 1  # random weights are not symmetric
    assert 0 < flip["features"] < 1.5
    alone = PARAMS.model_copy(update={"features": False})
    manifest = dump_teacher(detector, data, views, tmp_path / "n.zarr", params=alone, fabric=fabric, **NAMED)
    assert manifest["created"]["flip"] == {"views": 10, "error": flip["error"]}

    class Symmetric(type(detector)):
        def features(self, images):
            return [(super().features(images)[-1] + super().features(images.flip(3))[-1].flip(3)) / 2]

        @property
        def heads_of_stacks(self):
            heads = super().heads_of_stacks[-1]

            def both_ways(features):
                one, other = heads(features), heads(features.flip(3))
                return one._replace(heatmap=(one.heatmap + other.heatmap.flip(3)) / 2)

            return [both_ways]

    detector.__class__ = Symmetric
    manifest = dump_teacher(detector, data, views, tmp_path / "s.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert manifest["created"]["flip"]["error"] < 1e-5
    assert manifest["created"]["flip"]["features"] < 1e-4


def test_mixed_precision_keeps_the_heads_exact(detector, data, views, fabric, tmp_path):
    more = EXACT.model_copy(update={"wh_offset": "exact-fp32"})
    params = PARAMS.model_copy(update={"precision": "bf16-mixed", "encodings": more})
    dump_teacher(detector, data, views, tmp_path / "t.zarr", params=params, fabric=fabric, **NAMED)
    wh_offset = contents(tmp_path / "t.zarr")["wh_offset"]
    assert len(np.unique(wh_offset)) > 0.9 * wh_offset.size


def test_a_teacher_that_breaks_down_stops_the_dump_and_spoils_nothing(detector, data, views, fabric, tmp_path):
    class Breaking(type(detector)):
        left = 1000

        def features(self, images):
            self.left -= 1
            return [maps * (1 if self.left >= 0 else torch.nan) for maps in super().features(images)]

    detector.__class__, whole, broken = Breaking, tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    dump_teacher(detector, data, views, whole, params=PARAMS, fabric=fabric, **NAMED)
    detector.left = 1000 - detector.left - 2  # says nothing of the last two batches
    with pytest.raises(StoreError, match="heatmap"):
        dump_teacher(detector, data, views, broken, params=PARAMS, fabric=fabric, **NAMED)
    with pytest.raises(StoreError, match="not finished"):
        open_store(broken)
    detector.left = 1000
    dump_teacher(detector, data, views, broken, params=PARAMS, fabric=fabric, **NAMED)
    for name, codes in contents(whole).items():
        np.testing.assert_array_equal(contents(broken)[name], codes)


def test_ctrl_c_leaves_it_resumable_and_another_teacher_is_refused(detector, data, views, fabric, tmp_path):
    def interrupt(done, *_):
        raise KeyboardInterrupt

    detector.train()
    with pytest.raises(KeyboardInterrupt):
        dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED,
                     progress=interrupt)
    assert detector.training
    with pytest.raises(FingerprintMismatch, match="weights"):
        dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric,
                     teacher="small", teacher_sha256="other")
    dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert len(open_store(tmp_path / "t.zarr")) == 10


def test_processes_share_the_shards_of_one_store(detector, data, views, fabric, tmp_path):
    """Threads stand in for processes; locks and files are the same for both."""
    meeting, errors, seen = threading.Barrier(2), [], [set(), set()]

    class Spy(type(detector)):
        def features(self, images):
            seen[self.rank].add(len(seen[self.rank]))
            return super().features(images)

    def process(rank):
        model = copy.deepcopy(detector)
        model.__class__, model.rank = Spy, rank
        one = SimpleNamespace(device=torch.device("cpu"), global_rank=rank, world_size=2,
                              is_global_zero=rank == 0, barrier=meeting.wait)
        try:
            dump_teacher(model, data, views, tmp_path / "both.zarr", params=PARAMS, fabric=one, **NAMED)
        except BaseException as error:
            errors.append(error)
            meeting.abort()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    # Batches: each view went through one network, once; the sample (all views here) plain and mirrored.
    assert sum(map(len, seen)) == 5 + 2 * 5
    dump_teacher(detector, data, views, tmp_path / "one.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert files(tmp_path / "both.zarr") == files(tmp_path / "one.zarr")


def test_an_image_that_changed_since_is_named(detector, data, views, fabric, tmp_path):
    path = data.records("train")[2].path
    cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match=r"2\.png: view 4"):
        dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    with pytest.warns(UserWarning, match=r"2\.png"):
        dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED,
                     on_mismatch="warn")


def test_a_teacher_of_other_classes_is_refused(detector, data, views, fabric, tmp_path):
    other = copy.copy(data)
    object.__setattr__(other, "classes", ("cat", "dog"))
    with pytest.raises(UserError, match=r"'small' knows 3 classes .*expected the 2 of data 'demo' \(cat, dog\)"):
        dump_teacher(detector, other, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert not (tmp_path / "t.zarr").exists()


def test_the_plan_counts_and_estimates_and_writes_nothing(detector, data, views, fabric, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    plan = plan_dump(detector, data, views, params=PARAMS, fabric=fabric)
    assert sorted(tmp_path.rglob("*")) == before
    manifest = dump_teacher(detector, data, views, tmp_path / "t.zarr", params=PARAMS, fabric=fabric, **NAMED)
    assert plan["views"] == 10
    assert plan["bytes_uncompressed"] == sum(codes.nbytes for codes in contents(tmp_path / "t.zarr").values())
    assert plan["bytes"] == pytest.approx(manifest["counts"]["bytes"], rel=0.2)
    assert plan["seconds"] > 0
