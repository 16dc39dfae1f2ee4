"""What `pipeline study screen` runs: variations of recipes, scored on val. No choice looks at test."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import (
    distill,
    distill_live,
    dump_teachers,
    ensembles,
    inputs,
    prepare,
    record_views,
    scoring,
    train_teacher,
    work,
)
from stages.entry import stops_all, told

if TYPE_CHECKING:
    from pipeline.params import Params, Screening

#: Blocks of params that decide neither data nor teachers nor what is stored of them.
OF_STUDENTS = {"students", "recipes", "distill", "evaluate"}

#: Processes: a screening trains and scores in turns, and several would have to wait for each other between.
ONE = "1"


def run(params: "Params", groups: Sequence[str] = ()) -> dict[str, Any]:
    """Trains and scores every cell of the groups (default: all) that is not done yet.

    Each goes to results/study/GROUP/STUDENT/VARIATION/seedN.json. A student that stops (a loss that is NaN, no
    memory left) and a variation whose stores cannot be made stop no other; they are named at the end.

    Returns:
        {group: {student: {variation: mean AP on val}}}, the best first.

    Raises:
        UserError: params have no such group, a variation does not fit params, or there is no val split; or,
            when all the others are done, some have stopped.
    """
    from pipeline.devices import launched

    if (launched() or (1, 1)) != (1, 1):
        raise UserError("'pipeline study screen' is one process, which trains and scores in turns: start it without "
                        "torchrun and srun.")
    if not params.screening:
        raise UserError("params name no group under 'screening'; 'pipeline profile study' has examples.")
    chosen = {name: inputs.named(params.screening, name, "group of screening")
              for name in groups or params.screening}
    cells = {name: _variations(params, name, group) for name, group in chosen.items()}
    _refuse_without_val(params)
    stopped: list[str] = []
    paths.SCREENED.mkdir(parents=True, exist_ok=True)
    with work.locked(paths.SCREENED, alone=False):  # against `clean`
        answer = {name: _screen(name, group, cells[name], stopped) for name, group in chosen.items()}
    if stopped:
        raise UserError(f"{len(stopped)} of the screening stopped, the rest is done. {' '.join(stopped)}")
    return answer


def _screen(name: str, group: "Screening", cells: "dict[tuple[str, str], Params]", stopped: list[str]
            ) -> dict[str, dict[str, float]]:
    """One group; adds to `stopped` what could not be done."""
    here, scores = Path.cwd(), dict[str, dict[str, list[float]]]()
    for variation in group.variations:
        own = _touches_stores(group, variation)
        changed = {student: _from_anywhere(cells[variation, student]) if own else cells[variation, student]
                   for student in group.students}
        with (_noted(stopped, f"{name}/{variation}"),
              _stores(changed[group.students[0]], group.recipe, name, variation, own=own)):
            for student, seed in product(group.students, group.seeds):
                with _noted(stopped, f"{name}/{student}/{variation}/seed{seed}"):
                    score = _score(changed[student], name, variation, student, group.recipe, seed, here)
                    scores.setdefault(student, {}).setdefault(variation, []).append(score)
    means = {student: {variation: fmean(found) for variation, found in own.items()} for student, own in scores.items()}
    return {student: dict(sorted(own.items(), key=lambda item: -item[1])) for student, own in means.items()}


def _refuse_without_val(params: "Params") -> None:
    if not inputs.prepared_data(params).splits.get("val"):
        raise UserError(f"data set {params.data.name!r} has no val split; set data.val_fraction above 0 "
                        "and run 'pipeline prepare' again.")


@contextlib.contextmanager
def _noted(stopped: list[str], what: str) -> Iterator[None]:
    """Adds to `stopped` why `what` could not be done."""
    try:
        yield
    except Exception as error:
        if stops_all(error):
            raise
        stopped.append(f"{what}: {told(error)}")
        work.say(f"{what} stops, the others go on: {told(error)}")


def _variations(params: "Params", name: str, group: "Screening") -> "dict[tuple[str, str], Params]":
    """The params of every variation and student."""
    from pipeline.params import varied

    return {(variation, student): varied(params, name, variation, student)
            for variation in group.variations for student in group.students}


def _touches_stores(group: "Screening", variation: str) -> bool:
    return not {change.partition(".")[0] for change in group.all_changes(variation)} <= OF_STUDENTS


def _from_anywhere(params: "Params") -> "Params":
    """The params with absolute paths in place of those that the links of a variation's folder do not lead to."""
    apart = ("..", *paths.OUTS, paths.SCREENING.name)

    def seen(block: Any, *keys: str) -> Any:
        there = {key: Path(name) for key in keys if (name := getattr(block, key)) and Path(name).exists()}
        return block.model_copy(update={key: str(path.absolute()) for key, path in there.items()
                                        if path.parts and path.parts[0] in apart})

    return params.model_copy(update={
        "data": seen(params.data, "unlabelled", "images", *(["source"] if params.data.kind != "demo" else [])),
        **{kind: {name: seen(network, "weights") for name, network in getattr(params, kind).items()}
           for kind in ("teachers", "students")}})


@contextlib.contextmanager
def _stores(params: "Params", recipe: str, group: str, variation: str, *, own: bool) -> Iterator[None]:
    """The folder in which a variation's data and stores lie: this one, or one of its `own` with stores as it says.

    The stages before `distill` run in that folder. It shares everything else with this one, `.work` too: what
    is the same under both params is taken over and not made again.
    """
    if not own:
        yield
        return
    folder = paths.SCREENING / group / variation
    folder.mkdir(parents=True, exist_ok=True)
    with work.locked(folder, alone=True):
        for path in Path().iterdir():
            if path.name not in (*paths.OUTS, paths.SCREENING.name) and not (folder / path.name).is_symlink():
                (folder / path.name).symlink_to(path.resolve())
        with contextlib.chdir(folder):
            chosen = params.recipes[recipe]
            prepare.run(params)
            _refuse_without_val(params)
            record_views.run(params)
            for teacher in chosen.teachers:
                train_teacher.run(params, teacher, devices=ONE)
                dump_teachers.run(params, teacher, devices=ONE)
            if chosen.merged:
                ensembles.run(params, [chosen.merged])
            yield
        shutil.rmtree(folder)  # its links go, what they lead to stays


def _score(params: "Params", group: str, variation: str, student: str, recipe: str, seed: int,
           project: Path) -> float:
    """AP on val of one student. Where a variation says what params or another group say, nobody is taught twice."""
    cell = f"{group}/{student}/{variation}/seed{seed}"
    places = [paths.SCREENED / cell, paths.student_model(student, recipe, seed),
              *sorted(paths.SCREENED.glob(f"*/{student}/*/seed{seed}"))]
    teach = distill_live if params.recipes[recipe].live else distill
    folder = teach.finished(params, student, recipe, seed, places)
    if folder is None:
        folder = paths.SCREENED / cell
        teach.run(params, student, recipe, seed, out=folder, devices=ONE)
    metrics = scoring.score(
        params, f"screening/{cell}", module="stages.screening", model_folder=folder,
        about={"kind": "student", "student": student, "recipe": recipe, "seed": seed, "group": group,
               "variation": variation},
        out=project / paths.screening_result(group, student, variation, seed), split="val",
        size_hw=params.students[student].size)
    if metrics["map_area"] is None:
        raise UserError(f"data/{params.data.name}: no object of its val images counts, so nothing can be scored there.")
    return float(metrics["map_area"])
