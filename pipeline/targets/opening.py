"""What a recipe's students learn from: its stores, checked before any work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from pipeline.data.dataset import TRAIN, UNLABELLED
from pipeline.data.loading import FreshViews
from pipeline.distillation import DistillationLoss
from pipeline.errors import UserError
from pipeline.losses import GroundTruthLoss
from pipeline.params import Views
from pipeline.paths import ENSEMBLE
from pipeline.targets.objective import Objective
from pipeline.targets.replaying import ReplayedViews
from pipeline.targets.transforming import TargetTransform
from storage import (
    ArraySpec,
    CorruptStore,
    FingerprintMismatch,
    FormatError,
    IncompleteStore,
    Store,
    channel_variances,
    open_store,
)

if TYPE_CHECKING:
    from pipeline.data.dataset import DataSet
    from pipeline.data.loading import Source
    from pipeline.data.recorded import RecordedViews
    from pipeline.models import Detector
    from pipeline.params import Recipe

HEADS = ("heatmap", "peaks")
FEATURES = "features"
STRIDES = (2, 4, 8)
#: Least and greatest height and width of a student's input, as a share of the views'.
SIZES = (0.5, 2.0)


def open_targets(
    paths: Mapping[str, Path], recipe: "Recipe", data: "DataSet", recorded: "RecordedViews | Views", *,
    size: tuple[int, int] | None = None, flip: float | None = None,
    dumped: Mapping[str, Mapping[str, Any]] | None = None,
) -> "Targets":
    """Opens a recipe's stores.

    Args:
        paths: the store of each of the recipe's teachers, by name, and of its ensemble as "ensemble".
        recipe: whose teachers and weights decide what is read.
        data: the student's images.
        recorded: the views that it will see or, for a recipe with fresh ones, how they are drawn.
        size: (height, width) of the student's input; None for that of the views.
        flip: largest error under a mirror, of the stores' maps and of the features that are read, with which
            views are mirrored at random; None never mirrors.
        dumped: what else the identity of a teacher's store (weights, encodings) and of "ensemble" (its rule)
            must say, by name.

    Raises:
        FingerprintMismatch: a store is of other data, views, classes or size or not as `dumped` says, or an
            ensemble is of other dumps of the teachers, or of more teachers; names every differing field.
        UserError: the size is too far from that of the views or of another shape, a store lacks an array that the
            recipe needs, mirroring it errs more than is allowed, or the recipe asks for images without
            labels and there are none.
        StoreError: a store is incomplete or damaged.
    """
    if recipe.unlabelled and not data.splits.get(UNLABELLED):
        raise UserError(f"The recipe says unlabelled: true, but data {data.name!r} has no images without labels: name "
                        "a folder of them as data.unlabelled, or set data.labels below 1, and run 'pipeline prepare' "
                        "and what follows it again.")
    size = size or recorded.size
    check_shape(size, recorded.size)
    if isinstance(recorded, Views):
        return Targets(data, recorded, recipe, {}, {}, None, size, False)
    expected = {
        "data": data.fingerprint, "views": recorded.fingerprint, "classes": list(data.classes),
        "size": list(recorded.size),
    }
    stores: dict[str, Store] = {}
    for teacher in recipe.teachers:
        again = f"Run 'pipeline dump-teachers {teacher}' again."
        made = (dumped or {}).get(teacher, {})
        stores[teacher] = _open(paths[teacher], {"kind": "teacher", **expected, **made}, again)
    if recipe.merged:
        members = {f"members.{name}": store.content for name, store in stores.items()}
        again = f"Run 'pipeline build-ensemble {recipe.merged}' again."
        made = (dumped or {}).get(ENSEMBLE, {})
        stores[ENSEMBLE] = _open(paths[ENSEMBLE], {"kind": "ensemble", **expected, **members, **made}, again)
        _check_members(stores[ENSEMBLE], recipe.teachers, again)
    _check_known(recipe, stores, data.classes)
    if recipe.separate:
        _check_strides(stores)
    heads = ENSEMBLE if recipe.merged else None if recipe.separate else next(iter(recipe.teachers), None)
    arrays: dict[str, tuple[str, ...]] = {}
    for name, store in stores.items():
        wanted = _wanted(recipe, name, heads)
        if missing := set(wanted) - {array.name for array in store.spec.arrays}:
            raise UserError(f"{store.path} has no {' and no '.join(sorted(missing))}, but the recipe needs "
                            f"it: set dump.features: true and run 'pipeline dump-teachers {name}' again, "
                            "or set w4 of the recipe to 0 (and attend_outputs: false).")
        arrays[name] = wanted
        if flip is not None:
            _check_flip(store, flip, wanted)
    return Targets(data, recorded, recipe, stores, arrays, heads, size, flip is not None)


def check_shape(size: tuple[int, int], views: tuple[int, int]) -> None:
    """That a student's input shows what the views show.

    Raises:
        UserError: the size is too far from that of the views, or of another shape.
    """
    height, width = (mine / theirs for mine, theirs in zip(size, views, strict=True))
    if height != width or not SIZES[0] <= height <= SIZES[1]:
        raise UserError(f"The student's input is {list(size)}, but the views are {list(views)}: both sides must be the "
                        f"same {SIZES[0]:g} to {SIZES[1]:g} times theirs; set the student's size, or views.size.")


def _check_members(ensemble: Store, teachers: Sequence[str], again: str) -> None:
    """Refuses an ensemble of more teachers than a recipe names; that it has those was asked for as it was opened."""
    if more := sorted({*ensemble.spec.identity["members"]}.difference(teachers)):
        what = "is merged into it, but is no teacher" if len(more) == 1 else "are merged into it, but are no teachers"
        raise FingerprintMismatch(f"{ensemble.path}: {', '.join(more)} {what} of the recipe. {again}")


def _check_strides(stores: Mapping[str, Store]) -> None:
    strides = {name: store.spec.identity["stride"] for name, store in stores.items()}
    if len({*strides.values()}) > 1:
        said = ", ".join(f"{name} {stride}" for name, stride in strides.items())
        raise UserError(f"The teachers' strides are {said}, but several teachers are compared on one grid: leave one "
                        "out of the recipe.")


def _check_known(recipe: "Recipe", stores: Mapping[str, Store], classes: Sequence[str]) -> None:
    """Refuses recipes in which a class that a teacher does not know would count as one that it does not see."""
    known = {name: _known(store, classes) for name, store in stores.items()}
    for name, some in known.items():
        if len(some) < len(classes) and "agreement" in recipe.attention:
            raise UserError(f"attention 'agreement' compares teachers, but {name!r} knows {', '.join(some)} alone: "
                            "leave it out of the recipe.")
    told = [known[ENSEMBLE]] if recipe.merged else [*known.values()]
    if told and not recipe.ground_truth and (lost := {*classes}.difference(*told)):
        raise UserError(f"None of the teachers knows {', '.join(sorted(lost))}, and the recipe has ground_truth 0: set "
                        "it above 0, or nothing teaches these classes.")


def _wanted(recipe: "Recipe", name: str, heads: str | None) -> tuple[str, ...]:
    """The arrays that a recipe reads of the store `name`."""
    if not recipe.reads_a_store:
        return ()
    alone = name != ENSEMBLE
    weighs = recipe.attend_outputs or (recipe.features == "hint" and recipe.weights[3] > 0)
    own_heads = name == heads or (alone and (recipe.separate or (weighs and "agreement" in recipe.attention)))
    own_features = name in recipe.feature_teachers and recipe.reads_features
    return HEADS * own_heads + (FEATURES,) * own_features


def known_planes(store: Store, classes: Sequence[str]) -> list[int] | None:
    """The heatmap planes of the classes that a store's teachers know; None for all."""
    known = _known(store, classes)
    return [classes.index(name) for name in known] if "known" in store.spec.attributes else None


def _known(store: Store, classes: Sequence[str]) -> Sequence[str]:
    """The classes that a store's teachers know.

    Raises:
        CorruptStore: it names something else.
    """
    known = store.spec.attributes.get("known", list(classes))
    if not isinstance(known, list) or not all(name in classes for name in known):
        raise CorruptStore(f"{store.path}: its attribute 'known' is {known!r}, expected some of the classes "
                           f"{', '.join(classes)}")
    return known


def channel_weights(features: ArraySpec, recipe: "Recipe") -> list[float]:
    """How much each channel of a store's features weighs in a recipe's feature term, of mean 1."""
    return channel_variances(features) if recipe.standardise == "map" else [1.0] * features.shape[0]


def _check_flip(store: Store, allowed: float, arrays: tuple[str, ...]) -> None:
    measured = store.manifest["created"].get("flip") or {}
    for key, what in (("error", "its maps"), ("features", "its features"))[: 1 + (FEATURES in arrays)]:
        if key not in measured:
            raise UserError(f"{store.path} does not say how large the error of {what} under a mirror is, which "
                            f"distill.flip limits to {allowed:g}: make it again, or set distill.flip: null.")
        if measured[key] > allowed:
            raise UserError(f"{store.path}: {what} err by {measured[key]:.3g} under a mirror, more than the "
                            f"{allowed:g} that distill.flip allows: set distill.flip: null to mirror nothing, or allow "
                            "more.")


def _open(path: Path, expected: Mapping[str, Any], again: str) -> Store:
    try:
        return open_store(path, expected)
    except (FingerprintMismatch, IncompleteStore, FormatError, CorruptStore) as error:
        raise type(error)(f"{error}. {again}") from None


@dataclass(frozen=True)
class Targets:
    """A recipe with its open stores.

    Attributes:
        data, recorded: images and their views.
        recipe: what is learnt from the stores.
        stores: by teacher's name, and "ensemble".
        arrays: what is read of each store.
        heads: the store whose heatmap and peaks are the target; None without a teacher, or where each is one.
        size: (height, width) of the student's input.
        flip: whether views are mirrored at random.
    """

    data: "DataSet"
    recorded: "RecordedViews | Views"
    recipe: "Recipe"
    stores: dict[str, Store]
    arrays: dict[str, tuple[str, ...]]
    heads: str | None
    size: tuple[int, int]
    flip: bool

    @property
    def contents(self) -> dict[str, str]:
        """What each store holds."""
        return {name: store.content for name, store in self.stores.items()}

    @property
    def reads(self) -> dict[str, Any]:
        """JSON values of what decides the batches that `source` and `on_device` make, besides their arguments.

        Students whose targets read the same can be taught on the same batches.
        """
        views = (self.recorded.model_dump(mode="json") if isinstance(self.recorded, Views)
                 else self.recorded.fingerprint)
        return {"stores": self.contents, "arrays": self.arrays, "heads": self.heads, "size": self.size,
                "flip": self.flip, "unlabelled": self.recipe.unlabelled, "views": views}

    @property
    def on_device(self) -> TargetTransform:
        """What turns the codes of a batch into the teachers' values."""
        return TargetTransform({f"{name}/{array}": self.stores[name].spec[array]
                                for name, arrays in self.arrays.items() for array in arrays}, self.heads, self._known)

    @property
    def _known(self) -> dict[str, list[int]]:
        """The planes of the classes that a store's teachers know, where these are not all."""
        planes = {name: known_planes(store, self.data.classes) for name, store in self.stores.items()}
        return {name: numbers for name, numbers in planes.items() if numbers is not None}

    def source(self, *, seed: int, stride: int = 4, on_mismatch: Literal["error", "warn"] = "error",
               cache_mb: float = 1024) -> "Source":
        """The samples of a student with this many input pixels per cell."""
        if isinstance(self.recorded, Views):
            views = self.recorded.model_copy(update={"size": self.size})
            return FreshViews(self.data.records(TRAIN), len(self.data.classes), views, stride=stride, seed=seed,
                              cache_mb=cache_mb)
        return ReplayedViews(self.data, self.recorded, self.stores, arrays=self.arrays, size=self.size, stride=stride,
                             unlabelled=self.recipe.unlabelled, flip=self.flip, seed=seed, on_mismatch=on_mismatch,
                             cache_mb=cache_mb)

    def objective(self, student: "Detector",
                  mean_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> "Objective":
        """The student's losses; what of them is trained belongs to the optimizer as well.

        Args:
            student: whose features are compared with the teachers'.
            mean_over_ranks: mean of a tensor over all processes (`engine.mean_over_ranks`).

        Raises:
            UserError: the student's stride is none of `STRIDES`.
        """
        if student.config.stride not in STRIDES:
            raise UserError(f"{student.config.model} has stride {student.config.stride}, but students learn at stride "
                            f"{', '.join(map(str, STRIDES))}: give it two to four deconvolutions (arch.deconv).")
        channels = {name: channel_weights(self.stores[name].spec[FEATURES], self.recipe)
                    for name, arrays in self.arrays.items() if FEATURES in arrays}
        distillation = DistillationLoss(self.recipe, channels, student.config.feature_channels,
                                        mean_over_ranks=mean_over_ranks) if self.recipe.taught else None
        return Objective(GroundTruthLoss(mean_over_ranks), self.recipe, distillation)
