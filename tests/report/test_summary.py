import pytest

from pipeline.report.summary import facts, summarise

BOTH = "resnet50+hourglass_small"


def runs(alone, taught, student="resnet18"):
    return {(student, "plain"): alone, (student, BOTH): taught}


@pytest.mark.parametrize(
    ("alone", "taught", "opening", "outcome"),
    [
        ([40.0, 42.0], [45.0, 46.0], "Whether distillation helps is not settled:",
         "students gain 4.5 points of mAP@.5 on test in the mean (95 % interval −1.9 to +10.9)"),
        ([40.0, 42.0], [45.0, 47.1], "Distillation helped:", "(95 % interval +4.4 to +5.7)"),
        ([40.0], [45.0], "Distillation helped in these runs:", "5.0 points of mAP@.5 on test in the mean (too few"),
        ([45.0, 46.0], [40.0, 42.0], "Whether distillation helps is not settled:", "students lose 4.5 points"),
        ([45.0], [40.0], "Distillation did not help:", "students lose 5.0 points"),
        ([45.0], [45.01], "Distillation made no difference:", "have the same mAP@.5"),
    ],
)
def test_the_verdict_follows_from_the_numbers(study, alone, taught, opening, outcome):
    verdict = summarise(study(runs(alone, taught)))[0]
    assert verdict.startswith(opening)
    assert outcome in verdict
    assert "ResNet-50 and Hourglass (small)" in verdict


def test_a_gain_that_not_every_student_has_is_said(study):
    mixed = runs([40.0], [50.0]) | runs([40.0], [38.0], "mobilenet_v2")
    verdict = summarise(study(mixed))[0]
    assert "but not every student" in verdict
    assert "ResNet-18 +10.0 and MobileNetV2 −2.0" in verdict
    assert "in 1 of 2 pairs" in verdict


def test_without_a_pair_there_is_no_verdict(study):
    assert summarise(study({("resnet18", "plain"): [40.0]}))[0].startswith("Nothing to compare yet")
    assert summarise(study({}, {}))[0].startswith("Nothing to compare yet")


def test_one_teacher_unseen_drawings_best_and_smallest(study):
    text = " ".join(summarise(study(runs([40.0], [50.0]) | {("resnet18", "resnet50"): [43.0]}, params=1_000_000)))
    assert "+3.0 points when taught by ResNet-50." in text
    assert "nobody trained on, the mean difference is +5.0 points" in text
    assert "best student is ResNet-18 (taught by ResNet-50 & Hourglass (small)) with 50.0" in text
    assert "75.0 % fewer parameters than ResNet-50, runs 1.0 times as fast and is 10.0 points below it" in text


def test_a_student_that_is_larger_than_the_baseline_is_said_to_be(study):
    text = " ".join(summarise(study(runs([40.0], [50.0]), params=6_000_000)))
    assert "has 50.0 % more parameters than ResNet-50" in text


def test_one_seed_and_another_scale_are_cautioned(study, papers_study):
    text = " ".join(summarise(study(runs([40.0], [50.0]))))
    assert "one seed only" in text
    assert "neither confirms nor refutes" in text
    text = " ".join(summarise(papers_study(runs([40.0, 41.0], [50.0, 51.0]))))
    assert "one seed only" not in text
    assert "neither confirms nor refutes" not in text


def test_pairs_of_unlike_budgets_are_not_compared_and_it_is_said(study):
    found = study(runs([40.0, 41.0], [50.0, 99.0]))
    taught = found.results.runs["resnet18", BOTH]
    taught[1] = taught[1].model_copy(update={"passes": 48000.0})
    text = " ".join(summarise(found))
    assert "Not compared for ResNet-18: 1 of 2 pairs of runs, whose training, passes" in text
    assert "(passes: 48,000 and 24,000; an epoch" in text
    assert "gain 10.0 points" in text
    del taught[0]
    text = " ".join(summarise(found))
    assert "Nothing to compare yet" in text
    assert "Not compared for ResNet-18: 1 of 1 pair of runs" in text
    assert "Not compared" not in " ".join(summarise(study(runs([40.0], [50.0]))))


def test_facts_name_data_seeds_and_licence(study):
    found = study(runs([40.0, 41.0], [50.0, 51.0]))
    named = dict(facts(found))
    assert named["Data"] == "demo, 2 classes: cat, dog"
    assert named["Seeds"] == "0, 1 for students; teachers are trained once"
    found.results.trainings["teacher", "resnet50"] = [found.results.teacher("resnet50")] * 2
    assert dict(facts(found))["Seeds"] == "0, 1 for students; some have teachers of their own"
    assert named["Licence of the images"] == "CC BY-SA 4.0"
