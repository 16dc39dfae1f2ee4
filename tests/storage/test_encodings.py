"""Encodings keep their promise."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage import ENCODINGS, ArraySpec, StoreError, StoreSpec, decode, encode, encode_views, measure
from storage.compressors import LZ4_BITSHUFFLE
from storage.errors import CorruptStore

SHAPE = (2, 5)
finite = st.floats(-60000, 60000, width=32)
DTYPES = st.sampled_from(["bool", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64"])


@pytest.mark.parametrize("encoding", ["exact-fp16", "exact-fp32"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_error_is_within_the_bound(encoding: str, data: st.DataObject):
    spec = ArraySpec("heatmap", SHAPE, encoding=encoding)
    values = data.draw(hnp.arrays(np.float32, (3, *SHAPE), elements=finite))
    codes = encode(spec, values)
    assert codes.dtype == spec.code_dtype
    decoded = decode(spec, codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == values.shape
    error = measure(spec, values, codes)
    assert error <= ENCODINGS[encoding].bound * (1 + 1e-6)
    if encoding == "exact-fp32":
        assert np.array_equal(decoded, values)


@pytest.mark.parametrize("encoding", ["u8-sqrt", "u8-sqrt-sparse"])
@settings(max_examples=60, deadline=None)
@given(values=hnp.arrays(np.float32, (3, *SHAPE), elements=st.floats(0, 1, width=32)))
def test_a_probability_is_off_by_one_in_255_at_most(encoding: str, values: np.ndarray):
    spec = ArraySpec("heatmap", SHAPE, encoding=encoding)
    codes = encode(spec, values)
    decoded = decode(spec, codes)
    assert np.abs(decoded - values).max() <= 1 / 255 + 1e-6
    assert measure(spec, values, codes) <= ENCODINGS[encoding].bound * (1 + 1e-6)
    # Equal or greater probabilities stay so, and 0 and 1 are exact.
    assert (np.diff(decoded.ravel()[np.argsort(values.ravel(), kind="stable")]) >= 0).all()
    assert decode(spec, encode(spec, np.float32([0, 1]))).tolist() == [0, 1]
    if encoding == "u8-sqrt-sparse":
        assert not codes[values < 1 / 255].any()


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_what_is_no_probability_is_refused(value: float):
    with pytest.raises(StoreError, match=r"'heatmap'.*not in 0\.\.1"):
        encode(ArraySpec("heatmap", (1,), encoding="u8-sqrt"), np.float32([value]))


def test_boxes_are_kept_around_cells_that_matter_and_exactly_there():
    grid = (7, 9)
    spec = StoreSpec((ArraySpec("heatmap", (2, *grid), encoding="u8-sqrt-sparse"),
                      ArraySpec("wh_offset", (4, *grid), encoding="exact-fp16-sparse")), 3, 2, {})
    rng = np.random.default_rng(0)
    boxes = rng.normal(0, 9, (3, 4, *grid)).astype(np.float16).astype(np.float32)
    heatmap = np.full((3, 2, *grid), 0.049, np.float32)
    heatmap[0, 1, 3, 4] = heatmap[1, 0, 0, 8] = 0.051
    codes, errors = encode_views(spec, {"heatmap": heatmap, "wh_offset": boxes})
    kept = decode(spec["wh_offset"], codes["wh_offset"])
    near = np.zeros((3, 1, *grid), bool)
    near[0, :, 2:5, 3:6] = near[1, :, :2, 7:] = True
    assert np.array_equal(kept, np.where(near, boxes, 0))
    assert errors["wh_offset"] == 0
    assert errors["heatmap"] <= 1 / 255


@pytest.mark.parametrize("encoding", ["exact-fp16", "exact-fp32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_do_not_fit_are_refused_by_name(encoding: str, value: float):
    with pytest.raises(StoreError, match=r"'heatmap'.*not finite"):
        encode(ArraySpec("heatmap", (1,), encoding=encoding), np.array([value]))


def test_wrong_codes_have_a_large_error():
    spec = ArraySpec("heatmap", SHAPE, encoding="exact-fp16")
    values = np.full(SHAPE, 0.5, np.float32)
    assert measure(spec, values, np.zeros(SHAPE, np.float16)) == 1
    assert np.isnan(measure(spec, values, np.full(SHAPE, np.nan, np.float16)))


def test_raw_takes_only_its_own_dtype():
    spec = ArraySpec("record", (2,), "int64")
    values = np.array([2**53 + 1, -1])
    assert encode(spec, values) is values
    assert measure(spec, values, values) == 0
    with pytest.raises(StoreError, match="int64, not float64"):
        encode(spec, values.astype(float))


@settings(max_examples=40, deadline=None)
@given(st.data(), DTYPES)
def test_compression_loses_nothing(data: st.DataObject, dtype: str):
    codes = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3)))
    out = np.empty_like(codes)
    LZ4_BITSHUFFLE.decompress(memoryview(LZ4_BITSHUFFLE.compress(codes)), out)
    assert out.tobytes() == codes.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_chunks_are_an_error_and_write_nowhere_else(data: st.DataObject):
    chunk = bytearray(LZ4_BITSHUFFLE.compress(np.arange(1000, dtype=np.int16)))
    guarded = np.full(1002, 7, np.int16)
    if data.draw(st.booleans()):
        chunk = chunk[:data.draw(st.integers(0, len(chunk) - 1))]
    else:
        chunk[data.draw(st.integers(0, len(chunk) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(CorruptStore):  # not every flip is noticed here: the checksum comes first
        LZ4_BITSHUFFLE.decompress(memoryview(bytes(chunk)), guarded[1:-1])
    assert guarded[0] == guarded[-1] == 7


@pytest.mark.parametrize("wanted", [999, 1001])
def test_a_chunk_of_another_size_is_refused(wanted: int):
    chunk = LZ4_BITSHUFFLE.compress(np.zeros(1000))
    with pytest.raises(CorruptStore, match="8000 bytes"):
        LZ4_BITSHUFFLE.decompress(memoryview(chunk), np.empty(wanted))
