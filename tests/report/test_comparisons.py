import pytest

from pipeline.report.comparisons import comparisons, intervals
from pipeline.report.leading import better_teacher, lead
from pipeline.report.results import Origin, Scores
from pipeline.report.study_tables import claims_table

BOTH = "resnet50+hourglass_small"
PAPER = f"{BOTH}-paper"


@pytest.fixture
def found(study, tree):
    """A study with all arms, of two students."""
    tree["recipes"] |= {
        "plain-fresh": {"views": "fresh"}, "oracle": {"oracle": True, "weights": [1000, 1, 0.1, 0]},
        "hourglass_small": {"teachers": ["hourglass_small"]},
    }  # fmt: skip
    tree["distill"] = {"students": ["resnet18", "mobilenet_v2"], "recipes": ["plain", BOTH, PAPER]}
    return study


def claim(study, over):
    return next(each for each in comparisons(study) if (each.recipe, each.over) == (BOTH, over))


def test_the_claims_are_those_of_the_study(found):
    asked = [(each.recipe, each.over) for each in comparisons(found({}))]
    over = ["plain", "plain-fresh", "oracle", "hourglass_small", "resnet50", PAPER]
    assert asked == [*((BOTH, each) for each in over), (PAPER, "plain"), (BOTH, "plain"), (BOTH, "hourglass_small")]


def test_claims_that_the_params_have_no_recipes_for_are_not_made(study, tree):
    tree["recipes"] = {"plain": {}}
    assert comparisons(study({})) == []


def test_differences_are_of_the_same_student_and_seed(found):
    over = claim(found({
        ("resnet18", "plain"): [40.0, 42.0, 50.0], ("resnet18", BOTH): [45.0, 46.0], ("mobilenet_v2", BOTH): [9.0],
    }), "plain")
    assert over.differences == {"resnet18": {0: 5.0, 1: 4.0}, "mobilenet_v2": {}}
    assert (over.overall.mean, over.overall.pairs, over.overall.students) == (4.5, 2, 1)
    assert list(over.by_student) == ["resnet18"]


def test_what_is_asked_of_our_best_recipe_is_a_mean_and_of_the_others_an_interval(found):
    runs = {("resnet18", BOTH): [45.0, 48.0], ("resnet18", "plain"): [44.0, 44.0], ("resnet18", PAPER): [44.0, 44.0]}
    study = found(runs)
    assert claim(study, "plain").overall.verdict == claim(study, PAPER).overall.verdict == "undecided"
    assert (claim(study, "plain").reached, claim(study, PAPER).reached) == (False, True)
    assert claim(study, "oracle").reached is None
    assert intervals(comparisons(study)) == 8  # each of a student too


def test_over_plain_on_the_same_views_each_student_has_to_be_ahead(found):
    runs = {("resnet18", BOTH): [45.0, 45.0], ("resnet18", "plain"): [35.0, 34.9],
            ("mobilenet_v2", BOTH): [20.0, 20.0], ("mobilenet_v2", "plain"): [20.1, 20.2]}
    over = claim(found(runs), "plain")
    assert (over.overall.verdict, over.reached) == ("holds", False)
    assert claim(found({**runs, ("mobilenet_v2", "plain"): [19.9, 19.8]}), "plain").reached is True
    del runs["mobilenet_v2", BOTH]
    over = claim(found(runs), "plain")
    assert (over.overall.verdict, over.reached) == ("holds", None)


def test_the_lead_of_an_ensemble_is_over_its_better_teacher_on_val(found):
    ahead = lead(found({}, ensembles={"both": 82.5}), BOTH)
    assert (ahead.ensemble, ahead.teacher, ahead.points, ahead.unseen) == ("both", "hourglass_small", 2.5, 1.25)
    assert lead(found({}), BOTH) is None
    assert lead(found({}, teachers={"resnet50": 60.0}, ensembles={"both": 82.5}), BOTH) is None


@pytest.mark.parametrize("changes", [{"evaluate": {"flip": True}}, {"dump": {"tta": {"flip": True}}}])
def test_an_ensemble_has_no_lead_where_its_teachers_are_scored_otherwise(found, changes):
    assert lead(found({}, ensembles={"both": 82.5}, changes=changes), BOTH) is None


def test_an_ensemble_is_ahead_of_the_teachers_that_it_was_merged_from(found):
    study = found({}, ensembles={"both": 82.0})
    ensemble, teacher = study.results.ensembles["both"], study.results.teachers["hourglass_small"]
    first, second = (teacher.model_copy(update={"weights": sha, "val": Scores(map_area=score)})
                     for sha, score in (("a", 80.0), ("b", 90.0)))
    merged = ensemble.model_copy(update={"origin": Origin(teachers={"hourglass_small": "b"})})
    study.results.trainings["teacher", "hourglass_small"] = [first, second]
    study.results.ensembles["both"] = merged
    assert lead(study, BOTH).points == 83.0 - 90.0
    study.results.trainings["ensemble", "both"] = [
        merged, ensemble.model_copy(update={"origin": Origin(teachers={"hourglass_small": "a"})})]
    assert lead(study, BOTH).points == ((83.0 - 90.0) + (83.0 - 80.0)) / 2


def test_the_better_single_teacher_is_chosen_on_val(found):
    study = found({("resnet18", BOTH): [50.0], ("resnet18", "hourglass_small"): [45.0]})
    assert better_teacher(study, BOTH) == "hourglass_small"
    assert claim(study, "hourglass_small").claim.endswith("Hourglass (small)")
    assert claim(study, "hourglass_small").differences["resnet18"] == {0: 5.0}
    study.results.teachers["resnet50"].val.map_area = 99.0  # and behind on test
    assert better_teacher(study, BOTH) == "resnet50"
    del study.results.teachers["resnet50"]
    assert better_teacher(study, BOTH) is None


def test_other_teachers_that_are_merged_have_their_claim_over_the_better_one_too(found, tree):
    tree["teachers"]["resnet50_2"] = {"model": "resnet50"}
    tree["ensembles"]["two"] = {"teachers": ["resnet50", "resnet50_2"]}
    tree["recipes"]["resnet50+resnet50_2"] = {"teachers": ["resnet50", "resnet50_2"], "ensemble": "two"}
    study = found({}, teachers={"resnet50": 60.0, "hourglass_small": 80.0, "resnet50_2": 59.0})
    claims = {each.claim: (each.recipe, each.over) for each in comparisons(study)}
    pair = claims["ResNet-50 & ResNet-50 2 over the better single one, ResNet-50"]
    assert pair == ("resnet50+resnet50_2", "resnet50")
    tree["teachers"]["resnet50_2"]["classes"] = ["cat"]
    study = found({}, teachers={"resnet50": 60.0, "hourglass_small": 80.0, "resnet50_2": 59.0})
    words = "ResNet-50 & ResNet-50 2, who know different classes, over the better single one, ResNet-50"
    claims = {each.claim: (each.recipe, each.over) for each in comparisons(study)}
    assert words in claims
    general = "ResNet-50 & ResNet-50 2, who know different classes, over one who knows all, Hourglass (small)"
    assert claims[general] == ("resnet50+resnet50_2", "hourglass_small")


def test_a_teacher_within_a_point_of_the_better_one_is_as_good(found):
    def over(**teachers):
        return [each.claim for each in comparisons(found({}, teachers=teachers)) if each.recipe == BOTH
                and each.claim.endswith(("Hourglass (small)", "ResNet-50"))]

    better = "two teachers over the better single one, Hourglass (small)"
    assert over(resnet50=79.0, hourglass_small=80.0) == [better, "two teachers over the weaker one, ResNet-50"]
    assert over(resnet50=79.5, hourglass_small=80.0) == [better, "two teachers over one that is as good, ResNet-50"]


def test_an_ensembles_lead_on_unseen_drawings_is_over_the_teacher_that_is_better_there(found):
    study = found({}, ensembles={"both": 90.0})  # half of it on unseen drawings
    study.results.teachers["resnet50"].unseen.map_area = 44.0
    assert lead(study, BOTH).unseen == 1.0


def test_seeds_as_blocks_take_the_mean_over_students_first(found):
    over = claim(found({
        ("resnet18", "plain"): [40.0] * 4, ("resnet18", BOTH): [41.0, 42.0, 43.0, 99.0],
        ("mobilenet_v2", "plain"): [20.0] * 3, ("mobilenet_v2", BOTH): [23.0, 24.0, 25.0],
    }), "plain")
    assert (over.by_seed.mean, over.by_seed.pairs) == (3.0, 3)  # 2, 3 and 4: a deviation of 1, t(2) = 4.303
    assert over.by_seed.half == pytest.approx(4.303 / 3**0.5, abs=0.001)
    assert claim(found({("resnet18", "plain"): [4.0] * 2, ("resnet18", BOTH): [5.0] * 2}), "plain").by_seed is None


def test_each_set_of_teachers_has_its_mean(found):
    study = found({("resnet18", "plain"): [40.0] * 3, ("resnet18", BOTH): [45.0, 46.0, 49.0]})
    assert claim(study, "plain").by_set == []
    runs = study.results.runs["resnet18", BOTH]
    for seed, sha in enumerate("aab"):
        runs[seed] = runs[seed].model_copy(update={"origin": Origin(teachers={"resnet50": sha})})
    assert [(each.pairs, each.mean) for each in claim(study, "plain").by_set] == [(2, 5.5), (1, 9.0)]
    assert claims_table([claim(study, "plain")]).rows[0][4].text == "2: +5.5, +9.0"


@pytest.mark.parametrize("features_of", [None, ["resnet50", "hourglass_small"]])
def test_the_features_of_one_teacher_are_compared_with_those_of_both(found, tree, features_of):
    variant = f"{BOTH}-all-features"
    tree["recipes"][variant] = tree["recipes"][BOTH] | {"features_of": features_of}
    tree["recipes"][BOTH] |= {"features_of": ["hourglass_small"]}
    tree["recipes"][f"{BOTH}-weaker"] = tree["recipes"][variant] | {"weights": [1, 1, 1, 1]}
    study = found({("resnet18", BOTH): [50.0], ("resnet18", variant): [46.0], ("resnet18", "hourglass_small"): [49.0]})
    claims = {each.claim: (each.recipe, each.over, each.overall.mean) for each in comparisons(study)
              if "features" in each.claim}
    words = "two teachers, features of Hourglass (small), over features of ResNet-50 & Hourglass (small)"
    single = ("two teachers, features of ResNet-50 & Hourglass (small), over the better single one, Hourglass (small)")
    unseen = ", on drawings that nobody trained on"  # where conftest's students have half their AP
    assert claims == {words: (BOTH, variant, 4.0), single: (variant, "hourglass_small", -3.0),
                      f"{words}{unseen}": (BOTH, variant, 2.0), f"{single}{unseen}": (variant, "hourglass_small", -1.5)}


def test_an_attention_is_compared_with_none(found, tree):
    variant = f"{BOTH}-no-attention"
    tree["recipes"][variant] = tree["recipes"][BOTH] | {"attention": []}
    tree["recipes"][f"{BOTH}-other"] = tree["recipes"][variant] | {"weights": [1, 1, 1, 1]}
    study = found({("resnet18", BOTH): [50.0], ("resnet18", variant): [46.0], ("resnet18", f"{BOTH}-other"): [9.0]})
    claims = {each.claim: (each.recipe, each.over, each.overall.mean) for each in comparisons(study)
              if "attention" in each.claim}
    words = "two teachers, attention spatial & channel, over none"
    assert claims == {words: (BOTH, variant, 4.0), f"{words}, on drawings that nobody trained on": (BOTH, variant, 2.0)}


def test_a_teachers_heads_are_compared_with_the_oracle_by_the_same_terms(found, tree):
    terms = {"heatmap": "soft-focal", "weights": [10000, 0, 0, 0]}
    tree["recipes"] |= {"oracle": {"oracle": True} | terms, "heads": {"teachers": ["hourglass_small"]} | terms,
                        "others": {"teachers": ["hourglass_small"], "weights": [10000, 0, 0, 0]}}
    study = found({("resnet18", "oracle"): [50.0], ("resnet18", "heads"): [53.0], ("resnet18", "others"): [9.0]})
    claims = {each.claim: (each.recipe, each.over, each.overall.mean) for each in comparisons(study)
              if "the heads of" in each.claim}
    assert claims == {"the heads of Hourglass (small) over the oracle, by the same terms": ("heads", "oracle", 3.0)}


def test_unfair_pairs_are_counted_and_left_out(found):
    study = found({("resnet18", BOTH): [45.0, 46.0], ("resnet18", "plain"): [40.0, 40.0]})
    runs = study.results.runs["resnet18", "plain"]
    runs[1] = runs[1].model_copy(update={"passes": 7.0})
    over = claim(study, "plain")
    assert (over.differences["resnet18"], over.unfair) == ({0: 5.0}, 1)
