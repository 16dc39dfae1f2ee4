import cv2
import numpy as np
import pytest

from pipeline.report import figures
from pipeline.report.drawing import DARK, LIGHT, panels, plain_ticks

BOTH = "resnet50+hourglass_small"
RUNS = {("resnet18", "plain"): [40.0, 42.0], ("resnet18", BOTH): [45.0, 46.0], ("mobilenet_v2", "plain"): [35.0]}
LOG = {"step": np.array([1.0, 2, 3]), "epoch": np.array([0.1, 0.2, 0.3])}
LOG |= {term: np.array([3.0, 2, 1]) for term in ("heatmap", "wh", "offset")}
TAUGHT = LOG | {term: np.array([3.0, 0, 1]) for term in ("kd_heatmap", "kd_wh", "kd_features")}


def paper_color(path):
    blue, green, red = cv2.imread(str(path))[0, 0]
    return f"#{red:02x}{green:02x}{blue:02x}"


@pytest.mark.parametrize("draw", [figures.score_figure, figures.size_figure])
def test_scores_and_sizes_are_drawn_for_light_and_dark(study, tmp_path, draw):
    picture = draw(study(RUNS), tmp_path)
    assert paper_color(tmp_path / picture.light) == LIGHT.paper
    assert paper_color(tmp_path / picture.dark) == DARK.paper
    assert "ResNet-18" in picture.alt


@pytest.mark.parametrize(("values", "least"), [((2.0, 8.0), 3), ((9.1, 9.9), 2), ((0.01, 90.0), 4)])
def test_a_logarithmic_axis_has_ticks_however_little_it_spans(values, least):
    _, (axis,) = panels(LIGHT, 1, columns=1, height=2)
    axis.plot([0, 1], values)
    axis.set_yscale("log")
    plain_ticks(axis.yaxis)
    low, high = axis.get_ylim()
    assert sum(low <= tick <= high for tick in axis.get_yticks()) >= least


def test_a_figure_for_light_pages_alone(study, tmp_path):
    picture = figures.score_figure(study(RUNS), tmp_path, dark=False)
    assert picture.dark is None
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["scores.png"]


@pytest.mark.parametrize("draw", [figures.score_figure, figures.size_figure])
def test_nothing_to_draw_is_no_figure(study, tmp_path, draw):
    assert draw(study({}, {}), tmp_path) is None


def test_as_many_series_as_the_study_has_recipes_look_different():
    assert len({(LIGHT.color(place), LIGHT.marker(place)) for place in range(3 * len(LIGHT.series))}) == 24


def test_the_same_numbers_give_the_same_file(study, tmp_path):
    written = []
    for folder in ("a", "b"):
        picture = figures.score_figure(study(RUNS), tmp_path / folder)
        written.append((tmp_path / folder / picture.light).read_bytes())
    assert written[0] == written[1]


def test_curves_of_teachers_students_and_distillation(study, tmp_path):
    found = study(RUNS)
    logs = {("resnet18", "plain"): LOG, ("resnet18", BOTH): TAUGHT, ("resnet18", f"{BOTH}-paper"): TAUGHT}
    teachers = figures.teacher_curves({"resnet50": LOG}, tmp_path)
    students = figures.student_curves(found, logs, tmp_path)
    terms = figures.distillation_curves(found, logs, tmp_path)
    for picture in (teachers, students, terms):
        assert (tmp_path / picture.light).is_file()
        assert (tmp_path / picture.dark).is_file()
    assert "ResNet-50 ends at about 2" in teachers.alt
    assert "alone ends at about 6" in students.alt  # the three terms' sum, averaged over the last rows
    assert "w1 heatmap" in terms.alt
    assert "w3 offset" not in terms.alt  # its weight is 0, so nobody logged it
    assert "paper" not in students.alt + terms.alt  # variants would hide the main recipes


def test_the_weight_of_the_ground_truth_is_not_part_of_its_curve(study, tree, tmp_path):
    tree["recipes"][BOTH]["ground_truth"] = 0.5
    halved = {key: values / 2 if key in ("heatmap", "wh", "offset") else values for key, values in TAUGHT.items()}
    logs = {("resnet18", "plain"): LOG, ("resnet18", BOTH): halved}
    assert figures.student_curves(study(RUNS), logs, tmp_path).alt.count("ends at about 6") == 2
    tree["recipes"][BOTH]["ground_truth"] = 0
    assert figures.student_curves(study(RUNS), logs, tmp_path).alt.count("ends at") == 1


def test_no_logs_no_curves(study, tmp_path):
    assert figures.teacher_curves({}, tmp_path) is None
    assert figures.student_curves(study({}), {}, tmp_path) is None
    assert figures.distillation_curves(study({}), {("resnet18", "plain"): LOG}, tmp_path) is None
