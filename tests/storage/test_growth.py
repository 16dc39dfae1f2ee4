from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import continues, copy_views, create_store, open_store, verify


def grow(path, spec, rows, old, error=0.0):
    """Writes a store whose first views are those of `old`; returns how many were copied."""
    copied, writer = 0, create_store(path, spec)
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            copied += (done := copy_views(claim, old))
            for view in claim.views[done:]:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()}, {"heatmap": error})
    writer.finish()
    return copied


def files(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*")
            if file.is_file() and file.name != "manifest.json"}


@pytest.fixture
def write():
    """Writes a store of which all errors were measured, as one that grows has them."""
    def write(writer, rows):
        for shard in writer.pending():
            with writer.claim(shard) as claim:
                for view in claim.views:
                    claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()},
                                 dict.fromkeys(rows, 0.0))

    return write


@pytest.fixture
def make_old(tmp_path, make_spec, make_rows, write):
    def make(views, shard_views):
        spec = make_spec(views, shard_views, grown=False)
        rows = {name: codes[:views] for name, codes in make_rows(make_spec(20)).items()}
        writer = create_store(tmp_path / "old.zarr", spec)
        write(writer, rows)
        writer.finish()
        return open_store(tmp_path / "old.zarr")

    return make


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fixtures without a state
@given(views=st.integers(1, 20), old_shards=st.integers(1, 20), new_shards=st.integers(1, 20))
def test_a_grown_store_has_the_bytes_of_a_fresh_one(tmp_path_factory, views, old_shards, new_shards, make_spec,
                                                    make_rows, write):
    folder = tmp_path_factory.mktemp("growth")
    spec = make_spec(20, new_shards)
    rows = make_rows(spec)
    for name, wanted, given_rows in (("old", make_spec(views, old_shards, grown=False), views), ("fresh", spec, 20)):
        writer = create_store(folder / name, wanted)
        write(writer, {key: codes[:given_rows] for key, codes in rows.items()})
        writer.finish()
    assert grow(folder / "grown", spec, rows, open_store(folder / "old")) == views
    assert files(folder / "grown") == files(folder / "fresh")
    assert verify(folder / "grown").ok
    assert open_store(folder / "grown").fingerprint == open_store(folder / "fresh").fingerprint


def test_the_largest_error_of_the_older_store_counts(make_old, make_spec, make_rows, tmp_path):
    old, spec = make_old(10, 4), make_spec(20, 10)
    old.manifest["arrays"]["heatmap"]["error"]["measured"] = 4e-4
    for error, largest in ((1e-4, 4e-4), (4.5e-4, 4.5e-4)):
        path = tmp_path / f"{error}.zarr"
        grow(path, spec, make_rows(spec), old, error)
        assert open_store(path).manifest["arrays"]["heatmap"]["error"]["measured"] == largest


def test_copying_ends_before_a_damaged_shard(make_old, make_spec, make_rows, tmp_path):
    old, spec = make_old(10, 4), make_spec(20, 5)
    shard = next((old.path / "peaks").glob("*.1.*"))
    raw = bytearray(shard.read_bytes())
    raw[-60] ^= 1  # of view 7, the last of its shard
    shard.write_bytes(raw)
    rows, copied = make_rows(spec), []
    writer = create_store(tmp_path / "new.zarr", spec)
    for number in writer.pending():
        with writer.claim(number) as claim:
            copied.append(copy_views(claim, open_store(old.path)))
            for view in claim.views[copied[-1]:]:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()})
    writer.finish()
    assert copied == [4, 0, 0, 0]
    new = open_store(tmp_path / "new.zarr")
    for name, codes in rows.items():
        assert np.array_equal(new.read(name, range(20)), codes)


def test_what_continues_a_store(make_old, make_spec):
    old, spec = make_old(10, 4), make_spec(20)
    assert continues(old, spec)
    assert continues(old, make_spec(10, 3))
    assert not continues(old, make_spec(9))
    other = replace(spec, arrays=(replace(spec.arrays[0], encoding="u8-sqrt", dtype="uint8"), *spec.arrays[1:]))
    assert not continues(old, other)
    assert not continues(old, replace(spec, arrays=spec.arrays[1:]))
    old.manifest["arrays"]["peaks"]["error"]["measured"] = None
    assert not continues(old, spec)
