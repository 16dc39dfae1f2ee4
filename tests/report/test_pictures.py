import numpy as np
import pytest

from pipeline.data import load_data
from pipeline.models import load_trained
from pipeline.report.arranging import load_results
from pipeline.report.overlays import class_colors
from pipeline.report.pictures import student_boxes, teacher_outputs, write_pictures
from pipeline.report.study import Study

BOTH = "resnet50+hourglass_small"
TEACHERS = ["teachers/resnet50", "teachers/hourglass_small"]
STUDENTS = ["students/resnet18/plain/seed1", f"students/resnet18/{BOTH}/seed1"]


@pytest.fixture
def own(project):
    params, root = project
    return Study(params, load_results(params, root), load_data(root / "data/demo")), root


def test_a_row_shows_truth_teachers_ensemble_and_a_student_twice(own, add_weights, tmp_path):
    study, root = own
    add_weights(root, TEACHERS + STUDENTS)
    told = []
    pictures, notes = write_pictures(study, root, tmp_path, lambda *step: told.append(step))
    assert notes == []
    assert told == [(1, 2, "pictures"), (2, 2, "pictures")]
    assert [picture.caption for picture in pictures] == ["Test image test0", "Test image test2"]
    alt = pictures[0].alt
    assert "Ground truth, ResNet-50, Hourglass (small), Ensemble, ResNet-18, alone and ResNet-18, taught" in alt
    assert "Ground truth: cat, dog" in alt
    assert (tmp_path / pictures[0].dark).is_file()


@pytest.mark.parametrize("kind", ["max", "class-ap", "agreement"])
def test_an_ensemble_of_every_rule_is_shown(own, add_weights, tmp_path, kind):
    study, root = own
    add_weights(root, TEACHERS)
    changed = {key: ensemble.model_copy(update={"heatmap": kind}) for key, ensemble in study.params.ensembles.items()}
    params = study.params.model_copy(update={"ensembles": changed})
    pictures, _ = write_pictures(Study(params, study.results, study.data), root, tmp_path)
    assert "Hourglass (small) and Ensemble." in pictures[0].alt


def test_an_ensemble_by_ap_on_val_that_nobody_measured_is_not_shown(own, add_weights, tmp_path):
    study, root = own
    add_weights(root, TEACHERS)
    changed = {key: each.model_copy(update={"heatmap": "class-ap"}) for key, each in study.params.ensembles.items()}
    study.results.teachers["resnet50"] = study.results.teachers["resnet50"].model_copy(update={"val": None})
    params = study.params.model_copy(update={"ensembles": changed})
    pictures, notes = write_pictures(Study(params, study.results, study.data), root, tmp_path)
    assert "Ensemble" not in pictures[0].alt
    assert "The ensemble is not shown: it weighs by AP on val, and ResNet-50 has none" in notes[0]


def test_without_weights_the_truth_is_shown_and_the_rest_named(own, tmp_path):
    pictures, notes = write_pictures(*own, tmp_path)
    assert len(pictures) == 2
    assert "`models/teachers/resnet50/weights.safetensors`" in notes[0]
    assert notes[2].startswith("No student has results and weights both alone and taught")


def test_a_student_that_is_left_out_is_not_shown(own, add_weights, tmp_path):
    study, root = own
    add_weights(root, STUDENTS)
    study.results.runs["resnet18", BOTH].pop(1)
    _, notes = write_pictures(study, root, tmp_path)
    assert notes[-1].startswith("No student has results and weights")


def test_no_pictures_where_none_are_wanted(own, tmp_path):
    study, root = own
    report = study.params.report.model_copy(update={"images": 0})
    none = Study(study.params.model_copy(update={"report": report}), study.results, study.data)
    assert write_pictures(none, root, tmp_path) == ([], [])
    assert not (tmp_path / "figures").exists()


def test_teachers_say_what_a_dump_would_store(own, add_weights):
    study, root = own
    add_weights(root, TEACHERS[:1])
    records = study.data.records("test")
    model = load_trained(root / "models" / TEACHERS[0] / "weights.safetensors", study.data.classes)
    outputs = teacher_outputs(model, records, study)
    assert len(outputs) == 3
    heatmap, wh_offset, peaks = outputs[0]
    assert (heatmap.shape, wh_offset.shape) == ((2, 8, 8), (4, 8, 8))
    assert peaks.shape == (study.params.dump.peaks, 7)
    assert 0 < heatmap.min() < heatmap.max() < 1


def test_drawn_detections_reach_the_score_and_stay_in_the_image(own, add_weights):
    study, root = own
    add_weights(root, STUDENTS[:1])
    records = study.data.records("test")
    boxes = student_boxes(root / "models" / STUDENTS[0] / "weights.safetensors", records, study)
    assert len(boxes) == 3
    drawn = [box for image in boxes for box in image]
    assert drawn
    assert all(box.score >= study.params.report.score for box in drawn)
    assert all(0 <= value <= 40 for box in drawn for value in box.corners)


def test_class_colors_differ():
    colors = class_colors(20)
    distance = np.abs(colors[:, None] - colors[None]).sum(axis=2) + np.eye(20)
    assert distance.min() > 0.05
    assert colors.min() >= 0
    assert colors.max() <= 1
