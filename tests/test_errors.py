"""What a person is told about a name that is not there."""

import pytest

from pipeline.errors import unknown


@pytest.mark.parametrize(("available", "said"), [
    ([], "thing 'n13' is unknown. Available: none."),
    (["a", "b"], "thing 'n13' is unknown. Available: a, b."),
    ([f"n{i}" for i in range(10)],
     "thing 'n13' is unknown. Did you mean 'n3'? Available: n0, n1, n2, n3, n4, n5, n6, n7, n8, n9."),
])
def test_all_names_are_listed_where_they_are_few(available, said):
    assert str(unknown("thing", "n13", available)) == said


@pytest.mark.parametrize(("name", "nearest"), [("resnet19", "resnet18"), ("", "")])
def test_of_many_the_five_nearest_are_listed_and_how_many_there_are(name, nearest):
    message = str(unknown("Model", name, [*(f"vgg{i}" for i in range(56)), "resnet18", "resnet34", "resnet50"]))
    listed = message.partition("The nearest of 59: ")[2].removesuffix(".").split(", ")
    assert len(listed) == 5
    assert listed[0].startswith(nearest)
