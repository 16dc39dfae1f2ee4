"""Stage `evaluate_ensemble`: the AP of merged teachers, all splits but train, at results/ensembles/KEY/metrics.json."""

import json
from typing import TYPE_CHECKING, Any

from pipeline import paths
from stages import entry, inputs, scoring, work
from stages.build_ensemble import BY_AP, BY_TRUTH, class_ap

if TYPE_CHECKING:
    from pipeline.params import Params

SPLITS = ("test", "unseen", "val")


def run(params: "Params", key: str) -> dict[str, Any]:
    """Scores one ensemble, by running its teachers on the images; returns its metrics.

    An ensemble that looks at the ground truth (agreement) has no AP of its own: its scores are null.
    """
    ensemble = inputs.named(params.ensembles, key, "ensemble")
    data = inputs.prepared_data(params)
    weights = {name: inputs.needs(paths.weights(paths.teacher_model(name)), f"pipeline train-teacher {name}")
               for name in ensemble.teachers}
    known = class_ap(params, key) if ensemble.heatmap == BY_AP else None
    splits = [] if ensemble.heatmap == BY_TRUTH else [name for name in SPLITS if data.splits.get(name)]

    def build(held: work.Work) -> None:
        from pipeline.devices import pick_device
        from pipeline.ensemble.weighting import class_weights, rule_of
        from pipeline.evaluation import evaluate_detections
        from pipeline.inference.merged_detection import detect_merged
        from pipeline.inform import progress_bar
        from pipeline.models import load_trained

        teachers = [load_trained(path, data.classes, params.teachers[name].classes) for name, path in weights.items()]
        ensemble.check_known({name: teacher.config.known for name, teacher in zip(weights, teachers, strict=True)})
        found = {}
        for name in splits:
            shares = class_weights([known[teacher] for teacher in weights], data.classes) if known else None
            records = data.records(name)
            with progress_bar(f"evaluate_ensemble/{key} {name}") as progress:
                rows = detect_merged(
                    teachers, records, rule=rule_of(ensemble.heatmap, shares=shares), ensemble=ensemble,
                    dump=params.dump, size_hw=params.views.size, batch=params.evaluate.batch,
                    top_k=params.evaluate.top_k, device=pick_device(), progress=progress)
            found[name] = evaluate_detections(rows, records, data.classes)
        test, *beside = SPLITS
        metrics = {"kind": "ensemble", "ensemble": key, "teachers": ensemble.teachers, "data": data.name,
                   "split": test, **found.get(test, {}), **{name: found.get(name) for name in beside},
                   "origin": {"data": data.fingerprint, "teachers": given["weights"]}, "fingerprint": held.fingerprint}
        work.write_text(held.result, json.dumps(metrics, indent=1) + "\n")

    out = paths.metrics(paths.ensemble_results(key))
    given = {"weights": {name: work.file_sha256(path) for name, path in weights.items()}, "data": data.fingerprint,
             "ensemble": inputs.values(ensemble), "class_ap": known,
             "asked": params.dump.model_dump(mode="json", include={"precision", "peaks", "tta"}),
             "size": params.views.size, "evaluate": inputs.values(params.evaluate)}
    work.run(f"evaluate_ensemble/{key}", module="stages.evaluate_ensemble", inputs=given, out=out, build=build)
    return scoring.read(out)


if __name__ == "__main__":
    entry.stage_main(run, "key")
