import pytest

from pipeline.errors import UserError
from pipeline.params import load_params, profiles
from stages import ahead, train_teacher

BASE = """
data: {name: mine, source: coco}
views: {size: [64, 64]}
teachers: {a: {model: hourglass_small}, b: {model: resnet50}}
students: {s: {model: resnet18}}
recipes: {plain: {}}
distill: {students: [s], recipes: [plain]}
"""


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.yaml").write_text(BASE)
    return lambda *overrides: load_params(tmp_path / "params.yaml", overrides)


@pytest.mark.parametrize("name", ["demo", "study", "voc"])
def test_profiles_pass(name):
    ahead.check(load_params(profiles.__path__[0] + f"/{name}.yaml"))


@pytest.mark.parametrize(("override", "words"), [
    ("students.s.model=resnt18", r"students\.s: Model 'resnt18' .*resnet18"),
    ("students.s.size=[40, 40]", r"students\.s: Input size \[40, 40\] does not fit resnet18: .*\[32, 32\]"),
    ("students.s.arch.deconf=[8]", r"students\.s: .*deconf"),
    ("teachers.b.model=resnet5", r"teachers\.b: Model 'resnet5'"),
    ("views.size=[48, 48]", r"teachers\.a: Input size \[48, 48\] does not fit hourglass_small"),
    ("dump.tta.scales=[1, 1.1]", r"teachers\.a: dump\.tta\.scales: 1\.1 "),
])
def test_what_would_stop_a_later_stage_is_named_before_a_teacher_is_trained(params, override, words):
    ahead.check(params())
    with pytest.raises(UserError, match=words):
        train_teacher.run(params(override), "a")
