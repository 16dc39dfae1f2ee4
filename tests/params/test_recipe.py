import pytest
from pydantic import ValidationError

from pipeline.params import Recipe

TWO = {"teachers": ["a", "b"], "ensemble": "both"}
HEADS = [1000.0, 1.0, 0.1, 0.0]


@pytest.mark.parametrize("recipe", [
    {}, {"views": "fresh"}, {"teachers": ["a"]}, {"teachers": ["a"], "views": "fresh"},
    TWO, {**TWO, "ensemble": "separate"},
    {"oracle": True, "weights": HEADS}, {**TWO, "attention": ["agreement"]}, {"teachers": ["a"], "attention": []},
    {**TWO, "features_of": ["b"]}, {**TWO, "features": "fgd", "attention": ["spatial"]},
    {"teachers": ["a"], "unlabelled": True}, {"teachers": ["a"], "unlabelled": True, "ground_truth": 0.0},
    {"oracle": True, "weights": HEADS, "attention": ["heatmap"], "attend_outputs": True},
])
def test_what_fits_together_is_taken(recipe):
    Recipe(**recipe)


def test_separate_reads_no_merged_store():
    assert Recipe(**TWO).merged == "both"
    separate = Recipe(**TWO | {"ensemble": "separate"})
    assert separate.separate
    assert separate.merged is None


@pytest.mark.parametrize(("recipe", "words"), [
    ({"teachers": ["a", "b"]}, "ensembles' or 'separate'"),
    ({"teachers": ["a", "a"], "ensemble": "both"}, "twice"),
    ({"ensemble": "both"}, "'both' without teachers"),
    ({"teachers": ["a"], "ensemble": "separate"}, "two teachers"),
    ({"oracle": True, "teachers": ["a"], "weights": HEADS}, "drop the teachers"),
    ({"oracle": True}, r"write weights: \[1000, 1, 0.1, 0\]"),
    ({"views": "fresh", "teachers": ["a"], "unlabelled": True}, "'fresh' are of images with labels"),
    ({"views": "fresh", "oracle": True, "weights": HEADS}, "set oracle and unlabelled to false"),
    ({"attention": True}, "list of spatial, channel, heatmap and agreement"),
    ({"attention": ["spatial", "spatial"]}, "twice"),
    ({"teachers": ["a"], "attention": ["agreement"]}, "'agreement' needs at least two teachers"),
    ({"teachers": ["a"], "attention": ["channel"], "attend_outputs": True}, "spatial, heatmap or agreement"),
    ({"oracle": True, "weights": HEADS, "attend_outputs": True}, r"write attention: \[heatmap\]"),
    ({"unlabelled": True}, "unlabelled needs teachers"),
    ({"unlabelled": True, "oracle": True, "weights": HEADS}, "unlabelled needs teachers"),
    ({"unlabelled": True, "teachers": ["a"], "weights": [0, 0, 0, 0]}, "not all zeros"),
    ({"ground_truth": 0.0}, "nothing to learn from"),
    ({**TWO, "weights": [0, 0, 0, 0], "ground_truth": 0.0}, "nothing to learn from"),
    ({**TWO, "features_of": ["c"]}, r"features_of names c, but the teachers are \['a', 'b'\]"),
    ({**TWO, "features_of": []}, "at least 1"),
    ({"schedule_share": 0.0}, "greater than 0"),
    ({"heatmap": "focal"}, "'soft-focal'"),
])
def test_what_does_not_is_refused_with_what_to_write(recipe, words):
    with pytest.raises(ValidationError, match=words):
        Recipe(**recipe)
