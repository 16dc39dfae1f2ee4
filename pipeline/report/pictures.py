"""Test images as everyone sees them: ground truth, teachers, ensemble, and a student alone and taught.

Test images are in no store, so the teachers run here, on the few images that are shown.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import paths
from pipeline.data import invert, plain_view, render_view, view_boxes
from pipeline.data.dataset import ImageRecord
from pipeline.ensemble.merging import merge_view
from pipeline.ensemble.weighting import class_weights, known_ap, rule_of
from pipeline.inference import detect
from pipeline.inference.augmentation import answer
from pipeline.inference.prediction import inference
from pipeline.inform import Progress, no_progress
from pipeline.models import Detector, load_trained
from pipeline.params.recipe import PLAIN
from pipeline.report.document import Picture, listed
from pipeline.report.drawing import save
from pipeline.report.overlays import Box, Content, Heat, draw_panels, in_words
from pipeline.report.study import Study, label

Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
Column = tuple[str, Sequence[Content]]


def write_pictures(
    study: Study, root: Path, out: Path, progress: Progress = no_progress
) -> tuple[list[Picture], list[str]]:
    """Draws params.report.images test images, evenly spaced over the split.

    Returns:
        The pictures, and notes on what is missing in them.
    """
    test = study.data.splits.get("test", ())
    count = min(study.params.report.images, len(test))
    if not count:
        return [], []
    records = [test[row] for row in np.linspace(0, len(test) - 1, count).round().astype(int)]
    columns: list[Column] = [("Ground truth", [_truth(record) for record in records])]
    notes = []
    for see in (_teachers, _students):
        seen, missing = see(study, root, records)
        columns += seen
        notes += missing
    pictures = []
    for place, record in enumerate(records):
        pictures.append(_row(study, record, [(heading, seen[place]) for heading, seen in columns], out, place + 1))
        progress(place + 1, count, "pictures")
    return pictures, notes


def _teachers(study: Study, root: Path, records: Sequence[ImageRecord]) -> tuple[list[Column], list[str]]:
    """The heatmaps of every teacher with weights, and of the ensemble that the headline recipe uses."""
    params = study.params
    outputs, notes = {}, []
    for name, teacher in params.teachers.items():
        path = paths.weights(paths.teacher_model(name))
        if (root / path).is_file():
            model = load_trained(root / path, study.data.classes, teacher.classes)
            outputs[name] = teacher_outputs(model, records, study)
        else:
            notes.append(f"{label(name)} is not shown: there is no `{path}`.")
    columns: list[Column] = [
        (label(name), _heats([heatmap for heatmap, _, _ in images], records, params.views.size))
        for name, images in outputs.items()
    ]
    key = params.recipes[study.headline].ensemble if study.headline else None
    ensemble = params.ensembles.get(key or "")
    by_ap = {name: _class_ap(study, name) for name in ensemble.teachers} if ensemble else {}
    unscored = [label(name) for name, ap in by_ap.items() if not ap]
    if ensemble and ensemble.heatmap == "class-ap" and unscored:
        notes.append(f"The ensemble is not shown: it weighs by AP on val, and {listed(unscored)} "
                     f"{'have' if len(unscored) > 1 else 'has'} none in the results.")
    elif ensemble and outputs.keys() >= {*ensemble.teachers}:
        shares = class_weights([*by_ap.values()], study.data.classes) if ensemble.heatmap == "class-ap" else None
        merged = []
        for record, *views in zip(records, *(outputs[name] for name in ensemble.teachers), strict=True):
            heatmaps, wh_offsets, peaks = (np.stack(arrays) for arrays in zip(*views, strict=True))
            truth = _objects(record, params.views.size, heatmaps.shape[2:])
            rule = rule_of(ensemble.heatmap, shares=shares, truth=truth)
            merged.append(merge_view(
                heatmaps, wh_offsets, peaks, iou=ensemble.iou, threshold=ensemble.threshold, rule=rule).heatmap)
        columns.append(("Ensemble", _heats(merged, records, params.views.size)))
    return columns, notes


def _class_ap(study: Study, teacher: str) -> dict[str, float | None]:
    """`known_ap` of a teacher on val; {} where it has no result there."""
    scores = study.results.teacher(teacher).val
    return known_ap(scores.per_class if scores else {}, study.params.teachers[teacher].classes)


def teacher_outputs(model: Detector, records: Sequence[ImageRecord], study: Study) -> list[Outputs]:
    """What a dump in float32 would store of each image's plain view: heatmap, wh_offset and peaks."""
    size, found = study.params.views.size, []
    with inference(model, "cpu"):
        for record in records:
            pixels = torch.from_numpy(render_view(record.read(), plain_view(record, size), size)).permute(2, 0, 1)
            dump = study.params.dump
            said = answer(model, pixels[None], precision="32-true", peaks=dump.peaks, tta=dump.tta)
            found.append((said.heatmap[0].numpy(), said.wh_offset[0].numpy(), said.peaks[0].numpy()))
    return found


def _students(study: Study, root: Path, records: Sequence[ImageRecord]) -> tuple[list[Column], list[str]]:
    """The detections of one student, alone and taught: the first with results and weights of both from one seed."""
    for student in study.params.students:
        weights = [
            {seed: path for seed in study.results.runs.get((student, recipe), {})
             if (path := root / paths.weights(paths.student_model(student, recipe, seed))).is_file()}
            for recipe in (PLAIN, study.headline or "")
        ]
        if both := sorted(weights[0].keys() & weights[1].keys()):
            headings = f"{label(student)}, alone", f"{label(student)}, taught"
            files = [found[both[0]] for found in weights]
            size = study.params.students[student].size
            return [
                (heading, student_boxes(path, records, study, size))
                for heading, path in zip(headings, files, strict=True)
            ], []
    return [], ["No student has results and weights both alone and taught, so none is shown."]


def student_boxes(
    path: Path, records: Sequence[ImageRecord], study: Study, size_hw: tuple[int, int] | None = None
) -> list[list[Box]]:
    """The detections of each image that score enough to be drawn; the input is `size_hw`, else that of views."""
    evaluate = study.params.evaluate
    rows = detect(
        load_trained(path, study.data.classes),
        records,
        size_hw=size_hw or study.params.views.size,
        batch=1,
        top_k=evaluate.top_k,
        flip=evaluate.flip,
    )
    rows = rows[rows[:, 2] >= study.params.report.score]
    return [
        [Box(row[3:], int(row[1]), float(row[2])) for row in rows[rows[:, 0] == place]] for place in range(len(records))
    ]


def _objects(
    record: ImageRecord, size_hw: tuple[int, int], grid_hw: tuple[int, ...]
) -> NDArray[np.float32]:
    """(n, 5) x1, y1, x2, y2 in cells, class of what a plain view shows."""
    boxes, _ = view_boxes(record, plain_view(record, size_hw), size_hw)
    return np.column_stack([boxes * (grid_hw[0] / size_hw[0]), record.labels])


def _truth(record: ImageRecord) -> list[Box]:
    objects = zip(record.boxes, record.labels, record.difficult, strict=True)
    return [Box(box, int(cls), difficult=bool(difficult)) for box, cls, difficult in objects]


def _row(study: Study, record: ImageRecord, panels: list[tuple[str, Content]], out: Path, place: int) -> Picture:
    image, classes = record.read(), study.data.classes
    boxes = [(heading, content) for heading, content in panels if isinstance(content, list)]
    sayings = [f"{heading}: {in_words(content, classes)}" for heading, content in boxes]
    return save(
        lambda theme: draw_panels(theme, image, panels, classes),
        out,
        f"image-{place}",
        alt=f"Test image {record.id}, {listed([heading for heading, _ in panels])}. {'. '.join(sayings)}.",
        caption=f"Test image {record.id}",
    )


def _heats(
    heatmaps: Iterable[NDArray[np.floating]], records: Sequence[ImageRecord], size_hw: tuple[int, int]
) -> list[Heat]:
    """Plain views' heatmaps where they belong on the source images."""
    heats = []
    for heatmap, record in zip(heatmaps, records, strict=True):
        back = invert(plain_view(record, size_hw).matrix)
        (left, top), (right, bottom) = (
            back[:, :2] @ corner + back[:, 2] for corner in (np.zeros(2), np.array(size_hw[::-1]))
        )
        heats.append(Heat(heatmap, (left, right, bottom, top)))
    return heats
