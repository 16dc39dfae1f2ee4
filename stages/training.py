"""What training a teacher and training a student have in common, which is all but data and objective."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import inputs as stage_inputs
from stages import paths, work
from stages.code import code_fingerprint

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from pipeline.data.dataset import DataSet
    from pipeline.data.loading import Source
    from pipeline.models import Detector as DetectorModule
    from pipeline.params import Detector, Train

#: They change how fast a run is, not what comes out.
NOT_DECISIVE = ("workers", "checkpoint_minutes", "log_every")


def run(stage: str, *, module: str, out: Path, data: "DataSet", detector: "Detector", train: "Train", seed: int,
        size_hw: tuple[int, int], inputs: Mapping[str, Any], source: "Callable[[DetectorModule], Source]",
        objective: "Callable[[Fabric, DetectorModule], nn.Module]", devices: str, restart: bool = False,
        prepare: "Callable[[dict[str, Tensor]], dict[str, Any]] | None" = None) -> dict[str, Any]:
    """Trains one detector into `out`: weights.safetensors, config.json, summary.json and logs.

    Args:
        stage, module, out: as in `work.run`.
        data: names the classes.
        detector: the entry of params.
        train: its resolved training block.
        seed: of the initial weights, the order of images and everything else that is drawn.
        size_hw: input size in pixels.
        inputs: what else decides the result.
        source: makes the training samples of a detector.
        objective: makes the module that turns (outputs, batch) into named losses.
        devices: "auto" or a number of processes.
        restart: begin anew, whatever earlier runs left.
        prepare: further work on a batch that is on the device.

    Returns:
        summary.json: steps, passes, seconds, last losses, origin.
    """
    given = {
        "data": data.fingerprint, "classes": data.classes, "size": size_hw, "seed": seed,
        "detector": stage_inputs.values(detector, without=("train",)),
        "weights": stage_inputs.weights_sha256(detector.weights),
        "train": stage_inputs.values(train, without=NOT_DECISIVE), **inputs,
    }

    def build(folder: Path, result: Path, fingerprint: str) -> None:
        from pipeline.data.loading import Batches
        from pipeline.devices import make_fabric
        from pipeline.engine import fit, seed_everything
        from pipeline.models import build_detector, check_size, preprocess, save_detector

        fabric = make_fabric(devices, train.precision)
        seed_everything(seed)
        model = build_detector(detector.model, len(data.classes), pretrained=detector.pretrained,
                               weights=detector.weights, reset_heads=detector.reset_heads, **detector.arch)
        check_size(model.config, size_hw)
        losses = objective(fabric, model)
        batches = Batches(source(model), batch=train.batch, epochs=train.epochs, seed=seed, workers=train.workers,
                          rank=fabric.global_rank, world=fabric.world_size)

        def on_device(batch: "dict[str, Tensor]") -> dict[str, Any]:
            ready: dict[str, Any] = prepare(batch) if prepare else dict(batch)
            return {**ready, "image": preprocess(batch["image"], model.config)}

        summary = fit(model, batches, losses, params=train, folder=folder, fabric=fabric, prepare=on_device,
                      seed=seed, identity=fingerprint, label=stage)
        if fabric.is_global_zero:
            fresh = folder / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            save_detector(model, paths.weights(fresh), data.classes)
            origin = {"code": code_fingerprint(module), "data": data.fingerprint, **inputs}
            about = {**asdict(summary), "origin": origin, "fingerprint": fingerprint}
            (fresh / "summary.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            shutil.copy(folder / "log.csv", fresh)
            shutil.copytree(folder / "tensorboard", fresh / "tensorboard")
            shutil.rmtree(result, ignore_errors=True)
            os.replace(fresh, result)
        fabric.barrier()

    work.run(stage, module=module, inputs=given, out=out, build=build, restart=restart)
    return stage_inputs.training_summary(out) if work.is_main_process() else {}
