import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import UserError
from pipeline.targets import TargetTransform, dequantise
from storage import ENCODINGS, ArraySpec, decode, encode, fit_parameters, reduce, reduced_shape, sample_cells


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(values=hnp.arrays(np.float32, (2, 3, 4, 4), elements=st.floats(0, 1, width=32)))
def test_torch_says_what_storage_says(encoding, values):
    array = ArraySpec("wh_offset", (3, 4, 4), ENCODINGS[encoding].dtype or "float32", encoding)
    codes = encode(array, values)
    found = dequantise(torch.from_numpy(codes), array)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), decode(array, codes))


@pytest.mark.parametrize("encoding", ["u8-channel", "pooled+exact-fp16", "pca-3+u8-channel", "pca-2+pooled+u8-channel"])
def test_features_come_back_in_the_form_in_which_they_are_stored(encoding):
    values = np.random.default_rng(0).normal(2, 5, (4, 6, 6, 8)).astype(np.float32)
    array = ArraySpec("features", reduced_shape(encoding, values.shape[1:]), encoding=encoding,
                      parameters=fit_parameters(encoding, sample_cells(encoding, values)))
    codes = encode(array, reduce(array, values))
    found = dequantise(torch.from_numpy(codes), array)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), decode(array, codes))


def test_an_encoding_that_is_not_known_is_named():
    array = ArraySpec("heatmap", (1,), "uint8")
    object.__setattr__(array, "encoding", "u4-cubic")
    with pytest.raises(UserError, match="'u4-cubic' is unknown"):
        dequantise(torch.zeros(1, 1), array)


def test_codes_become_the_teachers_values():
    shapes = {"both/heatmap": (2, 4, 4), "both/peaks": (5, 7),
              "resnet50/features": (8, 4, 4), "net_2+x/features": (6, 4, 4)}
    arrays = {name: ArraySpec(name.split("/")[1], shape, encoding="exact-fp16")
              for name, shape in shapes.items()}
    batch = {name: torch.rand(3, *shape).half() for name, shape in shapes.items()}
    ready = TargetTransform(arrays, "both")({**batch, "heatmap": torch.zeros(3, 2, 4, 4)})
    assert set(ready) == {"heatmap", "teacher"}
    teacher = ready["teacher"]
    assert torch.equal(teacher.heatmap, batch["both/heatmap"].float())
    assert torch.equal(teacher.peaks, batch["both/peaks"].float())
    assert {name: tuple(value.shape) for name, value in teacher.features.items()} == {
        "resnet50": (3, 8, 4, 4), "net_2+x": (3, 6, 4, 4)}


def test_without_stores_a_batch_passes():
    batch = {"image": torch.zeros(1)}
    assert TargetTransform({}, None)(batch) == batch
