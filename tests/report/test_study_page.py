import pytest

from pipeline.report.cells import Cells
from pipeline.report.comparisons import comparisons
from pipeline.report.document import DASH
from pipeline.report.results import Origin
from pipeline.report.study_page import write_study
from pipeline.report.study_tables import (
    claims_by_student_table,
    claims_table,
    gap_table,
    main_table,
    others_table,
    recipes_table,
)

BOTH = "resnet50+hourglass_small"
PAPER = f"{BOTH}-paper"
RUNS = {
    ("resnet18", "plain"): [40.0, 41.0, 42.0], ("resnet18", BOTH): [50.0, 51.5, 52.0],
    ("mobilenet_v2", "plain"): [20.0, 21.0, 22.0], ("mobilenet_v2", BOTH): [28.0, 29.0, 31.0],
    ("resnet18", PAPER): [39.0, 40.5, 41.0],
}  # fmt: skip


@pytest.fixture
def found(study, tree):
    tree["distill"] = {"students": ["resnet18", "mobilenet_v2"], "recipes": ["plain", PAPER, BOTH], "seeds": [0, 1, 2]}
    weights = {name: [f"recipes.{{recipe}}.weights={name}"] for name in ("table4-1", "table4-2")}
    tree["screening"] = {
        "weights": {"title": "W.", "students": ["resnet18"], "recipe": BOTH, "variations": weights},
        "length": {"students": ["resnet18"], "recipe": BOTH,
                   "variations": {"whole": [], "half": ["distill.train.epochs=2.5"]}},
        "longer": {"students": ["resnet18"], "recipe": "plain",
                   "variations": {"whole": [], "fourfold": ["distill.train.epochs=20"]}},
        "labels": {"students": ["resnet18"], "recipe": BOTH,
                   "variations": {"all": [], "half": ["data.labels=0.5", "distill.train.epochs=10"]}},
    }
    return study


@pytest.fixture
def cells(student_metrics):
    """Cells of a Study, with those of a screening: {(group, variation): ([AP of seed 0, …], passes)}."""

    def make(study, screened=()):
        return Cells.model_validate({
            "teachers": [teacher.model_dump() for teacher in study.results.teachers.values()],
            "ensembles": [ensemble.model_dump() for ensemble in study.results.ensembles.values()],
            "students": [run.model_dump() for runs in study.results.runs.values() for run in runs.values()],
            "screening": [
                student_metrics("resnet18", "plain" if group == "longer" else BOTH, seed, score, group=group,
                                variation=variation, split="val")
                | {"passes": passes}
                for (group, variation), (scores, passes) in dict(screened).items() for seed, score in enumerate(scores)
            ],
        })  # fmt: skip

    return make


@pytest.fixture
def page(found, cells, tmp_path):
    """Writes the page of runs and a screening; returns its text."""

    def write(runs, screened=(), **others):
        study = found(runs, **others)
        write_study(study.params, study.data, cells(study, screened), tmp_path / "study")
        return (tmp_path / "study/README.md").read_text()

    return write


def texts(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_the_page_says_whether_the_ensemble_is_ahead_of_its_teachers(page, tree):
    assert "'both' −4.0 from Hourglass (small) (−2.0 on drawings" in page(RUNS, ensembles={"both": 76.0})
    assert "'both' +1.0 from Hourglass (small)" in page(RUNS, ensembles={"both": 81.0})
    tree["recipes"]["hourglass_small"] = {"teachers": ["hourglass_small"]}
    taught = page({**RUNS, ("resnet18", "hourglass_small"): [49.0, 49.5, 51.0]}, ensembles={"both": 81.0})
    assert "; on test its students are +1.3 from that teacher's: undecided)" in taught
    assert "from their better teachers" not in page(RUNS)


def test_claims_say_how_far_they_are_known(found):
    rows = texts(claims_table(comparisons(found(RUNS))))
    plain = rows["two teachers over plain, same views"]
    # pairs 10, 10.5, 10 and 8, 8, 9: mean 9.25; pooled variance (1/6 + 2/3) / 4, t(4) = 2.776
    assert plain[0] == "+9.2 [+8.7, +9.8]"
    assert plain[1] == "+9.2 [+8.6, +9.9]"  # the means 9, 9.25 and 9.5 of the seeds: a deviation of .25, t(2) = 4.303
    assert texts(claims_by_student_table(comparisons(found(RUNS))))[
        "two teachers over plain, same views"][0].startswith("+10.2 [")
    assert plain[-3:] == ["holds", "interval above 0, each student above 0", "yes"]
    best = next(row for claim, row in rows.items() if claim.startswith("our best recipe"))
    assert best[-2:] == ["mean of +1 or more", "yes"]
    assert rows["the paper's recipe over plain, same views"][-3] == "does not hold"
    assert rows["two teachers over the better single one, Hourglass (small)"] == [
        *[DASH] * 5, "interval above 0", DASH]


def test_arms_and_the_mean_of_students_only_where_all_have_it(found):
    rows = texts(main_table(found(RUNS), "map_area", "on test"))
    assert rows["alone"] == ["41.0 ± 1.0", "21.0 ± 1.0", "31.0"]
    assert rows["taught by ResNet-50 & Hourglass (small), paper"] == ["40.2 ± 1.0", DASH, DASH]


def test_the_main_table_is_of_what_is_distilled_and_others_stand_apart(found, tree):
    tree["distill"] |= {"seeds": [1, 2], "recipes": ["plain", BOTH]}
    study = found({**RUNS, ("resnet18", BOTH): [99.0, 51.5, 52.5]})
    rows = texts(main_table(study, "map_area", "on test"))
    assert list(rows) == ["alone", "taught by ResNet-50 & Hourglass (small)"]
    assert rows["taught by ResNet-50 & Hourglass (small)"] == ["52.0 ± 0.7", "30.0 ± 1.4", "41.0"]
    others = others_table(study, "map_area", "on test")
    assert texts(others)["taught by ResNet-50 & Hourglass (small), paper"][0] == "40.2 ± 1.0"
    assert not any(cell.best for row in others.rows for cell in row)
    assert gap_table(study).rows[0][1].n == 2
    tree["distill"]["recipes"] = ["plain", BOTH, PAPER]
    assert others_table(found(RUNS), "map_area", "on test") is None


def test_what_recipes_stand_for(found, tree):
    tree["recipes"][BOTH] |= {"features_of": ["hourglass_small"], "weights": [1000, 1, 0.1, 1000]}
    tree["recipes"][PAPER] = tree["recipes"][BOTH] | {"attention": [], "features_of": None}
    rows = texts(recipes_table(found(RUNS)))
    assert rows["alone"] == ["`plain`", "", "", "", "", "the recorded ones"]
    weights = "1000, 1, 0.1, 1000"
    assert rows["taught by ResNet-50 & Hourglass (small)"] == [
        f"`{BOTH}`", weights, "Hourglass (small)", "spatial & channel", "both", "the recorded ones"]
    assert rows["taught by ResNet-50 & Hourglass (small), paper"][2:4] == ["ResNet-50 & Hourglass (small)", "none"]


def test_the_gap_is_that_to_the_better_teacher(found):
    table = gap_table(found(RUNS))
    assert texts(table)["taught by ResNet-50 & Hourglass (small)"] == ["26 %", "14 %", "20 %"]
    assert "Hourglass (small), 80.0 on test" in table.caption
    assert texts(gap_table(found(RUNS, {})))["taught by ResNet-50 & Hourglass (small)"] == [DASH] * 3


def test_the_gap_is_that_of_fair_pairs_to_the_teacher_that_is_better_on_val(found):
    study = found(RUNS)
    runs, teachers = study.results.runs["resnet18", BOTH], study.results.teachers
    runs[0] = runs[0].model_copy(update={"passes": 7.0})
    for seed, sha in ((1, "a"), (2, "b")):
        runs[seed] = runs[seed].model_copy(update={"origin": Origin(teachers={"hourglass_small": sha})})
    study.results.trainings["teacher", "hourglass_small"] = [
        teachers["hourglass_small"].model_copy(update={"weights": sha, "map_area": score})
        for sha, score in (("a", 80.0), ("b", 90.0))]
    teachers["resnet50"] = teachers["resnet50"].model_copy(update={"map_area": 99.0})  # on test, and behind on val
    share = 100 * (51.75 - 41.5) / ((80.0 + 90.0) / 2 - 41.5)
    assert texts(gap_table(study))["taught by ResNet-50 & Hourglass (small)"][0] == f"{share:.0f} %"


def test_the_page_says_what_holds_and_what_does_not(page, tmp_path):
    text = page(RUNS)
    assert "**7 claims: 3 held up, 1 refuted and 3 without pairs yet.**" in text
    assert "6 pairs of 2 students): holds." in text
    assert "the paper's recipe over plain, same views: −0.8 points" in text.lower()
    assert "12 intervals were computed" in text
    assert "15 of 18 cells" in text
    assert "Nothing was screened yet" in text
    study = tmp_path / "study"
    assert len(Cells.load(study).students) == 15
    assert all(f"figures/{path.name}" in text for path in (study / "figures").glob("*.png"))


def test_a_screening_is_ranked_and_fills_the_papers_table_of_w(page):
    text = page(RUNS, {("weights", "table4-1"): ([30.0, 32.0], 24000), ("weights", "table4-2"): ([35.0, 36.0], 24000)})
    best, first = (text.index(f"| ResNet-18 | {name} |") for name in ("table4-2", "table4-1"))
    assert best < first
    assert "**35.5 ± 0.7** (n=2) | +4.5 [" in text
    assert "| −6.0 [−6.0, −6.0] (n=2) |" in text
    assert "| 100 | 10 | 0.1 | 100 | 75.39 | **35.5 ± 0.7** (n=2) |" in text
    assert "mAP on val" in text
    assert "2 variations in 1 group" in text
    assert "3 intervals of differences stand in these tables" in text


def test_variations_are_held_against_plain_students_of_equal_passes(page):
    row = "| ResNet-18 | table4-1 | 43.0 (n=1) |  | +2.0 (n=1) |"
    assert row in page(RUNS, {("weights", "table4-1"): ([43.0], 23900)})
    assert row.replace("+2.0 (n=1)", DASH) in page(RUNS, {("weights", "table4-1"): ([43.0], 12000)})


def test_variations_are_held_against_the_first_one_of_equal_passes(page):
    screened = {("weights", "table4-1"): ([43.0], 24000), ("weights", "table4-2"): ([44.0], 24000)}
    assert "| ResNet-18 | table4-2 | **44.0** (n=1) | +1.0 (n=1) |" in page(RUNS, screened)
    screened["weights", "table4-1"] = ([43.0], 12000)
    assert f"| ResNet-18 | table4-2 | **44.0** (n=1) | {DASH} |" in page(RUNS, screened)


def test_variations_are_held_against_the_first_one_of_the_same_teachers(page, tree, monkeypatch):
    whole = Cells.model_validate

    def of_teachers(content):
        for number, cell in enumerate(content["screening"]):
            cell["origin"] = {"teachers": {"resnet50": str(number)}}
        return whole(content)

    monkeypatch.setattr(Cells, "model_validate", of_teachers)
    screened = {("weights", "table4-1"): ([43.0], 24000), ("weights", "table4-2"): ([44.0], 24000)}
    assert f"| ResNet-18 | table4-2 | **44.0** (n=1) | {DASH} |" in page(RUNS, screened)
    labels = {("labels", "all"): ([43.0], 24000), ("labels", "half"): ([44.0], 24000)}
    assert "| ResNet-18 | half | **44.0** (n=1) | +1.0 (n=1) |" in page(RUNS, labels)  # others by design


def test_passes_to_plains_final_ap(page):
    shorter = {("length", "whole"): ([60.0], 24000), ("length", "half"): ([43.0], 12000)}
    assert ("ResNet-18 alone takes 24,000; of runs with 12,000 and 24,000, the shortest that are as good in the mean "
            "take 12,000 (+2.0 points)") in page(RUNS, shorter)
    shorter["length", "half"] = ([40.0], 12000)
    assert ("the shortest that are as good in the mean take 24,000 (+19.0 points); 12,000 are too few, and nothing "
            "between was tried") in page(RUNS, shorter)
    assert "24,000, none is as good" in page(RUNS, {**shorter, ("length", "whole"): ([1.0], 24000)})
    assert "Passes to plain" not in page(RUNS, {**shorter, ("length", "whole"): ([60.0], 96000)})  # its end is later


def test_plain_runs_are_not_asked_when_they_are_as_good_as_plain(page):
    text = page(RUNS, {("longer", "whole"): ([20.0], 24000), ("longer", "fourfold"): ([30.0], 96000)})
    assert "| ResNet-18 | fourfold | **30.0** (n=1) | +10.0 (n=1) |" in text
    assert "Passes to plain" not in text


def test_what_more_passes_bring_stands_beside_the_claims(page):
    whole, longer = ("longer", "whole"), ("longer", "fourfold")
    text = page(RUNS, {whole: ([20.0, 22.0, 90.0], 24000), longer: ([30.0, 31.0], 96000)})
    assert ("The claims are of 24,000 passes. More of them, on val: ResNet-18, alone, has 21.0 after 24,000 and 30.5 "
            "after 96,000 (2 seeds).") in text
    taught = {("length", "whole"): ([50.0], 24000), ("length", "half"): ([60.0], 96000)}
    assert "(1 seed); ResNet-18, alone, has" in page(RUNS, {**taught, whole: ([20.0], 24000), longer: ([30.0], 96000)})
    assert "More of them" not in page(RUNS, {whole: ([20.0], 24000), longer: ([30.0], 12000)})
    assert "More of them" not in page(RUNS, {whole: ([20.0], 24000)})


def test_a_group_that_varies_more_than_the_length_says_nothing_of_passes(page):
    labels = {("labels", "all"): ([60.0], 24000), ("labels", "half"): ([43.0], 23680)}
    assert "Passes to plain" not in page(RUNS, labels)


def test_cells_of_variations_that_params_no_longer_have_are_kept_and_not_told(page, tmp_path):
    screened = {("weights", "table4-1"): ([30.0], 24000), ("weights", "gone"): ([99.0], 24000),
                ("away", "x"): ([9.0], 24000)}
    text = page(RUNS, screened)
    assert "1 variation in 1 group" in text
    assert "1 of screening; 2 more of variations and recipes that these params do not have" in text
    assert "99.0" not in text
    assert "Nothing was screened yet" in page(RUNS, {("weights", "gone"): ([99.0], 24000)})
    assert len(Cells.load(tmp_path / "study").screening) == 1


def test_cells_of_a_student_that_params_no_longer_have_are_not_told(page, tree, monkeypatch):
    tree["screening"]["length"]["variations"]["half"] = ["students.{student}.train.epochs=2.5"]
    whole = Cells.model_validate

    def of_another(content):
        content["screening"][0]["student"] = "gone"
        return whole(content)

    monkeypatch.setattr(Cells, "model_validate", of_another)
    text = page(RUNS, {("length", "half"): ([77.7], 24000), ("weights", "table4-1"): ([30.0], 24000)})
    assert "1 of screening; 1 more of variations and recipes" in text
    assert "77.7" not in text


def test_cells_of_a_variation_that_was_another_are_not_told_either(page, cells, monkeypatch):
    then = {"weights": [1000, 1, 0.1, 100], "heatmap": "squared"}
    whole = Cells.model_validate

    def of_recipe(content):
        for cell in content["screening"]:
            cell["origin"] = {"recipe": then}
        return whole(content)

    monkeypatch.setattr(Cells, "model_validate", of_recipe)
    screened = {("weights", "table4-1"): ([30.0], 24000), ("weights", "table4-2"): ([35.0], 24000)}
    longer = {("length", "half"): ([60.0], 96000), ("longer", "fourfold"): ([50.0], 96000)}
    text = page(RUNS, {**screened, **longer})
    assert "1 variation in 1 group" in text  # table4-2 is another W
    assert "35.0" not in text
    assert "after 96,000 passes" not in text
    then.clear()
    assert "two teachers over plain, after 96,000 passes, on val: +10.0" in page(RUNS, longer)
    then |= {"weights": [1000, 1, 0.1, 100]}
    then["heatmap"] = "soft-focal"
    assert "Nothing was screened yet" in page(RUNS, screened)


def test_cells_of_another_recipe_than_the_groups_are_not_told_either(page, tree):
    screened = {("weights", "table4-1"): ([30.0], 24000)}
    assert "Screening: weights" in page(RUNS, screened)
    tree["screening"]["weights"]["recipe"] = PAPER
    assert "Screening: weights" not in page(RUNS, screened)


def test_the_papers_orders_are_held_against_what_came_out(page, tree):
    tree["distill"]["recipes"] = ["plain", "resnet50", PAPER, BOTH]
    runs = {**RUNS, ("resnet18", "resnet50"): [45.0], ("mobilenet_v2", "resnet50"): [35.0]}
    text = page(runs, {("weights", "table4-1"): ([30.0], 24000), ("weights", "table4-2"): ([35.0], 24000)})
    assert ("by our recipe, has too few seeds for ResNet-18 (40.0, 45.0, 50.0; 1 seed) and MobileNetV2 (20.0, 35.0, "
            "28.0; 1 seed)." in text)
    assert "Of the 1 pair that the W of the paper's Table 4 make here, on val, 0 are in the paper's order." in text
    assert "by the paper's own recipe" not in text  # nobody was taught by its single teacher
    assert "The paper's order" not in page(RUNS)
    tree["recipes"]["resnet50-paper"] = {"teachers": ["resnet50"], "weights": "table4-1"}
    tree["distill"]["recipes"].append("resnet50-paper")
    tree["distill"]["students"] = ["resnet18"]
    text = page({("resnet18", "plain"): [40.0, 41.0, 42.0], ("resnet18", "resnet50"): [45.0, 46.0, 47.1],
                 ("resnet18", BOTH): [50.0, 51.1, 52.0], ("resnet18", PAPER): [41.0, 41.9, 43.0],
                 ("resnet18", "resnet50-paper"): [45.0, 46.0, 47.1, 60.0]})
    assert "by our recipe, is found for ResNet-18 (41.0, 46.0, 51.0; 3 seeds)." in text
    assert "by the paper's own recipe, is not found for ResNet-18 (41.0, 46.0, 42.0; 3 seeds)." in text


def test_a_page_of_next_to_nothing(page):
    assert "**Nothing to compare yet" in page({})
    text = page({("resnet18", "plain"): [40.0], ("resnet18", BOTH): [50.0]})
    assert "+10.0 points (1 pair of 1 student): too few for an interval." in text
    assert "2 of 18 cells" in text
