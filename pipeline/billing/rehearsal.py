"""The line in small, in a folder of its own: a few views, dumped and merged by the code that will do the work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import paths
from pipeline.billing.bill import StoreCost
from pipeline.data.recorded import RecordedViews
from pipeline.data.recording import record_views
from pipeline.ensemble.building import build_ensemble
from pipeline.inference.dump import dump_teacher
from pipeline.inference.planning import plan_dump
from pipeline.targets import Targets, open_targets
from storage import open_store, seconds_to_make

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pipeline.data import DataSet, ImageRecord
    from pipeline.models import Detector
    from pipeline.params import Params, Recipe


@dataclass(frozen=True)
class Rehearsal:
    """A small line.

    Attributes:
        data: some of the training images.
        recorded: their views.
        share: of all images that these are.
        folder: where the stores are.
        costs: of the whole stores, scaled from these; by name under targets/.
    """

    data: "DataSet"
    recorded: RecordedViews
    share: float
    folder: Path
    costs: dict[str, StoreCost]

    def targets(self, params: "Params", recipe: "Recipe", size: tuple[int, int] | None) -> Targets:
        """What students of a recipe, with an input of `size`, learn from."""
        stores = {teacher: self.folder / f"{teacher}.zarr" for teacher in recipe.teachers}
        if recipe.merged is not None:
            stores[paths.ENSEMBLE] = self.folder / f"{paths.ensemble_name(recipe.merged)}.zarr"
        return open_targets(stores, recipe, self.data, self.recorded, size=size)


def views_each(params: "Params") -> int:
    """Views of an image: the plain one and, where there are others, a drawn one."""
    return min(2, params.views.per_image)


def images_needed(params: "Params", batch: int, images: int) -> int:
    """How many images fill a batch of the largest student, and their views one of the dump."""
    return min(images, max(batch, -(-params.dump.batch // views_each(params))))


def rehearse(params: "Params", data: "DataSet", split: str, images: int, teachers: Mapping[str, "Detector"],
             ensembles: Collection[str], folder: Path, fabric: "Fabric") -> Rehearsal:
    """Records, dumps and merges a few views into `folder`.

    Args:
        params: views, dump and ensembles.
        data: the whole data set.
        split: whose images have views, or of which several ("train+unlabelled").
        images: how many of each split take part, evenly spaced.
        teachers: by name.
        ensembles: keys of `params.ensembles`, of these teachers.
        folder: is there, and empty.
        fabric: one process.
    """
    small = replace(data, splits={name: _some(data.splits[name], images) for name in split.split("+")})
    per_image = views_each(params)
    whole = {"shard_views": len(small.records(split)) * per_image}  # one shard that is full, as most shards are
    views = params.views.model_copy(update={"per_image": per_image, **whole})
    dump = params.dump.model_copy(update=whole)
    record_views(small, split, views, folder / "views.zarr")
    recorded = RecordedViews(folder / "views.zarr", small, split)
    times = len(data.records(split)) * params.views.per_image / len(recorded)
    costs = {"views": _cost(folder / "views.zarr", times)}
    for name, teacher in teachers.items():
        planned = plan_dump(teacher, small, recorded, params=dump, fabric=fabric)
        costs[name] = StoreCost(seconds=planned["seconds"] * times, bytes=round(planned["bytes"] * times))
        dump_teacher(teacher, small, recorded, folder / f"{name}.zarr", params=dump, teacher=name,
                     teacher_sha256="", fabric=fabric)
    # Nobody was scored yet; how classes are weighed changes no time.
    alike = {name: dict.fromkeys(data.classes, 50.0) for name in teachers}
    for key in ensembles:
        name = paths.ensemble_name(key)
        stores = {teacher: open_store(folder / f"{teacher}.zarr") for teacher in params.ensembles[key].teachers}
        out = folder / f"{name}.zarr"
        build_ensemble(stores, out, params=params.ensembles[key], class_ap=alike, truth=recorded.boxes)
        costs[name] = _cost(out, times)
    share = len(small.records(split)) / len(data.records(split))
    return Rehearsal(small, recorded, share, folder, costs)


def _some(records: Sequence["ImageRecord"], count: int) -> tuple["ImageRecord", ...]:
    """`count` of them at most, evenly spaced."""
    rows = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return tuple(records[row] for row in rows)


def _cost(store: Path, times: float) -> StoreCost:
    """Of a store that is `times` as large."""
    manifest = open_store(store).manifest
    return StoreCost(seconds=seconds_to_make(manifest) * times,
                     bytes=round(manifest["counts"]["bytes"] * times))
