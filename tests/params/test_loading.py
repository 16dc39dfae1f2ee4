import json
from contextlib import nullcontext
from typing import get_args

import pytest

from pipeline.errors import UserError
from pipeline.params import changed, load_params, train_params
from pipeline.params.recipe import PAPER_WEIGHTS
from pipeline.params.schema import Encodings
from storage.encodings import ENCODINGS
from storage.features import feature_encoding

SMALLEST = """
teachers: {resnet50: {model: resnet50}}
students: {resnet18: {model: resnet18}}
recipes: {plain: {}}
distill: {students: [resnet18], recipes: [plain]}
"""


@pytest.fixture
def params_file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SMALLEST)
    return path


def test_defaults_fill_what_is_not_said(params_file):
    params = load_params(params_file)
    assert params.views.per_image == 4
    assert params.recipes["plain"].weights == [1000, 1, 0.1, 1000]


def test_overrides_are_yaml_and_apply_in_order(params_file):
    params = load_params(params_file, ["train.lr=1e-3", "views.size=[96, 64]", "train.lr=2e-3"])
    assert params.train.lr == 0.002
    assert params.views.size == (96, 64)


@pytest.mark.parametrize(("override", "words"), [
    ("views.per_imag=2", ["views.per_imag", "'per_image'"]),
    ("views.size=[64]", ["views.size.1", "missing"]),
    ("views.flip=2", ["views.flip", "1", "2"]),
    ("train.lr=fast", ["train.lr", "'fast'"]),
    ("train.lr=.inf", ["train.lr", "finite", "inf"]),
    ("views.scale=[.nan, 1.2, 0.1]", ["views.scale.0", "finite"]),
    ("views.scale=[1.4, 0.6, 0.1]", ["views.scale", "0 < least <= most"]),
    ("views.scale=[0, 0.6, 0.1]", ["views.scale", "0 < least <= most"]),
    ("views.scale=[0.6, 1.4, 0]", ["views.scale", "step > 0"]),
    ("views.scale=[0.6, 1.4, 1e-12]", ["views.scale", "at most 10,000 steps from least to most"]),
    ("train.epochs=true", ["train.epochs: expected a number (got true)"]),
    ("train.batch=1.5", ["train.batch: expected a whole number (got 1.5)"]),
    ("train.batch=many", ["train.batch: expected a whole number (got 'many')"]),
    ("evaluate.flip=1", ["evaluate.flip: expected true or false (got 1)"]),
    ("data.source=3", ["data.source: expected text (got 3)"]),
    ("data.name=null", ["data.name: expected text (got null)"]),
    ("views.size=512", ["views.size: expected a list, such as [1, 2] (got 512)"]),
    ("data.classes=cat", ["data.classes: expected a list, such as [a, b] (got 'cat')"]),
    ("teachers.a=resnet50", ["teachers.a: expected a mapping of keys (got 'resnet50')"]),
    ("train.epochs=-1", ["train.epochs", "0"]),
    ("train.epochs=2020-01-01", ["train.epochs", "'2020-01-01'"]),
    ("data.name=!!binary aGk=", ["params.yaml", "bytes"]),
    ("dump.encodings.heatmap=u8", ["dump.encodings.heatmap", "u8-sqrt-sparse", "'u8'"]),
    ("dump.encodings.wh_offset=u8-sqrt", ["dump.encodings.wh_offset", "exact-fp16-sparse", "'u8-sqrt'"]),
    ("dump.encodings.features=exact-fp16-sparse", ["dump.encodings.features", "pca-32+pooled+u8-channel", "-sparse'"]),
    ("dump.encodings.features=pooled+pca-4+u8-channel", ["dump.encodings.features", "before that pca-K+"]),
    ("data.demo.objects=[4, 1]", ["data.demo.objects", "smaller number first", "[4, 1]"]),
    ("data.demo.object_size=[0.9, 0.5]", ["data.demo.object_size", "smaller number first"]),
    ("data.demo.object_size=[0, 0.5]", ["data.demo.object_size.0", "greater than 0"]),
    ("data.classes=[dog, cat, dog]", ["data.classes", "only once", "'dog'"]),
    ("data.classes=[]", ["data.classes", "at least 1"]),
    ("data.classes=[dog, '']", ["data.classes.1", "at least 1 character"]),
    ("recipes.plain.weights=[1, 2, 3]", ["recipes.plain.weights: W has 3 numbers", "four"]),
    ("recipes.plain.weights=table4-9", ["recipes.plain.weights", "table4-9", "table4-6"]),
    ("recipes.plain.weights=[1, 2, 3, -1]", ["recipes.plain.weights.3"]),
    ("recipes.plain.weights=[1, 2, 3, .inf]", ["recipes.plain.weights.3", "finite", "inf"]),
    ("train.lr=.nan", ["train.lr", "nan"]),
    ("recipes.plain.teachers=[a, b]", ["recipes.plain", "ensemble"]),
    ("teachers.a={modle: resnet50}", ["teachers.a.modle", "'model'", "teachers.a.model is missing"]),
    ("teachers.a/b={model: resnet50}", ["teachers.a/b"]),
    ("teachers.-a={model: resnet50}", ["teachers.-a"]),
    ("teachers.a={model: resnet50, arch: {pretrained: true}}", ["teachers.a.arch", "pretrained stands beside arch"]),
    ("teachers.a={model: resnet50, size: [64, 64]}", ["teachers.a.size is an unknown key"]),
    ("students.resnet18.size=[64, 0]", ["students.resnet18.size.1"]),
    ("distill.seeds=[-1]", ["distill.seeds.0"]),
    ("distill.flip=2", ["distill.flip"]),
    ("ensembles.both={teachers: [a, b], heatmap: median}",
     ["ensembles.both.heatmap", "'mean', 'max', 'confidence', 'class-ap' or 'agreement'", "median"]),
    ("dump.tta={scales: [1, 0]}", ["dump.tta.scales.1", "greater than 0"]),
    ("dump.tta={scales: [1, 2.5]}", ["dump.tta.scales.1", "2.5"]),
    ("dump.tta={scales: [0.5, 2]}", ["dump.tta.scales", "1 among them", "[0.5, 2]"]),
    ("dump.tta={scales: [1, 2, 2]}", ["dump.tta.scales", "different"]),
    ("dump.tta={mirror: true}", ["dump.tta.mirror", "flip, scales"]),
    ("teachers=3", ["teachers: expected a mapping of keys (got 3)"]),
    ("data=", ["data: expected a mapping of keys (got null)"]),
])
def test_a_bad_value_is_named_by_its_dotted_key(params_file, override, words):
    with pytest.raises(UserError) as caught:
        load_params(params_file, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(("override", "words"), [
    ("distill.students=[resnet19]", ["distill.students", "student 'resnet19'", "'resnet18'"]),
    ("distill.recipes=[plane]", ["distill.recipes", "'plane'", "'plain'"]),
    ("screening.x={students: [x], recipe: plain, variations: {a: []}}", ["screening.x.students", "resnet18"]),
    ("screening.x={students: [resnet18], recipe: plane, variations: {a: []}}", ["screening.x.recipe", "'plain'"]),
    ("screening.x={students: [resnet18], recipe: plain, variations: {}}", ["screening.x.variations", "1"]),
    ("report.baseline=resnet51", ["report.baseline", "teacher 'resnet51'", "'resnet50'"]),
    ("recipes.plain.teachers=[resnet5]", ["recipes.plain.teachers", "teacher 'resnet5'", "'resnet50'"]),
    ("recipes.plain={teachers: [resnet50], ensemble: both}", ["recipes.plain.ensemble", "'both'", "none"]),
    ("ensembles.separate={teachers: [resnet50, b]}", ["ensembles.separate", "choose another"]),
    ("teachers.views={model: resnet50}", ["teachers.views", "choose another"]),
    ("teachers.ensemble={model: resnet50}", ["teachers.ensemble", "choose another"]),
    ("ensembles.both={teachers: [resnet50, hourglass]}", ["ensembles.both.teachers", "'hourglass'", "resnet50"]),
    ("teachers.resnet50.train={lrr: 1}", ["teachers.resnet50.train.lrr", "'lr'"]),
    ("students.resnet18.train={lr: fast}", ["students.resnet18.train.lr", "'fast'"]),
])
def test_what_an_entry_names_is_looked_up_before_any_work(params_file, override, words):
    with pytest.raises(UserError) as caught:
        load_params(params_file, [override])
    for word in ["params.yaml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("override", "word"), [
    ("train.lr", "dotted.key=value"), ("train.lr.deep=1", "train.lr"), ("train={", "YAML"),
])
def test_a_bad_override_says_what_was_expected(params_file, override, word):
    with pytest.raises(UserError, match=word):
        load_params(params_file, [override])


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UserError, match="pipeline profile"):
        load_params(tmp_path / "params.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\nb: 2")
    with pytest.raises(UserError, match=r"broken.yaml, line"):
        load_params(broken)
    for content, words in (("- 1", "holds a list, expected a mapping"), ("data", "holds a single value, expected a"),
                           ("# mine", r"broken\.yaml is empty\. Write one with 'pipeline profile demo --out .*ml --")):
        broken.write_text(content)
        with pytest.raises(UserError, match=words):
            load_params(broken)
    with pytest.raises(UserError, match="is a folder, expected a params file"):
        load_params(tmp_path)
    for content, word in ((b"\xff\xfe", "UTF-8"), (b"data: &a {name: *a}", "Circular"), (b"[" * 5000, "too deeply")):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=rf"broken\.yaml.*{word}"):
            load_params(broken)


@pytest.mark.parametrize(("value", "words"), [
    ("2007-13-45", "month must be in 1"), ("!!int abc", "abc"), ("!!float abc", "abc"), ("!!bool maybe", "maybe"),
    ('"\\UFFFFFFFF"', ""), ("1" * 5000, "5000 digits")], ids=["date", "int", "float", "bool", "character", "digits"])
def test_a_value_that_yaml_cannot_make_is_one_line(params_file, value, words):
    with pytest.raises(UserError, match=rf"^--set data\.name: a value cannot be read: .*{words}.*\.$"):
        load_params(params_file, [f"data.name={value}"])
    params_file.write_text(f"{SMALLEST}data: {{name: {value}}}\n")
    with pytest.raises(UserError, match=r"params\.yaml: a value cannot be read: "):
        load_params(params_file)


def test_what_yaml_takes_for_a_date_is_a_name(params_file):
    assert load_params(params_file, ["data.source=2007-06-30"]).data.source == "2007-06-30"


def test_the_home_folder_may_be_a_tilde(params_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    params = load_params(params_file, [
        "data={source: ~/all.json, images: ~/images, unlabelled: '~/more'}", "teachers.resnet50.weights=~/a~b.pth"])
    assert (params.data.source, params.data.images, params.data.unlabelled) == (
        "/home/me/all.json", "/home/me/images", "/home/me/more")
    assert params.teachers["resnet50"].weights == "/home/me/a~b.pth"
    assert changed(params, [], "here") == params
    with pytest.raises(UserError, match=r"data\.unlabelled: .*at least 1 character"):
        load_params(params_file, ["data.unlabelled=''"])


@pytest.mark.parametrize(("source", "ignored", "kind"), [
    ("demo", ["classes=[cat]", "sets={train: a}", "images=x", "download=true"], "demo"),
    ("VOCdevkit", ["images=x"], "voc"), ("all.json, format: voc", ["images=x"], "voc"),
    ("all.json", ["download=true"], "coco"), ("coco, format: coco", ["download=true"], "coco"),
    ("coco, sets: {train: a.json}", ["download=true"], "coco"),
])
def test_a_key_that_the_source_has_no_use_for_is_refused(params_file, source, ignored, kind):
    data = f"data={{source: {source}}}"
    assert load_params(params_file, [data, "data.download=false"]).data.kind == kind
    for change in ignored:
        words = rf"data: source .* is read as {kind}, which knows no {change.split('=')[0]}"
        with pytest.raises(UserError, match=words):
            load_params(params_file, [data, f"data.{change}"])


def test_an_override_of_a_block_leaves_its_alias_as_it_is(params_file):
    params_file.write_text(SMALLEST.replace("recipes: [plain]}", "recipes: [plain], train: *train}").replace(
        "teachers:", "train: &train {epochs: 3}\nteachers:"))
    params = load_params(params_file, ["distill.train.epochs=7"])
    assert (params.train.epochs, params.distill.train.epochs) == (3, 7)


def test_a_teacher_without_epochs_comes_from_a_detectors_file(params_file):
    taken = ["teachers.resnet50.train={epochs: 0}", "teachers.resnet50.weights=mine.safetensors"]
    assert load_params(params_file, taken).teachers["resnet50"].train == {"epochs": 0}
    with pytest.raises(UserError, match=r"teachers\.resnet50: with epochs: 0 .*`weights`"):
        load_params(params_file, taken[:1])
    with pytest.raises(UserError, match=r"reset_heads: true; set epochs above 0, or .* teachers\.resnet50\.classes\."):
        load_params(params_file, [*taken, "teachers.resnet50.reset_heads=true"])
    for where in ("distill.train.epochs=0", "students.resnet18.train={epochs: 0}"):
        with pytest.raises(UserError, match=r"students\.resnet18: expected more than 0 epochs"):
            load_params(params_file, [where])


@pytest.mark.parametrize(("weights", "fed", "words"), [
    ("null", {}, "but weights is null: take input away"),
    ("mine.safetensors", {}, "but weights is mine.safetensors: take input away"),
    ("theirs.pth", {"std": [0, 1, 1]}, r"teachers\.resnet50\.input\.std.*greater than 0"),
    ("theirs.pth", {"mean": [0.5]}, r"teachers\.resnet50\.input\.mean"),
    ("theirs.pth", {"mean": [104, 117, 123]}, r"teachers\.resnet50\.input\.mean.*less than or equal to 1"),
    ("theirs.pth", {"color_order": "gbr"}, r"teachers\.resnet50\.input\.color_order"),
])
def test_only_a_file_that_does_not_say_how_it_was_fed_is_told(params_file, weights, fed, words):
    right = {"color_order": "bgr", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    given = [f"teachers.resnet50.weights={weights}", f"teachers.resnet50.input={json.dumps({**right, **fed})}"]
    with pytest.raises(UserError, match=words):
        load_params(params_file, given)
    assert load_params(params_file, ["teachers.resnet50.weights=theirs.pth", given[1].split("=")[0] + "="
                                     + json.dumps(right)]).teachers["resnet50"].input.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("override", ["distill.train.seed=1", "students.resnet18.train={seed: 1}"])
def test_a_students_seed_is_no_key_of_its_training(params_file, override):
    with pytest.raises(UserError, match=rf"{override.split('=')[0]}.*distill\.seeds"):
        load_params(params_file, [override])
    assert load_params(params_file, ["teachers.resnet50.train={seed: 1}"])


def test_an_ensemble_merges_different_teachers(params_file):
    with pytest.raises(UserError, match=r"ensembles\.both\.teachers: expected a name only once"):
        load_params(params_file, ["ensembles.both={teachers: [resnet50, resnet50]}"])


def test_a_teachers_store_is_not_that_of_an_ensemble(params_file):
    teacher = "teachers.ensemble-both={model: resnet18}"
    assert load_params(params_file, [teacher])
    with pytest.raises(UserError, match=r"teachers\.ensemble-both: .*choose another"):
        load_params(params_file, [teacher, "ensembles.both={teachers: [resnet50, ensemble-both]}"])


def test_a_baseline_that_nobody_named_need_not_be_there(params_file):
    params = load_params(params_file, ["teachers={a: {model: resnet18}}"])
    assert params.report.baseline not in params.teachers
    assert changed(params, [], "here") == params


def test_a_recipes_teachers_are_those_that_its_ensemble_merges(params_file):
    teachers = ["teachers.a={model: resnet18}", "teachers.b={model: resnet34}"]
    merged = "ensembles.both={teachers: [resnet50, a]}"
    load_params(params_file, [*teachers, merged, "recipes.plain={teachers: [resnet50, a], ensemble: both}"])
    load_params(params_file, [*teachers, "recipes.plain={teachers: [resnet50, a, b], ensemble: separate}"])
    with pytest.raises(UserError, match=r"recipes\.plain: the teachers are .*'both' is merged of resnet50, a;"):
        load_params(params_file, [*teachers, merged, "recipes.plain={teachers: [resnet50, b], ensemble: both}"])


def test_an_entrys_train_keys_lie_on_top_of_the_block(params_file):
    base = load_params(params_file).train
    assert train_params(base, {"lr": 0.5}, "teachers.a.train").lr == 0.5
    assert train_params(base, {"lr": 0.5}, "teachers.a.train").batch == base.batch
    with pytest.raises(UserError, match=r"teachers\.a\.train\.lrr.*'lr'"):
        train_params(base, {"lrr": 0.5}, "teachers.a.train")


def test_changed_params_are_checked_like_a_file(params_file):
    params = load_params(params_file)
    longer = changed(params, ["distill.train.epochs=7", "recipes.plain.weights=table4-2"], "here")
    assert (longer.distill.train.epochs, longer.recipes["plain"].weights) == (7, PAPER_WEIGHTS["table4-2"])
    assert changed(params, [], "here") == params
    with pytest.raises(UserError, match=r"^here: recipes\.plain\.weight is an unknown key"):
        changed(params, ["recipes.plain.weight=table4-2"], "here")
    with pytest.raises(UserError, match=r"^here: recipes\.plain\.teachers: .*'resnet51'"):
        changed(params, ["recipes.plain.teachers=[resnet51]"], "here")


@pytest.mark.parametrize("classes", ["[]", "[cat, cat]", "cat"])
def test_a_teachers_classes_are_a_list_of_different_ones(params_file, classes):
    with pytest.raises(UserError, match=r"teachers\.a\.classes"):
        load_params(params_file, [f"teachers.a={{model: resnet18, classes: {classes}}}"])


@pytest.mark.parametrize("name", [
    "u8-channel", "exact-fp16", "pca-32+pooled+u8-channel", "pca-4+exact-fp16", "pooled+pca-4+u8-channel",
    "pca-0+u8-channel", "pca-10000+u8-channel", "pca-4", "pooled", "raw+u8-channel"])
def test_encodings_of_features_are_those_that_stores_know(params_file, name):
    known = name == "exact-fp16" or feature_encoding(name) is not None
    with nullcontext() if known else pytest.raises(UserError, match=r"dump\.encodings\.features"):
        load_params(params_file, [f"dump.encodings.features={name}"])


@pytest.mark.parametrize("array", ["heatmap", "wh_offset"])
def test_encodings_of_heads_are_those_that_stores_know(array):
    assert {*get_args(Encodings.model_fields[array].annotation)} <= {*ENCODINGS}
