"""What training a teacher and training students have in common, which is all but data and objective."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline import paths
from pipeline.errors import UserError
from pipeline.inform import is_main_process
from stages import inputs as stage_inputs
from stages import work
from stages.code import code_fingerprint
from stages.entry import stops_all, told

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor, nn

    from pipeline.data.dataset import DataSet
    from pipeline.data.loading import Source
    from pipeline.engine import FitSummary, Trainee
    from pipeline.models import Detector as DetectorModule
    from pipeline.params import Detector, Train

#: They change how fast a run is and what it logs, not what comes out.
NOT_DECISIVE = ("workers", "checkpoint_minutes", "log_every", "grad_norm_every")


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One detector to train into `out`: weights.safetensors, config.json, summary.json and logs.

    Attributes:
        stage, module, out: as in `work.hold`.
        data: names the classes.
        detector: the entry of params.
        train: its resolved training block.
        seed: of the initial weights, the order of images and everything else that is drawn.
        size_hw: input size in pixels.
        inputs: what else decides the result.
        objective: makes the module that turns (outputs, batch) into named losses.
    """

    stage: str
    module: str
    out: Path
    data: "DataSet"
    detector: "Detector"
    train: "Train"
    seed: int
    size_hw: tuple[int, int]
    inputs: Mapping[str, Any]
    objective: "Callable[[Fabric, DetectorModule], nn.Module]"

    @cached_property
    def decisive(self) -> dict[str, Any]:
        """All that decides the result, besides the code."""
        return {
            "data": self.data.fingerprint, "classes": self.data.classes, "size": self.size_hw, "seed": self.seed,
            "detector": stage_inputs.values(self.detector, without=("train", "classes", "weights", "input")),
            "input": stage_inputs.values(self.detector.input) if self.detector.input else None,
            "weights": stage_inputs.weights_sha256(self.detector.weights),
            "train": stage_inputs.values(self.train, without=NOT_DECISIVE), **self.inputs,
        }

    @property
    def training(self) -> dict[str, Any]:
        """What of the params decides the result of a run that has the same data, targets and seed as another."""
        decisive = self.decisive
        beside = ("size", "detector", "input", "weights", "flip")
        return {**{key: decisive.get(key) for key in beside}, **decisive["train"]}

    @cached_property
    def fingerprint(self) -> str:
        """Of all that decides the result."""
        return work.stage_fingerprint(self.stage, self.module, self.decisive)

    @property
    def found(self) -> str | None:
        """The fingerprint of what is at `out`: None where nothing is, "" where it does not say or has no weights."""
        if not self.out.exists():
            return None
        if not paths.weights(self.out).exists():
            return ""
        try:
            return str(stage_inputs.training_summary(self.out)["fingerprint"])
        except (UserError, OSError, KeyError):
            return ""


def run(cells: Sequence[Cell], *, source: "Callable[[], Source]", devices: str, restart: bool = False,
        prepare: "Callable[[dict[str, Tensor]], dict[str, Any]]" = dict) -> list[dict[str, Any] | UserError]:
    """Trains detectors on the same batches, in one pass over the data; what is finished already is not repeated.

    Args:
        cells: with the same data, seed, size and stride, and the same batch, epochs, workers, log_every and
            checkpoint_minutes of `train`.
        source: makes the training samples.
        devices: "auto" or a number of processes.
        restart: begin anew, whatever earlier runs left.
        prepare: further work on a batch that is on the device.

    Returns:
        Of each cell its summary.json (steps, passes, seconds, last losses, origin), or why it alone stopped.
    """
    stopped = _Stopped(devices)
    with ExitStack() as stack:
        held: dict[Cell, work.Work] = {}
        for cell in cells:
            with stopped.alone(cell):
                anew = restart or work.is_restarting(cell.stage, cell.fingerprint)
                if (found := cell.found) == cell.fingerprint and not anew:
                    work.say(f"{cell.stage}: nothing to do, {cell.out} is finished")
                    continue
                held[cell] = stack.enter_context(
                    work.hold(cell.stage, module=cell.module, inputs=cell.decisive, out=cell.out, restart=restart))
                if restart and found is not None and is_main_process():
                    work.allow_replacing(held[cell], found)
        todo = {cell: folder for cell, folder in held.items() if not folder.done}
        fabric = None
        with stopped.alone(*todo):  # a target or an image that cannot be read, no memory for a batch
            fabric = _train(todo, source, prepare, devices, stopped) if todo else None
        for cell, folder in held.items():
            if cell not in stopped:
                with stopped.alone(cell):
                    folder.deliver()
        if fabric:
            fabric.barrier()  # only the main process delivers, and one that failed sooner would have it killed
    main = is_main_process()
    return [stopped.get(cell) or (stage_inputs.training_summary(cell.out) if main else {}) for cell in cells]


class _Stopped(dict[Cell, UserError]):
    """Why cells stopped, where the others go on."""

    def __init__(self, devices: str) -> None:
        super().__init__()
        self.devices = devices

    @contextmanager
    def alone(self, *cells: Cell) -> Iterator[None]:
        """What is wrong with these cells stops no others, but for a full disk, which they would meet too.

        Of several processes all would have to know.
        """
        try:
            yield
        except Exception as error:
            from pipeline.devices import process_count

            if stops_all(error) or process_count(self.devices) > 1:
                raise
            self.update({cell: UserError(told(error)) for cell in cells if cell not in self})


def refuse_another(cell: Cell) -> None:
    """Nothing trained is lost by mistake; DVC removes it itself before it runs the stage.

    Raises:
        UserError: what is at `cell.out` is another; a run that was begun with --restart may go on.
    """
    found = cell.found
    if found not in (None, cell.fingerprint) and not work.may_replace(cell.stage, cell.fingerprint, found):
        if not found:
            raise UserError(f"{cell.out} is not whole: it has no weights, or no summary that says what made them. Add "
                            "--restart to replace it.")
        what = work.changes(cell.stage, found, cell.decisive)
        raise UserError(f"{cell.out} was finished with {what}: fingerprint {found[:16]}, now "
                        f"{cell.fingerprint[:16]}. Add --restart to replace it.")


def only(outcomes: Sequence[dict[str, Any] | UserError]) -> dict[str, Any]:
    """The summary of a single cell.

    Raises:
        UserError: it stopped.
    """
    [outcome] = outcomes
    if isinstance(outcome, UserError):
        raise outcome
    return outcome


def _train(todo: Mapping[Cell, work.Work], source: "Callable[[], Source]",
           prepare: "Callable[[dict[str, Tensor]], dict[str, Any]]", devices: str,
           stopped: _Stopped) -> "Fabric | None":
    """Puts results in the work folders; notes why some are not there. Gives what ran it, if anything did."""
    from pipeline.data.loading import Batches
    from pipeline.devices import device_name
    from pipeline.engine import fit

    trainees: dict[Cell, Trainee] = {}
    for cell, folder in todo.items():
        with stopped.alone(cell):
            trainees[cell] = _trainee(cell, folder, devices)
    if not trainees:
        return None
    first, fabric = next((cell, trainee.fabric) for cell, trainee in trainees.items())
    batches = Batches(source(), batch=first.train.batch, epochs=first.train.epochs, seed=first.seed,
                      workers=first.train.workers, rank=fabric.global_rank, world=fabric.world_size)
    work.say(f"{first.stage}: {device_name(fabric.device)}{f' x {fabric.world_size}' * (fabric.world_size > 1)}, "
             f"batches of {batches.batch}")
    label = first.stage if len(trainees) == 1 else f"{first.stage.split('/')[0]}, {len(trainees)} together"
    outcomes = fit(list(trainees.values()), batches, prepare=prepare, label=label)
    for (cell, trainee), outcome in zip(trainees.items(), outcomes, strict=True):
        if isinstance(outcome, UserError):
            stopped[cell] = outcome
        elif fabric.is_global_zero:
            with stopped.alone(cell):
                _write(cell, todo[cell], trainee, outcome)
    fabric.barrier()
    return fabric


def _trainee(cell: Cell, folder: work.Work, devices: str) -> "Trainee":
    from pipeline.devices import make_fabric
    from pipeline.engine import Trainee, seed_everything
    from pipeline.models import build_detector, check_size, holds_detector, preprocess, refuse_other_classes

    detector, fabric = cell.detector, make_fabric(devices, cell.train.precision)
    seed_everything(cell.seed)
    model = build_detector(detector.model, len(cell.data.classes), pretrained=detector.pretrained,
                           weights=detector.weights, reset_heads=detector.reset_heads, **detector.arch)
    if detector.input:
        model.config = replace(model.config, **detector.input.model_dump())
    check_size(model.config, cell.size_hw)
    if detector.weights and not cell.train.epochs:  # nothing would train heads, or teach what planes stand for now
        if not holds_detector(Path(detector.weights)):
            raise UserError(f"{detector.weights} holds a body without heads, which no epochs leave untrained: set "
                            "train.epochs above 0, or name a detector's file.")
        refuse_other_classes(detector.weights, model.config.classes, cell.data.classes)
    return Trainee(
        model=model, objective=cell.objective(fabric, model), params=cell.train, seed=cell.seed, fabric=fabric,
        folder=folder.folder, identity=folder.fingerprint, label=cell.stage.partition("/")[2],
        prepare=lambda batch: {**batch, "image": preprocess(batch["image"], model.config)})


def _write(cell: Cell, folder: work.Work, trainee: "Trainee", summary: "FitSummary") -> None:
    from pipeline.models import save_detector

    fresh = folder.folder / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    save_detector(cast("DetectorModule", trainee.model), paths.weights(fresh), cell.data.classes)
    origin = {"code": code_fingerprint(cell.module), "data": cell.data.fingerprint,
              "precision": trainee.fabric.strategy.precision.precision, "processes": trainee.fabric.world_size,
              "training": cell.training, **cell.inputs}
    about = {**asdict(summary), "origin": origin, "fingerprint": folder.fingerprint}
    (fresh / "summary.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    shutil.copy(folder.folder / "log.csv", fresh)
    shutil.copytree(folder.folder / "tensorboard", fresh / "tensorboard")
    shutil.rmtree(folder.result, ignore_errors=True)
    os.replace(fresh, folder.result)
