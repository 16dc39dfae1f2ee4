"""What scoring a teacher and scoring a student have in common."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import inputs, work

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet, ImageRecord
    from pipeline.params import Params


def score(params: "Params", stage: str, *, module: str, model_folder: Path, about: Mapping[str, Any],
          out: Path, split: str = "test", beside: Sequence[str] = (),
          size_hw: tuple[int, int] | None = None, classes: Sequence[str] | None = None,
          command: str = "pipeline distill") -> dict[str, Any]:
    """Scores one detector on a split, and on others `beside` it, into the file `out`.

    Args:
        params: the data, the evaluation and, without `size_hw`, the input size.
        stage, module, out: as in `work.run`.
        model_folder: where the detector is.
        about: the first keys of metrics.json.
        split: what it is scored on.
        beside: further splits, each a key of metrics.json (null where the data has no such split). Of "train"
            as many images as val has, evenly spaced, tell whether a detector knows its images by heart.
        size_hw: (height, width) of its input in pixels.
        classes: what its planes stand for, where these are not the data's classes; it is scored on these in any case.
        command: what trains the detector.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: the data has no such split, or there is no such detector.
    """
    size = size_hw or params.views.size
    data = inputs.prepared_data(params)
    if not data.splits.get(split):
        raise UserError(f"data/{data.name} has no {split} images to score on. Name some in data.sets (val may be "
                        "held out by data.val_fraction), and run 'pipeline prepare' again.")
    weights = inputs.needs(paths.weights(model_folder), command)
    summary = inputs.training_summary(model_folder)
    inputs.tell_of_other_data(model_folder, data)
    splits = {name: records for name in (split, *beside) if (records := _records(data, name))}

    def build(held: work.Work) -> None:
        from pipeline.devices import machine, pick_device
        from pipeline.evaluation import cost, evaluate_detections
        from pipeline.inference import detect
        from pipeline.inform import progress_bar
        from pipeline.models import load_trained

        model = load_trained(weights, data.classes, classes)
        found = {}
        for name, records in splits.items():
            with progress_bar(f"{stage} {name}") as progress:
                rows = detect(model, records, size_hw=size, batch=params.evaluate.batch,
                              top_k=params.evaluate.top_k, flip=params.evaluate.flip, device=pick_device(),
                              progress=progress)
            found[name] = evaluate_detections(rows, records, data.classes)
        metrics = {
            **about, "data": data.name, "split": split, **found[split],
            **cost(model, size, params.evaluate.latency_runs), "machine": machine(),
            **{name: found.get(name) for name in beside},
            "passes": summary["passes"], "seconds": summary["seconds"],
            "weights": given["weights"], "origin": summary.get("origin"), "fingerprint": held.fingerprint,
        }
        work.write_text(held.result, json.dumps(metrics, indent=1) + "\n")

    given = {"weights": work.file_sha256(weights), "data": data.fingerprint, "splits": [split, *beside],
             "about": dict(about), "size": size, "evaluate": inputs.values(params.evaluate),
             "made": [summary["passes"], summary.get("origin")]}
    work.run(stage, module=module, inputs=given, out=out, build=build)
    return read(out)


def read(out: Path) -> dict[str, Any]:
    """The content of a metrics.json."""
    return inputs.read_json(out, ("fingerprint",), "Remove it and run 'pipeline evaluate' again.")


def _records(data: "DataSet", split: str) -> "Sequence[ImageRecord]":
    """The images of a split, if there are any; of train, evenly spaced ones, as many as val has."""
    from pipeline.data.dataset import TRAIN

    records = data.splits.get(split, ())
    if split != TRAIN:
        return records
    count = min(len(records), len(data.splits.get("val", ())))
    return [records[place * len(records) // count] for place in range(count)]
