from pipeline.report.results import Origin

BOTH = "resnet50+hourglass_small"


def test_what_is_distilled_has_the_teachers_that_taught_it(study, tree):
    tree["distill"] = {"students": ["resnet18"], "recipes": ["plain", "resnet50"], "seeds": [1]}
    found = study({("resnet18", "plain"): [40.0, 41.0], ("resnet18", "resnet50"): [50.0, 51.0],
                   ("mobilenet_v2", "plain"): [20.0, 21.0]})
    teacher = found.results.teachers["resnet50"]
    found.results.trainings["teacher", "resnet50"] = [
        teacher.model_copy(update={"weights": sha, "map_area": score}) for sha, score in (("a", 50.0), ("b", 70.0))]
    runs = found.results.runs["resnet18", "resnet50"]
    runs[1] = runs[1].model_copy(update={"origin": Origin(teachers={"resnet50": "b"})})
    results = found.distilled.results
    assert {cell: [*runs] for cell, runs in results.runs.items()} == {
        ("resnet18", "plain"): [1], ("resnet18", "resnet50"): [1]}
    assert {name: each.map_area for name, each in results.teachers.items()} == {"resnet50": 70.0}



def test_recipes_play_the_papers_parts_by_their_teachers_networks(study, tree):
    tree["teachers"] = {"big": {"model": "resnet50"}, "sharp": {"model": "hourglass104"}}
    tree["ensembles"] = {}
    tree["recipes"] = {
        "plain": {},
        "sharp": {"teachers": ["sharp"]},
        "big-fresh": {"teachers": ["big"]},
        "big": {"teachers": ["big"]},
        "sharp+big": {"teachers": ["sharp", "big"], "ensemble": "both"},
    }
    found = study({}, {})
    assert found.single_teacher == "big"
    assert found.two_teachers == "sharp+big"


def test_without_such_teachers_nobody_plays_the_part(study, tree):
    tree["recipes"] = {"plain": {}}
    found = study({}, {})
    assert found.single_teacher is found.two_teachers is found.headline is None
    assert found.by_weights == {}


def test_the_headline_is_the_recipe_with_most_teachers_that_was_run(study):
    assert study({}).headline == BOTH
    assert study({("resnet18", "resnet50"): [50.0]}).headline == "resnet50"
    assert study({("resnet18", "resnet50"): [50.0], ("resnet18", BOTH): [50.0]}).headline == BOTH
    assert study({("resnet18", f"{BOTH}-paper"): [50.0]}).headline == f"{BOTH}-paper"


def test_table_4_takes_recipes_of_the_same_teachers_where_most_were_run(study):
    assert study({}).by_weights == {"table4-1": f"{BOTH}-paper"}
    assert study({("resnet18", f"{BOTH}-paper"): [50.0]}).by_weights == {"table4-1": f"{BOTH}-paper"}


def test_main_recipes_leave_variants_out(study):
    runs = {("resnet18", recipe): [50.0] for recipe in (f"{BOTH}-paper", BOTH, "plain")}
    assert study(runs).main_recipes == ["plain", BOTH]


def test_recipes_in_words(study):
    found = study({})
    assert found.recipe_label("plain") == "alone"
    assert found.recipe_label(BOTH) == "taught by ResNet-50 & Hourglass (small)"
    assert found.recipe_label(f"{BOTH}-paper") == "taught by ResNet-50 & Hourglass (small), paper"


def test_further_networks_of_a_kind_in_words(study, tree):
    tree["teachers"] |= {"resnet50_2": {"model": "resnet50"}, "hourglass_small_b": {"model": "hourglass_small"}}
    names = ["resnet50_2", "hourglass_small_b"]
    tree["recipes"]["two"] = {"teachers": names, "ensemble": "separate"}
    assert study({}).recipe_label("two").startswith("taught by ResNet-50 2 & Hourglass (small) b")


def test_nobody_and_the_ground_truth_in_words(study, tree):
    tree["recipes"] |= {"plain-fresh": {"views": "fresh"}, "oracle": {"oracle": True, "weights": [1000, 1, 0.1, 0]}}
    found = study({})
    assert found.recipe_label("plain-fresh") == "alone, fresh"
    assert found.recipe_label("oracle") == "taught by rendered ground truth"


def test_the_scale_says_data_size_and_passes(study):
    assert study({}).scale == "Ours: demo, 2 classes, 1 images, 32×32 px, no student yet"
    assert study({("resnet18", "plain"): [1.0]}).scale.endswith("32×32 px, 24,000 passes")


def test_missing_cells_name_the_command(study):
    found = study({})
    notes = found.fill([("resnet18", "plain"), ("mobilenet_v2", "plain"), (None, "plain"), ("resnet18", None)])
    assert "`pipeline distill --student resnet18 --student mobilenet_v2 --recipe plain`" in notes[0]
    assert "`pipeline profile study`" in notes[1]
    assert len(notes) == 2
    assert found.fill([]) == []
