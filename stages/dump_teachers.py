"""Stage `dump_teachers`: what a teacher says of every recorded view, at targets/NAME.zarr."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from pipeline.inform import is_main_process
from stages import entry, inputs, replacing, work
from stages.code import code_fingerprint
from stages.views import recorded_views

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.models import Detector
    from pipeline.params import Params
    from storage import Store

MODULE = "stages.dump_teachers"


def run_all(params: "Params", names: Sequence[str], *, devices: str = "auto", dry_run: bool = False,
            restart: bool = False) -> dict[str, Any]:
    """`run` (or `plan`) for each of `names`, or for all teachers; each and its weights are checked before any work."""
    names = names or [*params.teachers]
    for name in names:
        inputs.named(params.teachers, name, "teacher")
    data = inputs.prepared_data(params)
    for name in names:
        _trained_weights(params, name, data)
        inputs.tell_of_other_data(paths.teacher_model(name), data)
    act = plan if dry_run else run
    found = {name: act(params, name, devices=devices, restart=restart) for name in names}
    if dry_run:
        needed = sum(planned["bytes"] for planned in found.values())
        work.say(f"dump-teachers: {needed / 1e9:.3g} GB in all, and as much in {paths.WORK} until 'pipeline clean' "
                 f"where the file system shares no blocks; free are {shutil.disk_usage('.').free / 1e9:.3g} GB")
    return found


def run(params: "Params", name: str, *, devices: str = "auto", restart: bool = False) -> dict[str, Any]:
    """Dumps one teacher into targets/NAME.zarr; returns what it cost, as in results/dumps/NAME.json.

    Views that an older dump has are copied, where they are the same or the first of those that grew; not in a
    restart. What is at the out and nowhere else is replaced in a restart alone.
    """
    from pipeline.devices import make_fabric
    from pipeline.inference.dump import dump_teacher
    from pipeline.inform import progress_bar
    from pipeline.models import load_trained

    inputs.named(params.teachers, name, "teacher")
    data = inputs.prepared_data(params)
    recorded = recorded_views(data, params.views)
    weights = _trained_weights(params, name, data)
    sha256 = work.file_sha256(weights)

    def build(held: work.Work) -> None:
        teacher, result = load_trained(weights, data.classes, params.teachers[name].classes), held.result
        old = None if held.restarted else _older(params, name, teacher, data, recorded, sha256)
        if not held.restarted:
            expect = {"data": data.fingerprint, "views": recorded.fingerprint, **inputs.dumped(params, name)}
            replacing.refuse_loss(stage, store, result, old=old.path if old else None, expect=expect)
        fabric = make_fabric(devices, params.dump.precision)
        if old:
            work.say(f"{stage}: {len(old)} views are taken over from {old.path}")
        with progress_bar(f"dump {name}") as progress:
            dump_teacher(teacher, data, recorded, result, params=params.dump, teacher=name, teacher_sha256=sha256,
                         fabric=fabric, on_mismatch=params.views.on_mismatch, progress=progress, old=old,
                         code=code_fingerprint(MODULE))

    given = {"weights": sha256, "data": data.fingerprint, "views": recorded.fingerprint,
             "dump": inputs.values(params.dump, without=("batch",))}
    store, stage = paths.teacher_store(name), _stage(name)
    work.run(stage, module=MODULE, inputs=given, out=store, build=build, shared=True, restart=restart)
    if not is_main_process():
        return {}
    bill = _bill(store)
    work.write_text(paths.dump_results(name), json.dumps(bill, indent=1) + "\n")
    return bill


def plan(params: "Params", name: str, *, devices: str = "auto", restart: bool = False) -> dict[str, Any]:
    """How many views, bytes and seconds the dump of one teacher would take; writes nothing."""
    from pipeline.devices import make_fabric
    from pipeline.inference.planning import plan_dump
    from pipeline.models import load_trained

    data = inputs.prepared_data(params)
    recorded = recorded_views(data, params.views)
    weights = _trained_weights(params, name, data)
    free = shutil.disk_usage(".").free
    teacher = load_trained(weights, data.classes, params.teachers[name].classes)
    old = None if restart else _older(params, name, teacher, data, recorded, work.file_sha256(weights))
    planned = plan_dump(teacher, data, recorded, params=params.dump, fabric=make_fabric(devices, params.dump.precision),
                        old=old, on_mismatch=params.views.on_mismatch)
    return {**planned, "bytes_free": free}


def _stage(name: str) -> str:
    return f"dump_teachers/{name}"


def _trained_weights(params: "Params", name: str, data: "DataSet") -> Path:
    """The weights file of a teacher that is still the network that params describe.

    Raises:
        UserError: there is none, it is damaged, or it is of another network or other classes.
    """
    from pipeline.models import read_config, refuse_other_classes

    again = f"pipeline train-teacher {name}"
    weights = inputs.needs(paths.weights(paths.teacher_model(name)), again)
    if other := other_network(params, name):
        raise UserError(f"{other} Run '{again}' again.")
    refuse_other_classes(weights, read_config(weights)["classes"], inputs.taught_data(params, name, data).classes)
    return weights


def other_network(params: "Params", teacher: str) -> str:
    """How a trained teacher differs from the network that params describe now, in words; "" where it does not.

    Raises:
        UserError: its weights are damaged.
    """
    from pipeline.models import detector_config, read_config

    weights, described = paths.weights(paths.teacher_model(teacher)), params.teachers[teacher]
    found, wanted = read_config(weights), detector_config(described.model, 1, **described.arch).to_json()
    if all(found[key] == wanted[key] for key in ("model", "arch")):
        return ""
    return (f"{weights} is a {found['model']} {found['arch']}, but teachers.{teacher} is a {wanted['model']} "
            f"{wanted['arch']}.")


def _older(params: "Params", name: str, teacher: "Detector", data: "DataSet", recorded: "RecordedViews",
           sha256: str) -> "Store | None":
    """The dump that this one grows from: the out, or what DVC left of it."""
    from pipeline.inference.dump import dump_spec
    from pipeline.inference.growing import older_dump

    out = paths.teacher_store(name)
    wanted = dump_spec(teacher, data, recorded, params=params.dump, teacher=name, teacher_sha256=sha256)
    return older_dump([out, *work.finished(_stage(name), out.name)], wanted, recorded, code_fingerprint(MODULE))


def _bill(store: Path) -> dict[str, Any]:
    from storage import open_store, seconds_to_make

    made = open_store(store)
    return {**made.manifest["counts"], "seconds": seconds_to_make(made.manifest), "fingerprint": made.fingerprint,
            "content": made.content}


if __name__ == "__main__":
    entry.stage_main(run, "name")
