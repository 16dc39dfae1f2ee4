"""The store is a valid Zarr v3 group: zarr-python, the oracle, reads it back equal."""

import tempfile
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import storage
from storage import ArraySpec, StoreSpec


def test_zarr_python_reads_every_array_back_equal(store_path: Path, spec, rows):
    group = zarr.open_group(store_path, mode="r")
    assert {name for name, _ in group.members()} == set(rows)  # a warning would be an error here
    for name, codes in rows.items():
        array = group[name]
        assert array.shape == codes.shape
        assert array.dtype == codes.dtype
        assert array.chunks == (1, *codes.shape[1:])
        assert array.shards == (spec.shard_views, *codes.shape[1:])
        assert np.array_equal(array[:], codes)
        assert np.array_equal(array[7], codes[7])


def test_each_array_opens_by_itself(store_path: Path, rows):
    for name, codes in rows.items():
        assert np.array_equal(zarr.open_array(store_path / name, mode="r")[:], codes)


def test_zarr_python_finds_the_description(store_path: Path, spec):
    group = zarr.open_group(store_path, mode="r")
    assert group.attrs["classes"] == ["cat", "dog"]
    assert group.attrs["identity"] == spec.identity
    assert group.attrs["fingerprint"] == spec.fingerprint
    assert group["heatmap"].attrs["encoding"] == "exact-fp16"


def test_files_have_the_names_that_zarr_python_gives_them(tmp_path: Path, store_path: Path, rows):
    theirs = zarr.create_group(tmp_path / "theirs")
    ours = zarr.open_group(store_path, mode="r")
    for name, codes in rows.items():
        array = theirs.create_array(
            name, shape=codes.shape, shards=ours[name].shards, chunks=ours[name].chunks, dtype=codes.dtype,
            chunk_key_encoding={"name": "default", "separator": "."})
        array[:] = np.where(codes == 0, 1, codes)  # zarr-python leaves out what is all zero

    def files(path: Path) -> set[str]:
        return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}

    assert files(store_path) == files(tmp_path / "theirs") | {"manifest.json"}


def test_all_zero_views_are_stored(tmp_path: Path, make_spec, write):
    spec = make_spec(3, 2)
    writer = storage.create_store(tmp_path / "zeros", spec)
    write(writer, {array.name: np.zeros((3, *array.shape), array.code_dtype) for array in spec.arrays})
    writer.finish()
    assert (tmp_path / "zeros/heatmap/c.1.0.0.0").stat().st_size > 32 + 16 * 2 + 4
    assert not storage.open_store(tmp_path / "zeros").read("heatmap", [0, 1, 2]).any()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_dtype_and_shape_agrees_with_zarr_python(data: st.DataObject):
    dtype = data.draw(st.sampled_from(["bool", "uint8", "int8", "uint16", "int32", "uint64", "float16", "float32",
                                       "float64"]))
    views, shard_views = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    codes = data.draw(hnp.arrays(dtype, (views, *shape)))
    spec = StoreSpec((ArraySpec("x", shape, dtype),), views, shard_views, {})
    with tempfile.TemporaryDirectory() as folder:
        writer = storage.create_store(f"{folder}/s", spec)
        for shard in writer.pending():
            with writer.claim(shard) as claim:
                for view in claim.views:
                    claim.append({"x": np.asarray(codes[view])})
        writer.finish()
        theirs = zarr.open_group(f"{folder}/s", mode="r")["x"][:]
        ours = storage.open_store(f"{folder}/s").read("x", range(views))
    assert theirs.tobytes() == ours.tobytes() == codes.tobytes()
