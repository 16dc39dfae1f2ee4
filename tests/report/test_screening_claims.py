import pytest

from pipeline.report.cells import Screened
from pipeline.report.results import Origin
from pipeline.report.screening_claims import screening_claims

BOTH = "resnet50+hourglass_small"


@pytest.fixture
def found(study, tree):
    """A study of two students."""
    tree["recipes"]["hourglass_small"] = {"teachers": ["hourglass_small"]}
    tree["distill"] = {"students": ["resnet18", "mobilenet_v2"], "recipes": ["plain", BOTH]}
    return study


def by_group(cells):
    return {group: [cell for cell in cells if cell.group == group] for group in {cell.group for cell in cells}}


def test_few_labels_are_compared_on_val_at_equal_passes(found, tree, student_metrics):
    tree["screening"] = {"labels": {"students": ["resnet18"], "recipe": BOTH, "variations": {"25-unlabelled": []}}}
    study = found({("resnet18", "plain"): [40.0, 41.0, 42.0]})  # on val one more

    def cell(seed, score, **changes):
        about = {"group": "labels", "variation": "25-unlabelled"} | changes
        return Screened.model_validate(student_metrics("resnet18", BOTH, seed, score) | about)

    study.results.runs["resnet18", "plain"][3] = study.results.runs["resnet18", "plain"][0].model_copy(
        update={"seed": 3, "origin": Origin(precision="32-true")})
    cells = [cell(0, 45.0), cell(1, 45.0), cell(2, 99.0, passes=9.0), cell(0, 9.0, variation="25"),
             cell(3, 99.0, origin={"precision": "bf16-mixed"}), cell(5, 9.0)]
    few, over_few = screening_claims(study, {"labels": cells})
    assert few.claim.startswith("ResNet-18: 25 % of the labels")  # of two students that params distil
    assert over_few.claim.endswith("over the labelled images alone, on val")
    assert (over_few.differences["resnet18"], over_few.reached) == ({0: 36.0}, False)
    assert (few.differences["resnet18"], few.unfair, few.asked, few.reached) == ({0: 4.0, 1: 3.0}, 2, "not worse", True)
    assert screening_claims(study, {"labels": [cell(0, 40.0)]})[-1].reached is False  # alone
    assert screening_claims(study, {})[-1].reached is None


def test_longer_runs_are_compared_with_others_as_long(found, tree, student_metrics):
    twice = {"whole": [], "twofold": ["distill.train.epochs=10"]}
    tree["screening"] = {name: {"students": ["resnet18"], "recipe": recipe, "variations": twice} for name, recipe in
                         (("both", BOTH), ("alone", "plain"), ("one", "hourglass_small"))}
    tree["screening"]["labels"] = tree["screening"]["alone"] | {"variations": {"half": ["data.labels=.5"]}}
    study = found({("resnet18", "plain"): [40.0, 41.0]})
    usual = study.results.runs["resnet18", "plain"][0].passes

    def cell(group, seed, score, times=2, **changes):
        about = {"group": group, "variation": "twofold", "passes": times * usual}
        return Screened.model_validate(
            student_metrics("resnet18", study.params.screening[group].recipe, seed, score) | about | changes)

    cells = [cell("both", 0, 90.0), cell("both", 1, 91.0), cell("alone", 0, 88.0), cell("alone", 1, 88.0),
             cell("both", 2, 9.0), cell("alone", 2, 8.0, times=4), cell("labels", 2, 8.0, variation="half"),
             cell("both", 4, 9.0, times=1),
             cell("alone", 4, 8.0, times=1), cell("both", 5, 9.0, origin={"precision": "32-true"}),
             cell("alone", 5, 1.0, origin={"precision": "bf16-mixed"}), cell("one", 0, 89.5)]
    over_plain, over_one = screening_claims(study, by_group(cells))
    after = f"after {2 * usual:,.0f} passes, on val"
    assert over_plain.claim == f"ResNet-18: two teachers over plain, {after}"  # of two students that params distil
    assert (over_plain.differences["resnet18"], over_plain.unfair, over_plain.main) == ({0: 2.0, 1: 3.0}, 1, True)
    assert over_one.claim == f"ResNet-18: two teachers over the better single one, Hourglass (small), {after}"
    assert over_one.differences["resnet18"] == {0: 0.5}
    assert screening_claims(study, by_group([cell("both", 0, 90.0), cell("alone", 1, 88.0)])) == []
