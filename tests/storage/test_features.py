"""Encodings of feature maps: what is reduced, fitted and cut into steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import (
    ArraySpec,
    StoreError,
    StoreSpec,
    channel_variances,
    decode,
    encode,
    encode_views,
    fit_parameters,
    measure,
    reduce,
    reduced_shape,
    sample_cells,
)

GRID = (6, 8)


def features(views: int = 5, channels: int = 12, rank: int = 3, seed: int = 0, grid: tuple[int, int] = GRID):
    """Maps of `rank` hidden causes with a little noise, channels of unlike scale."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(views, rank, *grid))
    mixing = rng.normal(size=(channels, rank)) * np.logspace(-2, 2, channels)[:, None]
    noise = 1e-4 * rng.normal(size=(views, channels, *grid))
    return (np.einsum("cr,nrhw->nchw", mixing, causes) + noise + 3).astype(np.float32)


def fitted(encoding: str, values: np.ndarray) -> ArraySpec:
    return ArraySpec("features", reduced_shape(encoding, values.shape[1:]), encoding=encoding,
                     parameters=fit_parameters(encoding, sample_cells(encoding, values)))


@pytest.mark.parametrize("encoding", ["u8-channel", "pooled+u8-channel", "pca-3+u8-channel", "pca-3+pooled+u8-channel"])
def test_codes_are_within_half_a_step_of_what_was_reduced(encoding: str):
    values = features()
    spec = fitted(encoding, values)
    small = reduce(spec, values)
    codes = encode(spec, small)
    assert codes.dtype == np.uint8
    assert codes.shape[1:] == spec.shape
    step = np.array(spec.parameters["step"])[:, None, None]
    assert (np.abs(decode(spec, codes) - small) <= 0.501 * step).all()
    assert measure(spec, small, codes) <= 0.501
    assert (codes.min(), codes.max()) == (64, 191)  # the sample's range is half of what the codes reach


@pytest.mark.parametrize("spread", [1e-3, 1e-4, 1e-5, 1e-6, 0.0])
@pytest.mark.parametrize("mean", [0.5, -300.0])
def test_a_channel_that_hardly_varies_has_steps_that_float32_can_tell(spread: float, mean: float):
    values = (mean * (1 + spread * features())).astype(np.float32)
    spec = fitted("u8-channel", values)
    codes = encode(spec, values)
    assert measure(spec, values, codes) <= 0.51
    step = np.array(spec.parameters["step"])[:, None, None]
    assert (np.abs(decode(spec, codes) - values) <= 0.51 * step).all()
    assert (step <= 7e-6 * np.abs(values).max() + np.ptp(values, (0, 2, 3))[:, None, None] / 100).all()


def test_each_channel_has_a_scale_of_its_own():
    values = features()
    spec = fitted("u8-channel", values)
    error = (decode(spec, encode(spec, values)) - values).std((0, 2, 3)) / values.std((0, 2, 3))
    assert (error < 0.02).all()


def test_cells_that_go_half_the_samples_range_beyond_it_are_kept():
    values = features()
    spec = fitted("u8-channel", values)
    step = np.array(spec.parameters["step"], np.float32)[:, None, None]
    low, high = values.min((0, 2, 3))[:, None, None], values.max((0, 2, 3))[:, None, None]
    for far in (low - 0.49 * (high - low), high + 0.49 * (high - low)):
        wide = np.broadcast_to(far, (1, *spec.shape)).astype(np.float32)
        assert (np.abs(decode(spec, encode(spec, wide)) - wide) <= 0.501 * step).all()


def test_values_beyond_the_sample_saturate():
    spec = fitted("u8-channel", features())
    far = np.full((1, 12, *GRID), 1e9, np.float32)
    assert (encode(spec, far) == 255).all()
    assert (encode(spec, -far) == 0).all()
    with pytest.raises(StoreError, match="not finite"):
        encode(spec, far * np.nan)


def test_components_are_standardised_and_explain_what_varies():
    values = features(views=40)
    spec = fitted("pca-3+exact-fp16", values)
    small = reduce(spec, values)
    assert small.shape == (40, 3, *GRID)
    assert np.allclose(small.mean((0, 2, 3)), 0, atol=0.1)
    flat = small.transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.allclose(np.cov(flat), np.eye(3), atol=0.15)
    assert spec.parameters["explained_variance"] > 0.999
    # Nothing but the noise is lost: the map is a linear function of the components.
    again = np.linalg.lstsq(np.c_[flat.T, np.ones(flat.shape[1])],
                            values.transpose(0, 2, 3, 1).reshape(-1, 12), rcond=None)[1]
    assert (again < 1e-3 * values.var((0, 2, 3)) * flat.shape[1] + 1e-2).all()


def test_a_store_still_knows_how_much_each_component_varied():
    values = features()
    cells = values.transpose(0, 2, 3, 1).reshape(-1, values.shape[1])
    variance = np.linalg.eigvalsh(np.cov(cells, rowvar=False, ddof=0))[::-1][:2]
    told = channel_variances(fitted("pca-2+u8-channel", values))
    np.testing.assert_allclose(told, variance / variance.mean(), rtol=1e-3)
    assert channel_variances(fitted("u8-channel", values)) == [1.0] * 12


def test_fitting_is_repeatable_and_says_how_much_is_lost():
    values = features(rank=6)
    assert fitted("pca-2+u8-channel", values) == fitted("pca-2+u8-channel", values.copy())
    assert fitted("pca-2+u8-channel", values).parameters["explained_variance"] < 1


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7))
def test_pooling_is_the_mean_of_four_cells(height: int, width: int):
    values = np.random.default_rng(height).normal(size=(2, 3, height, width)).astype(np.float32)
    spec = ArraySpec("features", reduced_shape("pooled+exact-fp16", values.shape[1:]), encoding="pooled+exact-fp16")
    small = reduce(spec, values)
    assert small.shape == (2, *spec.shape)
    even = np.pad(values, [(0, 0), (0, 0), (0, height % 2), (0, width % 2)], "edge")
    assert np.allclose(small, even.reshape(2, 3, small.shape[2], 2, small.shape[3], 2).mean((3, 5)), atol=1e-6)


def test_a_batch_is_of_reduced_maps():
    values = features()
    array = fitted("pca-3+pooled+u8-channel", values)
    spec, small = StoreSpec((array,), 5, 5, {}), reduce(array, values)
    codes, errors = encode_views(spec, {"features": small})
    assert np.array_equal(codes["features"], encode(array, small))
    assert errors["features"] <= 0.501
    with pytest.raises(StoreError, match=r"'features': a view of .*shape \(3, 3, 4\), not \(12, 6, 8\).*reduced first"):
        encode_views(spec, {"features": values})


@pytest.mark.parametrize("name", ["pca+u8-channel", "pca-0+u8-channel", "pooled", "pca-3", "pooled+pca-3+u8-channel",
                                  "u8-channel+pooled", "pca-3+u8-sqrt", "pca-99999+exact-fp16"])
def test_other_names_are_no_encodings(name: str):
    with pytest.raises(StoreError, match=r"unknown\. Available: .*u8-channel"):
        ArraySpec("features", (3, 4, 4), encoding=name)


def test_all_channels_are_kept_where_there_are_no_more_than_components():
    values = features()
    assert reduced_shape("pca-32+u8-channel", values.shape[1:]) == values.shape[1:]
    array = fitted("pca-32+u8-channel", values)
    assert array.parameters["explained_variance"] == 1
    assert reduce(array, values).shape == values.shape


@pytest.mark.parametrize("damage", [
    lambda p: p.pop("low"), lambda p: p.update(step=[1.0]), lambda p: p.update(mean="x"),
    lambda p: p.update(projection=[[0.0] * 11] * 3), lambda p: p.update(low=[[1.0]] * 3), lambda p: p.update(mean=[]),
    lambda p: p.update(step=["a"] * 3), lambda p: p.update(low=[1e300] * 3), lambda p: p.update(step=[1.0, 0.0, 1.0]),
    lambda p: p.update(step=[1.0, 1e-60, 1.0]), lambda p: p.update(projection=[[1.0] * 12, [1e-200] * 12, [1.0] * 12])])
def test_parameters_that_do_not_fit_are_refused_before_any_use(damage):
    array = fitted("pca-3+u8-channel", features())
    parameters = dict(array.parameters)
    damage(parameters)
    with pytest.raises(StoreError, match="needs the parameter"):
        ArraySpec("features", array.shape, encoding=array.encoding, parameters=parameters)
    with pytest.raises(StoreError, match="does not fit encoding"):
        ArraySpec("features", (4, *GRID), encoding=array.encoding, parameters=array.parameters)


def test_a_diverged_teacher_is_no_sample():
    with pytest.raises(StoreError, match="diverged"):
        fit_parameters("u8-channel", np.full((4, 2), np.nan))
