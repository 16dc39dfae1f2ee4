import json
import re

import pytest

from pipeline.billing.bill import Plan, StoreCost, StudentCost, Taught, deciding
from pipeline.errors import UserError
from pipeline.report.bill import bill_sections
from pipeline.report.document import DASH

BOTH = "resnet50+hourglass_small"
STORES = ["views", "resnet50", "hourglass_small", "ensemble-both"]


@pytest.fixture
def made(monkeypatch):
    """Says that the stores of both teachers took 150 s in all."""
    def open_store(path):
        names = dict(zip(STORES, (1.0, 90.0, 50.0, 10.0), strict=True))
        if path.stem not in names:
            raise FileNotFoundError(path)

        class Made:
            manifest = {"created": {"shard_seconds": names[path.stem]}, "counts": {"bytes": 3_000_000}}  # noqa: RUF012

        return Made

    monkeypatch.setattr("pipeline.billing.bill.open_store", open_store)


@pytest.fixture
def plan(study):
    """An epoch from the store planned at 20 s, with live teachers at 60 s, the stores at 70 s."""
    costs, about = dict(zip(STORES, (1.0, 40.0, 20.0, 10.0), strict=True)), study({})
    return Plan(deciding=deciding(about.params, about.data, ["resnet18"], [BOTH]), images=1, views=4, size=(32, 32),
                device="a gpu", untrained=[],
                recipes={BOTH: STORES[1:]},
                stores={name: StoreCost(seconds=seconds, bytes=2_000_000) for name, seconds in costs.items()},
                students={"resnet18": StudentCost(epochs=5, plain=15.0,
                                                  taught={BOTH: Taught(offline=20.0, live=60.0)})})


def write_plan(root, plan):
    (root / "results").mkdir(exist_ok=True)
    (root / "results/plan.json").write_text(json.dumps({"predicted": plan.model_dump(mode="json")}))


def rows(section, table):
    return [[cell.text for cell in row] for row in section.tables[table].rows]


def test_nothing_to_bill_is_no_section(study, tmp_path):
    assert bill_sections(study({}), tmp_path) == []


def test_a_plan_alone(study, plan, tmp_path):
    write_plan(tmp_path, plan)
    (section,) = bill_sections(study({}), tmp_path)
    assert rows(section, 0)[1] == ["resnet50", DASH, "40.0", DASH, "2.0"]
    assert rows(section, 1) == [["ResNet-18", "ResNet-50 & Hourglass (small)", DASH, "15.0", DASH, "20.0", "60.0",
                                 "1.8 epochs in all (1 student of 5 epochs)"]]


def test_what_happened_alone(study, made, tmp_path):
    runs = study({("resnet18", "plain"): [20.0], ("resnet18", BOTH): [40.0] * 3}, passes=5, seconds=140.0)
    for seed, seconds in enumerate((100.0, 150.0, 300.0)):
        taught = runs.results.runs["resnet18", BOTH]
        taught[seed] = taught[seed].model_copy(update={"seconds": seconds})
    (section,) = bill_sections(runs, tmp_path)
    assert [row[0] for row in rows(section, 0)] == STORES
    assert rows(section, 0)[1] == ["resnet50", "90.0", DASH, "3.0", DASH]
    assert rows(section, 1)[0][2:] == ["28.0", DASH, "30.0", DASH, DASH, DASH]
    assert "`pipeline plan`" in section.tables[1].notes[0]


def test_what_was_predicted_beside_what_happened(study, made, plan, tmp_path):
    write_plan(tmp_path, plan)
    (section,) = bill_sections(study({("resnet18", BOTH): [40.0]}, passes=5, seconds=50.0), tmp_path)
    # This machine was twice as fast as planned: live teachers would have been, too. 150 s / (30 s - 10 s).
    assert rows(section, 1)[0][2:] == [DASH, "15.0", "10.0", "20.0", "30.0",
                                       "7.5 epochs in all (2 students of 5 epochs each)"]
    assert "a gpu" in section.tables[0].notes[0]


def test_a_student_that_saw_nothing_is_not_billed(study, made, tmp_path):
    """`epochs: 0` takes a network as it is."""
    (section,) = bill_sections(study({("resnet18", BOTH): [40.0]}, passes=0, seconds=0.0), tmp_path)
    assert [table.key for table in section.tables] == ["bill-stores"]


def test_live_teachers_that_cost_nothing(study, plan, tmp_path):
    free = plan.students["resnet18"].model_copy(update={"taught": {BOTH: Taught(offline=20.0, live=20.0)}})
    write_plan(tmp_path, plan.model_copy(update={"students": {"resnet18": free}}))
    assert rows(bill_sections(study({}), tmp_path)[0], 1)[0][-1] == "never"


@pytest.mark.parametrize(("changes", "named"), [
    ({"views": {"size": [64, 64]}}, r"views\.size"),
    ({"dump": {"batch": 7}}, r"dump\.batch"),
    ({"distill": {"students": ["resnet18"], "recipes": ["plain"], "train": {"batch": 7}}},
     r"students\.resnet18\.train\.batch is \d+, expected 7"),
    ({"students": {"resnet34": {"model": "resnet34"}},
      "distill": {"students": ["resnet34"], "recipes": ["plain"]}}, r"students\.resnet18"),
])
def test_a_plan_of_other_params_is_left_out_and_said_to_be(study, made, plan, tmp_path, changes, named):
    write_plan(tmp_path, plan)
    (section,) = bill_sections(study({}, changes=changes), tmp_path)
    assert rows(section, 0)[1] == ["resnet50", "90.0", DASH, "3.0", DASH]
    assert re.search(named, section.text[1])


def test_a_plan_of_other_images_is_left_out(study, made, plan, tmp_path):
    write_plan(tmp_path, plan.model_copy(update={"deciding": {**plan.deciding, "data": "other"}}))
    assert "data is" in bill_sections(study({}), tmp_path)[0].text[1]


@pytest.mark.parametrize("harmless", [
    *({"distill": {"students": ["resnet18"], "recipes": ["plain"], "train": each}}
      for each in ({"lr": 1.0}, {"schedule": "step"}, {"log_every": 7})),
    {"views": {"on_mismatch": "warn"}},
])
def test_a_plan_stands_whatever_takes_no_time(study, tree, plan, tmp_path, harmless):
    write_plan(tmp_path, plan)
    changes = {key: {**tree.get(key, {}), **block} for key, block in harmless.items()}
    assert rows(bill_sections(study({}, changes=changes), tmp_path)[0], 0)[1][2] == "40.0"


def test_a_plan_that_does_not_say_its_params_is_left_out(study, made, plan, tmp_path):
    """As older code wrote it."""
    write_plan(tmp_path, plan)
    written = json.loads((tmp_path / "results/plan.json").read_text())
    written["predicted"]["data"] = written["predicted"].pop("deciding")["data"]
    (tmp_path / "results/plan.json").write_text(json.dumps(written))
    (section,) = bill_sections(study({}), tmp_path)
    assert rows(section, 0)[1] == ["resnet50", "90.0", DASH, "3.0", DASH]
    assert "data is absent" in section.text[1]


def test_a_broken_plan_stops_the_report(study, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan\.json is no plan"):
        bill_sections(study({}), tmp_path)
