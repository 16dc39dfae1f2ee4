"""Conversions: what is copied stays as it is, what changes says so, and what is lost does not come back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import storage
from storage import ArraySpec, CorruptStore, Store, StoreError, StoreSpec, convert, encode_views, fit_parameters, verify
from storage.features import sample_cells

VIEWS = 9


def values(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    heatmap = rng.random((VIEWS, 3, 8, 6), np.float32) ** 8
    return {"heatmap": heatmap, "wh_offset": rng.normal(3, 2, (VIEWS, 4, 8, 6)).astype(np.float32),
            "peaks": rng.random((VIEWS, 5, 7), np.float32),
            "features": rng.normal(0, 1, (VIEWS, 6, 8, 6)).astype(np.float32) @ rng.normal(size=(6, 6)).astype("f")}


def dump(path: Path, *, scale: float = 1, **encodings: str) -> Store:
    chosen = {"heatmap": "exact-fp16", "wh_offset": "exact-fp16", "peaks": "exact-fp32", "features": "exact-fp16",
              **encodings}
    given, arrays = values(), []
    given["features"] = scale * given["features"]
    for name, encoding in chosen.items():
        fitted, shape = {}, given[name].shape[1:]
        if name == "features":
            shape = storage.reduced_shape(encoding, shape)
            fitted = fit_parameters(encoding, sample_cells(encoding, given[name]))
        arrays.append(ArraySpec(name, shape, encoding=encoding, parameters=fitted))
    spec = StoreSpec(tuple(arrays), VIEWS, 4, {"kind": "teacher", "encodings": chosen}, {"licence": "CC0"})
    given["features"] = storage.reduce(spec["features"], given["features"])
    writer = storage.create_store(path, spec)
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            claim.extend({name: rows[claim.views.start:claim.views.stop] for name, rows in given.items()})
    writer.finish(flip={"views": 9, "error": 0.1}, code="abc")
    return storage.open_store(path)


def contents(store: Store) -> dict[str, np.ndarray]:
    return {array.name: store.read(array.name, range(len(store))) for array in store.spec.arrays}


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*")
            if file.is_file() and file.name != "manifest.json"}


def test_there_and_back_is_the_same_store(tmp_path: Path):
    source = dump(tmp_path / "a.zarr", heatmap="u8-sqrt-sparse", features="pca-3+pooled+u8-channel")
    convert(source, tmp_path / "b.h5", backend="hdf5", shard_views=100)
    middle = storage.open_store(tmp_path / "b.h5")
    assert (middle.spec.backend, middle.spec.shards, middle.fingerprint) == ("hdf5", 1, source.fingerprint)
    assert {file.suffix for file in (tmp_path / "b.h5").rglob("*") if file.is_file()} == {".h5", ".json"}
    convert(middle, tmp_path / "c.zarr", backend="zarr", shard_views=4)
    again = storage.open_store(tmp_path / "c.zarr")
    assert files(tmp_path / "c.zarr") == files(tmp_path / "a.zarr")
    for store in (middle, again):
        assert (store.fingerprint, store.content) == (source.fingerprint, source.content)
        assert store.manifest["arrays"].keys() == source.manifest["arrays"].keys()
        for name, codes in contents(source).items():
            np.testing.assert_array_equal(store.read(name, range(VIEWS)), codes)
            assert store.manifest["arrays"][name]["error"] == source.manifest["arrays"][name]["error"]
        assert store.manifest["created"]["flip"] == {"views": 9, "error": 0.1}
        assert verify(store.path).ok


@pytest.mark.parametrize(("array", "encoding"), [
    ("heatmap", "u8-sqrt"), ("heatmap", "u8-sqrt-sparse"), ("wh_offset", "exact-fp16-sparse"),
    ("features", "u8-channel"), ("features", "pooled+exact-fp16"), ("features", "pca-6+exact-fp16"),
    ("features", "pca-3+pooled+u8-channel")])
def test_another_encoding_is_what_a_dump_of_those_values_would_hold(tmp_path: Path, array: str, encoding: str):
    source = dump(tmp_path / "a")
    convert(source, tmp_path / "b", encodings={array: encoding})
    result = storage.open_store(tmp_path / "b")
    assert result.spec.identity == {**source.spec.identity, "converted_from": source.content,
                                    "encodings": {**source.spec.identity["encodings"], array: encoding}}
    assert result.fingerprint != source.fingerprint
    given = {name: source.decode(name, codes) for name, codes in contents(source).items()}
    if array == "features":
        given[array] = storage.reduce(result.spec[array], given[array])
    expected, errors = encode_views(result.spec, given)
    for name, codes in contents(result).items():
        np.testing.assert_array_equal(codes, expected[name])
    error = result.manifest["arrays"][array]["error"]
    assert error["measured"] == pytest.approx(errors[array])
    assert error["measured"] <= error["bound"]
    assert verify(tmp_path / "b").ok


def test_a_reduced_map_may_be_coded_in_fewer_bits(tmp_path: Path):
    source = dump(tmp_path / "a", features="pca-3+pooled+exact-fp16")
    convert(source, tmp_path / "b", encodings={"features": "pca-3+pooled+u8-channel"})
    result, rows = storage.open_store(tmp_path / "b"), range(VIEWS)
    array, before = result.spec["features"], source.spec["features"].parameters
    assert {key: array.parameters[key] for key in before} == before
    step = np.asarray(array.parameters["step"])[:, None, None]
    exact = source.decode("features", source.read("features", rows))
    assert (np.abs(result.decode("features", result.read("features", rows)) - exact) <= 0.51 * step + 1e-6).all()


@pytest.mark.parametrize(("source", "change", "message"), [
    ({"heatmap": "u8-sqrt"}, {"heatmap": "exact-fp16"}, "u8-sqrt cannot become exact-fp16.*Dump the teacher"),
    ({"features": "pooled+exact-fp16"}, {"features": "exact-fp16"}, "cannot become"),
    ({"features": "pca-3+exact-fp16"}, {"features": "pca-2+u8-channel"}, "cannot become"),
    ({}, {"peaks": "exact-fp16"}, "'peaks' is exact-fp32 in every store"),
    ({}, {"heatmap": "u16"}, "array 'heatmap': encoding 'u16' is unknown"),
    ({}, {"maps": "u8-sqrt"}, "array 'maps' is not in this store"),
    ({}, {"heatmap": "pca-2+u8-channel"}, r"'heatmap': pca-2\+u8-channel is for features alone"),
    ({}, {"heatmap": "u8-channel"}, "'heatmap': u8-channel is for features alone"),
    ({}, {"heatmap": "pooled+exact-fp16"}, r"'heatmap': pooled\+exact-fp16 is for features alone"),
    ({}, {"wh_offset": "u8-sqrt"}, "'wh_offset': u8-sqrt is for heatmap alone"),
    ({}, {"features": "u8-sqrt-sparse"}, "'features': u8-sqrt-sparse is for heatmap alone"),
    ({}, {"features": "exact-fp16-sparse"}, "array 'features': exact-fp16-sparse is for wh_offset"),
    ({}, {"heatmap": "exact-fp16-sparse"}, "array 'heatmap': exact-fp16-sparse is for wh_offset"),
])
def test_what_cannot_be_is_refused(tmp_path: Path, source: dict, change: dict, message: str):
    store = dump(tmp_path / "a", **source)
    with pytest.raises(StoreError, match=message):
        convert(store, tmp_path / "b", encodings=change)
    assert not (tmp_path / "b").exists()


def test_an_encoding_says_itself_what_it_loses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    coarse = replace(storage.ENCODINGS["exact-fp16"], loses=2)
    monkeypatch.setitem(storage.ENCODINGS, "exact-coarse", coarse)
    convert(dump(tmp_path / "a"), tmp_path / "b", encodings={"wh_offset": "exact-coarse"})
    with pytest.raises(StoreError, match="exact-coarse cannot become exact-fp16"):
        convert(storage.open_store(tmp_path / "b"), tmp_path / "c", encodings={"wh_offset": "exact-fp16"})


def test_a_killed_conversion_that_had_not_tidied_up_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def nothing(*_: object, **__: object) -> None:
        pass

    source = dump(tmp_path / "a")
    with monkeypatch.context() as killed:
        killed.setattr("os.rename", nothing)
        killed.setattr("shutil.rmtree", nothing)
        convert(source, tmp_path / "b", backend="hdf5")
    assert (tmp_path / "b/.writing/lock").exists()
    convert(source, tmp_path / "b", backend="hdf5")
    assert not list((tmp_path / "b").glob(".*"))


def test_other_shards_than_a_store_has_are_refused(tmp_path: Path):
    source = dump(tmp_path / "a")
    convert(source, tmp_path / "b", shard_views=2)
    convert(source, tmp_path / "b", shard_views=2)
    convert(source, tmp_path / "b")
    with pytest.raises(StoreError, match=r"b: the store there has 2 views per shard, not 4\. Choose another path"):
        convert(source, tmp_path / "b", shard_views=4)


def test_a_store_is_not_converted_onto_itself_or_another(tmp_path: Path):
    source = dump(tmp_path / "a")
    with pytest.raises(StoreError, match="onto itself"):
        convert(source, tmp_path / "a", backend="hdf5")
    other = dump(tmp_path / "b", heatmap="u8-sqrt")
    with pytest.raises(StoreError, match=r"the store there is another one.*encodings\.heatmap"):
        convert(source, other.path)
    with pytest.raises(StoreError, match="the store there is zarr, not hdf5"):
        convert(source, other.path, backend="hdf5")


def test_a_damaged_view_is_named_and_nothing_looks_finished(tmp_path: Path):
    source = dump(tmp_path / "a")
    shard = tmp_path / "a/heatmap/c.1.0.0.0"
    data = bytearray(shard.read_bytes())
    data[60] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptStore, match="view 4 fails its checksum"):
        convert(source, tmp_path / "b", backend="hdf5")
    assert not (tmp_path / "b/manifest.json").exists()
    data[60] ^= 1
    shard.write_bytes(data)
    convert(source, tmp_path / "b", backend="hdf5")
    np.testing.assert_array_equal(storage.open_store(tmp_path / "b").read("heatmap", range(VIEWS)),
                                  source.read("heatmap", range(VIEWS)))


@pytest.mark.parametrize("change", [{}, {"heatmap": "u8-sqrt"}])
def test_sound_chunks_that_are_not_what_was_written_are_not_converted(tmp_path: Path, change: dict):
    source, other = dump(tmp_path / "a"), dump(tmp_path / "other")
    shard = "peaks/c.1.0.0"
    # A store of the same fingerprint, whose shard has the tag and the checksums of this one.
    rows = {name: codes[::-1] for name, codes in contents(source).items()}
    writer = storage.create_store(tmp_path / "turned", other.spec)
    for number in writer.pending():
        with writer.claim(number) as claim:
            for view in claim.views:
                claim.append({name: np.ascontiguousarray(codes[view]) for name, codes in rows.items()})
    writer.finish()
    assert (tmp_path / "turned" / shard).stat().st_size == (tmp_path / "a" / shard).stat().st_size
    (tmp_path / "a" / shard).write_bytes((tmp_path / "turned" / shard).read_bytes())
    with pytest.raises(CorruptStore, match=r"peaks/c\.1\.0\.0: the shard of views 4 to 7 has a wrong checksum"):
        convert(storage.open_store(tmp_path / "a"), tmp_path / "b", encodings=change)
    assert not (tmp_path / "b/manifest.json").exists()


def test_a_conversion_does_not_go_on_with_what_another_source_was_fitted_to(tmp_path: Path):
    first, second = (dump(tmp_path / name, features="u8-channel", scale=scale) for name, scale in (("a", 1), ("b", 3)))
    begun = storage.create_store(tmp_path / "out", first.spec)
    assert not begun.complete
    with pytest.raises(StoreError, match="the store there is another one"):
        convert(second, tmp_path / "out")


def test_what_is_damaged_while_it_is_written_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = dump(tmp_path / "a")
    real = storage.verify
    monkeypatch.setattr("storage.conversion.verify", lambda path: replace(real(path), problems=["heatmap is odd"]))
    with pytest.raises(CorruptStore, match="not sound: heatmap is odd"):
        convert(source, tmp_path / "b", backend="hdf5")
