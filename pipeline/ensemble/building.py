"""From the stores of several teachers to one merged store."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ensemble.merging import Rule, box_shares, merge_views
from pipeline.ensemble.weighting import class_weights, rule_of
from pipeline.errors import UserError
from pipeline.inform import Progress, no_progress
from storage import Store, StoreSpec, create_store

if TYPE_CHECKING:
    from pipeline.params import Ensemble
    from storage import Manifest

ClassAP = Mapping[str, Mapping[str, float | None]]
Truth = Callable[[int], NDArray[np.float32]]

ARRAYS = ("heatmap", "wh_offset", "peaks")
#: What of a teacher's identity all teachers must share, and how to say it.
SHARED = {
    "classes": "class list", "stride": "stride", "size": "input size", "views": "views",
    "data": "data", "peaks": "number of peaks",
}
#: What of a teacher's attributes is said of all.
DESCRIBED = ("classes", "size", "stride", "licence")
#: Views read at a time.
BATCH = 32
#: Views, evenly spaced, over which it is averaged how much each teacher counts.
SAMPLE = 256


def build_ensemble(
    stores: Mapping[str, Store],
    out: Path,
    *,
    params: "Ensemble",
    class_ap: ClassAP | None = None,
    truth: Truth | None = None,
    progress: Progress = no_progress,
) -> "Manifest":
    """Merges the teachers' heads, view by view; features stay in the teachers' stores.

    Takes up what an earlier run left at `out`. Several processes may write one store.

    Args:
        stores: each teacher's store; their order does not matter.
        out: where the merged store goes.
        params: how much each teacher counts, and how to match peaks.
        class_ap: for class-ap, AP in percent on val, by teacher and by each class that it knows; None where no object
            counts.
        truth: for agreement, the objects of a view, (n, 5 or more) x1 y1 x2 y2 in input pixels, label
            (`RecordedViews.boxes`).
        progress: called with views done and in all.

    Returns:
        The merged store's manifest.

    Raises:
        UserError: the teachers do not fit each other, names them and the field; or not the rule.
        StoreError: a store is damaged, or `out` holds another one.
    """
    stores = dict(sorted(stores.items()))
    check_members(stores)
    params.check_known({name: store.spec.attributes.get("known") for name, store in stores.items()})
    shares = _shares(stores, class_ap) if params.heatmap == "class-ap" else None
    spec = _spec(stores, params, class_ap, shares)
    writer = create_store(out, spec)
    spec = writer.spec  # of what is taken up, with shards of its own
    rule = _rules(params.heatmap, shares, truth, spec.identity["stride"])
    start = time.perf_counter()
    done = spec.views - sum(len(spec.shard_range(shard)) for shard in writer.pending())
    for shard in writer.pending():
        claim = writer.claim(shard)
        if claim is None:
            continue
        with claim:
            for first in range(claim.views.start, claim.views.stop, BATCH):
                views = range(first, min(first + BATCH, claim.views.stop))
                claim.extend(_merged(stores, views, params, rule))
                done += len(views)
                progress(done, spec.views, "views")
    if writer.complete:
        return writer.finish()
    return writer.finish(seconds=round(time.perf_counter() - start, 3), members=list(stores), flip=_flip(stores),
                         shares=_mean_shares(stores, params, rule))


def _mean_shares(stores: Mapping[str, Store], params: "Ensemble",
                 rule: Callable[[int], Rule]) -> dict[str, float] | None:
    """Each teacher's mean share of the fused boxes' weight over some views; None where there is no box."""
    total = len(next(iter(stores.values())))
    sample = np.linspace(0, total - 1, min(SAMPLE, total)).round().astype(int).tolist()
    shares = [box_shares(*outputs, iou=params.iou, threshold=params.threshold, rule=rule(view))
              for views in (sample[at : at + BATCH] for at in range(0, len(sample), BATCH))
              for view, *outputs in zip(views, *_read(stores, ("heatmap", "peaks"), views), strict=True)]
    found = np.concatenate(shares)
    return dict(zip(stores, found.mean(axis=0).round(4).tolist(), strict=True)) if len(found) else None


def _flip(stores: Mapping[str, Store]) -> dict[str, Any] | None:
    """The largest error under a mirror of any teacher; None where one does not say."""
    errors = [store.manifest["created"].get("flip") for store in stores.values()]
    if None in errors:
        return None
    largest = max(errors, key=lambda flip: flip["error"])
    return {key: largest[key] for key in ("views", "error")}  # features stay in the teachers' stores


def check_members(stores: Mapping[str, Store]) -> None:
    """Refuses teachers whose outputs cannot stand for one another.

    Raises:
        UserError: names two teachers and the field in which they differ, or the store that is no
            teacher's.
    """
    for name, store in stores.items():
        if store.spec.identity.get("kind") != "teacher":
            raise UserError(f"{store.path} holds {store.spec.identity.get('kind')!r}, expected the outputs "
                            f"of teacher {name!r}. Write it with 'pipeline dump-teachers {name}'.")
    (first, reference), *others = stores.items()
    for name, store in others:
        for field, said in SHARED.items():
            ours, theirs = reference.spec.identity.get(field), store.spec.identity.get(field)
            if ours != theirs:
                raise UserError(
                    f"Teachers {first!r} and {name!r} cannot be merged: their {said} ({field}) differ, "
                    f"{_short(ours)} and {_short(theirs)}. "
                    "Dump both again from the same data, views and params.")


def _shares(stores: Mapping[str, Store], class_ap: ClassAP | None) -> NDArray[np.float64]:
    """(T, C) by the teachers' AP."""
    assert class_ap is not None, "class-ap needs the teachers' AP"
    classes = next(iter(stores.values())).spec.identity["classes"]
    return class_weights([class_ap[teacher] for teacher in stores], classes)


def _rules(kind: str, shares: NDArray[np.float64] | None, truth: Truth | None, stride: int) -> Callable[[int], Rule]:
    """The rule for each view."""
    if kind == "agreement":
        assert truth is not None, "agreement needs the views' objects"
        return lambda view: rule_of(kind, truth=truth(view)[:, :5] / ([stride] * 4 + [1]))
    rule = rule_of(kind, shares=shares)
    return lambda _: rule


def _spec(stores: Mapping[str, Store], params: "Ensemble", class_ap: ClassAP | None,
          shares: NDArray[np.float64] | None) -> StoreSpec:
    reference = next(iter(stores.values())).spec
    decided: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    if shares is not None and class_ap is not None:
        decided["class_ap"] = {teacher: dict(class_ap[teacher]) for teacher in stores}
        weights["weights"] = {teacher: dict(zip(reference.identity["classes"], share.round(4).tolist(), strict=True))
                              for teacher, share in zip(stores, shares, strict=True)}
    return StoreSpec(
        arrays=tuple(reference[array] for array in ARRAYS),
        views=reference.views,
        shard_views=reference.shard_views,
        identity={
            "kind": "ensemble",
            "members": {name: store.content for name, store in stores.items()},
            **{field: reference.identity[field] for field in SHARED},
            **params.identity,
            **decided,
        },
        attributes={**{key: reference.attributes[key] for key in DESCRIBED if key in reference.attributes},
                    "teachers": list(stores), **weights, **_known(stores)},
    )


def _known(stores: Mapping[str, Store]) -> dict[str, list[str]]:
    """The attribute that says which classes any of the teachers knows, where these are not all."""
    classes = next(iter(stores.values())).spec.identity["classes"]
    known = {name for store in stores.values() for name in store.spec.attributes.get("known", classes)}
    return {} if known == {*classes} else {"known": [name for name in classes if name in known]}


def _merged(stores: Mapping[str, Store], views: range, params: "Ensemble",
            rule: Callable[[int], Rule]) -> dict[str, NDArray[np.float32]]:
    """The merged arrays of a batch of views."""
    return merge_views(*_read(stores, ARRAYS, views), iou=params.iou, threshold=params.threshold,
                       rules=map(rule, views))._asdict()


def _read(stores: Mapping[str, Store], arrays: Sequence[str], views: Sequence[int]) -> list[NDArray[np.float32]]:
    """Of each array what all teachers say, (views, T, ...)."""
    return [np.stack([store.decode(array, store.read(array, views)) for store in stores.values()], axis=1)
            for array in arrays]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
