"""What a store says of itself, and its fingerprint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import ArraySpec, StoreError, StoreSpec, canonical, differences, fingerprint, in_short

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_the_fingerprint_is_of_the_content_not_of_the_order(value: dict):
    shuffled = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(shuffled) == fingerprint(json.loads(canonical(value)))


def test_the_fingerprint_never_changes():
    assert canonical({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"\\u00e4","b":[1,2.5,null]}'
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, np.float32(1), b"x"])
def test_what_json_cannot_say_has_no_fingerprint(value: object):
    with pytest.raises(StoreError, match="JSON"):
        fingerprint({"x": value})


@settings(max_examples=30)
@given(st.dictionaries(st.text(), json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4),
       st.integers(1, 100), st.integers(1, 100))
def test_a_spec_survives_json(identity: dict, attributes: dict, views: int, shard_views: int):
    spec = StoreSpec(
        (ArraySpec("a", (2, 3), "uint8", "raw", {"scale": (1, 2)}), ArraySpec("b", (), encoding="exact-fp32")),
        views, shard_views, identity, attributes)
    again = StoreSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.fingerprint == spec.fingerprint
    ranges = [spec.shard_range(shard) for shard in range(spec.shards)]
    assert [view for views_of in ranges for view in views_of] == list(range(views))


def test_the_fingerprint_is_of_what_decides_the_content(spec: StoreSpec):
    same = [replace(spec, shard_views=7), replace(spec, attributes={}),
            replace(spec, arrays=tuple(reversed(spec.arrays)))]
    other = [replace(spec, views=12), replace(spec, identity={}), replace(spec, arrays=spec.arrays[1:]),
             replace(spec, arrays=(replace(spec.arrays[0], parameters={"k": 1}), *spec.arrays[1:]))]
    assert {each.fingerprint for each in same} == {spec.fingerprint}
    assert len({each.fingerprint for each in [spec, *other]}) == 5


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "../x"}, "name"),
    ({"name": "a/b"}, "name"),
    ({"name": ".."}, "name"),
    ({"name": ""}, "name"),
    ({"name": 3}, "name"),
    ({"shape": (0, 2)}, "shape"),
    ({"shape": (-1,)}, "shape"),
    ({"shape": (1.5,)}, "shape"),
    ({"shape": (10**6, 10**6)}, "bytes per view"),
    ({"shape": (1,) * 32}, "32 axes, more than 31"),
    ({"dtype": "float64"}, "expected float16"),
    ({"encoding": "raw", "dtype": "object"}, "dtype"),
    ({"encoding": "raw", "dtype": "complex64"}, "dtype"),
    ({"encoding": "raw", "dtype": ""}, "dtype"),
    ({"encoding": "raw", "dtype": "nonsense"}, "dtype"),
    ({"encoding": "raw", "dtype": "(,)f4"}, "dtype"),
    ({"encoding": "raw", "dtype": "(2,)f4"}, "dtype"),
    ({"encoding": "raw", "dtype": "float128"}, "dtype"),
    ({"encoding": "u9"}, "Available: raw, exact-fp16"),
    ({"parameters": {"x": float("nan")}}, "JSON"),
])
def test_arrays_that_cannot_be_stored_are_refused(arguments: dict, message: str):
    with pytest.raises(StoreError, match=message):
        ArraySpec(**{"name": "heatmap", "shape": (2,), "encoding": "exact-fp16", **arguments})


@pytest.mark.parametrize("changes", [
    {"views": 0}, {"views": 2.0}, {"views": True}, {"shard_views": 0}, {"shard_views": 2**30}, {"arrays": ()},
    {"arrays": (ArraySpec("a", (), "uint8"), ArraySpec("A", (), "uint8"))}, {"identity": {"x": {1}}},
])
def test_stores_that_cannot_be_written_are_refused(spec: StoreSpec, changes: dict):
    with pytest.raises(StoreError):
        replace(spec, **changes)


@pytest.mark.parametrize("damage", [
    {"views": None}, {"arrays": 3}, {"arrays": [3]}, {"arrays": [{"name": "a"}]}, {"extra": 1}, {"identity": [1]},
    {"arrays": [{"name": "a", "shape": 3}]}, {"arrays": [{"name": "a", "shape": [1], "dtype": ["x"]}]},
    {"identity": "ab"},
])
def test_a_description_that_is_none_is_refused(spec: StoreSpec, damage: dict):
    with pytest.raises(StoreError):
        StoreSpec.from_json({**spec.to_json(), **damage})


def test_differences_name_the_dotted_field_and_both_values():
    found = {"weights": "a" * 100, "size": [32, 32], "views": {"data": 1, "seed": 2}}
    assert differences(found, {"size": (32, 32), "views.data": 1, "views": {"seed": 2}}, both_ways=False) == []
    [line] = differences(found, {"views": {"seed": 3}}, both_ways=False)
    assert line == "views.seed is 2, expected 3"
    lines = differences(found, {"weights": "b", "colour": "bgr", "size": [32, 32]}, both_ways=True)
    assert [line.partition(" is ")[0] for line in lines] == ["colour", "weights", "views.data", "views.seed"]
    assert all(len(line) < 200 for line in lines)


@pytest.mark.parametrize(("names", "text"), [("a", "a"), ("abc", "a; b; c"), ("abcd", "a; b; c; and 1 more"),
                                             ("abcdef", "a; b; c; and 3 more")])
def test_of_many_differences_three_are_named_and_the_others_counted(names: str, text: str):
    assert in_short([*names]) == text


def test_an_unknown_array_lists_what_there_is(spec: StoreSpec):
    with pytest.raises(StoreError, match="heatmap, peaks, record, scale"):
        spec["features"]
