"""Bytes per view against AP: what does each encoding of a teacher's outputs save, and what does it cost?

`hourglass_small` of a finished demo is dumped once per encoding: those of the heads beside the features' encoding of
params.yaml, those of the features beside the heads' encodings there. Two APs stand against the bytes: that of the
boxes decoded from the stored maps of all training views, less that of the teacher's exact peaks; and on val that of
ResNet-18s which each store taught, from the same seeds.

    make bench-encodings                            where `make repro` has finished
    make bench-encodings LINE=/path/to/it SEEDS=3   in another folder, with 3 seeds (2); EPOCHS=10 too (params.yaml's)

11 dumps and 22 students: about 70 minutes on two cores. They are kept in ~/.cache/centernet-distill and not made again
by the same code: a run that was stopped goes on, and further seeds cost only themselves. There are no targets. Writes
docs/encodings.md and docs/encodings.png too (`make bench-tradeoff` does it again from what was measured).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from common import Row, record
from fitting import CACHE, pipeline
from tradeoff import Cell, Comparison, write_docs

from pipeline import paths
from pipeline.data import DataSet, load_data
from pipeline.data.dataset import TRAIN
from pipeline.data.recorded import RecordedViews
from pipeline.errors import UserError
from pipeline.evaluation.fidelity import BoxFidelity
from pipeline.params import Params, load_params, train_params
from pipeline.targets.dequantising import dequantise
from stages import inputs
from stages.entry import one_line_errors
from storage import Store, open_store

TEACHER = RECIPE = "hourglass_small"
STUDENT = "resnet18"
GROUP = "encodings"
#: Of heatmap, and of wh and offset; the exact ones first.
HEADS = (("exact-fp32", "exact-fp32"), ("exact-fp16", "exact-fp16"), ("u8-sqrt", "exact-fp16"),
         ("u8-sqrt-sparse", "exact-fp16-sparse"))
FEATURES = ("exact-fp16", "u8-channel", "pooled+u8-channel", "pca-32+exact-fp16", "pca-32+u8-channel",
            "pca-32+pooled+u8-channel", "pca-8+pooled+u8-channel", None)
VIEWS_AT_ONCE = 256


@dataclass(frozen=True)
class Line:
    """A folder in which the demo has finished."""

    folder: Path
    params: Params
    data: DataSet
    views: RecordedViews


def main() -> None:
    with one_line_errors():
        line = finished(Path(os.environ.get("LINE") or Path(__file__).parents[1]).resolve())
        detector = line.params.students[STUDENT]
        usual_epochs = train_params(line.params.distill.train, detector.train, f"students.{STUDENT}.train").epochs
        seeds, epochs = range(asked("SEEDS", 2, int)), asked("EPOCHS", usual_epochs, float)
    usual = line.params.dump.encodings
    of_heads = [(*heads, usual.features) for heads in HEADS]
    of_features = [(usual.heatmap, usual.wh_offset, features) for features in FEATURES]
    found: dict[tuple[str, str, str | None], Cell] = {}
    decoded: dict[tuple[str, str], tuple[float, float]] = {}
    for heatmap, wh_offset, features in dict.fromkeys([*of_heads, *of_features]):
        folder = made(line, heatmap, wh_offset, features, seeds, epochs)
        store = open_store(folder / paths.teacher_store(TEACHER))
        heads = heatmap, wh_offset  # the features take no part in decoding
        decoded[heads] = decoded.get(heads) or decode(store, line)
        found[*heads, features] = Cell(*heads, features, sizes(store), *decoded[heads], scores(folder, seeds))
    compared = Comparison([found[kind] for kind in of_heads], [found[kind] for kind in of_features])
    about = {"teacher": TEACHER, "student": STUDENT, "weights": line.params.recipes[RECIPE].weights,
             "epochs": epochs, "seeds": list(seeds), "images": len(line.data.records("train")),
             "views": len(line.views), "val": len(line.data.records("val")), "size": list(line.views.size),
             "classes": len(line.data.classes)}
    record("encodings", [row for cell in compared.cells for row in rows(cell)], about=about,
           compared=asdict(compared))
    write_docs(compared, about)


def asked(variable: str, usual: float, kind: type[int] | type[float]) -> float:
    """The number that an environment variable holds.

    Raises:
        UserError: it holds something else.
    """
    text = os.environ.get(variable) or str(usual)
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if number <= 0:
        raise UserError(f"{variable}={text}: expected {'a whole' if kind is int else 'a'} number above 0.")
    return number


def finished(folder: Path) -> Line:
    """Opens what a finished demo left in a folder.

    Raises:
        UserError: the folder lacks some of it.
    """
    needed = folder / "params.yaml", folder / paths.weights(paths.teacher_model(TEACHER)), folder / paths.views_store()
    for path in needed:
        if not path.exists():
            raise UserError(f"{path} does not exist: run 'make repro' in {folder}, or name a folder where it has "
                            "finished: make bench-encodings LINE=/path/to/folder.")
    params = load_params(needed[0])
    inputs.named(params.teachers, TEACHER, "teacher")
    inputs.named(params.students, STUDENT, "student")
    if not inputs.named(params.recipes, RECIPE, "recipe").weights[3]:
        raise UserError(f"{needed[0]}: recipe {RECIPE!r} has w4 = 0, so its students would not see the features.")
    data = load_data(folder / paths.data_folder(params.data.name))
    return Line(folder, params, data, RecordedViews(needed[2], data, TRAIN, params.views))


def made(line: Line, heatmap: str, wh_offset: str, features: str | None, seeds: Sequence[int], epochs: float) -> Path:
    """A folder beside the line with its teacher's dump in these encodings and the students that it taught.

    What is finished there the commands themselves take over, if code and inputs are still the same.
    """
    name = hashlib.sha256(f"{line.folder} {(line.folder / 'params.yaml').read_text(encoding='utf-8')}".encode())
    folder = CACHE / f"encodings-{name.hexdigest()[:12]}" / f"{heatmap}_{wh_offset}_{features}"
    for path in (Path("data"), Path("models/teachers"), paths.views_store()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / path).is_symlink():
            (folder / path).symlink_to(line.folder / path)
    weights = line.params.recipes[RECIPE].weights
    given = ["--params", str(line.folder / "params.yaml"), f"dump.encodings.heatmap={heatmap}",
             f"dump.encodings.wh_offset={wh_offset}", f"dump.features={'true' if features else 'false'}"]
    if features:
        given.append(f"dump.encodings.features={features}")
    else:
        weights = [*weights[:3], 0.0]
    pipeline(folder, "dump-teachers", TEACHER, *given)
    # A screening of one variation is what trains students and scores them on val.
    group = {"students": [STUDENT], "recipe": RECIPE, "seeds": list(seeds), "variations": {"one": []}}
    pipeline(folder, "study", "screen", GROUP, *given, f"screening.{GROUP}={json.dumps(group)}",
             f"recipes.{RECIPE}.weights={weights}", f"students.{STUDENT}.train.epochs={epochs}",
             "evaluate.latency_runs=0")
    return folder


def sizes(store: Store) -> dict[str, float]:
    """kB per view of each array."""
    return {name: array["bytes"] / len(store) / 1e3 for name, array in store.manifest["arrays"].items()}


def decode(store: Store, line: Line) -> tuple[float, float]:
    """AP of the teacher's exact peaks over all views, and of the boxes decoded from its stored maps."""
    fidelity = BoxFidelity(len(line.data.classes))
    for some in np.array_split(np.arange(len(store)), 1 + len(store) // VIEWS_AT_ONCE):
        peaks, heatmap, wh_offset = (dequantise(torch.from_numpy(store.read(name, some)), store.spec[name])
                                     for name in ("peaks", "heatmap", "wh_offset"))
        fidelity.add_maps(peaks, peaks, heatmap, wh_offset, store.spec.identity["stride"],
                          [line.views.boxes(row) for row in some])
    result = fidelity.result()
    return result["ap_exact"], result["ap_maps"]


def scores(folder: Path, seeds: Sequence[int]) -> list[float]:
    """AP on val of each student that `made` trained."""
    files = [next(folder.glob(f"results/study/{GROUP}/{STUDENT}/*/seed{seed}.json")) for seed in seeds]
    return [json.loads(file.read_text(encoding="utf-8"))["map_area"] for file in files]


def rows(cell: Cell) -> list[Row]:
    """What was measured of one cell."""
    return [Row(f"{cell.name}: kB per view", cell.kilobytes),
            Row(f"{cell.name}: AP from the stored maps less the live one", cell.ap_stored - cell.ap_live),
            Row(f"{cell.name}: students' mAP on val, mean and sd", cell.mean, None, cell.sd, len(cell.students))]


if __name__ == "__main__":
    main()
