"""The teachers' dump: what a teacher says of every recorded view, written once."""

import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.devices import device_name
from pipeline.errors import UserError
from pipeline.inference.augmentation import answer, check_scales
from pipeline.inference.growing import sample_of, taken_over
from pipeline.inference.prediction import inference
from pipeline.inference.rendering import OnMismatch, rendered
from pipeline.inference.sampling import Reduction, Sample, sample_views, study_sample
from pipeline.inform import Progress, no_progress
from pipeline.models import check_size
from storage import (
    ArraySpec,
    ShardClaim,
    Store,
    StoreSpec,
    StoreWriter,
    begun,
    continues,
    create_store,
    encode_views,
    reduced_shape,
    seconds_to_make,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric

    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.models import Detector
    from pipeline.params import Dump
    from storage import Manifest

Values = dict[str, NDArray[np.float32]]

FEATURES = "features"
#: Threads that encode.
ENCODERS = min(4, os.cpu_count() or 1)


def dump_teacher(
    model: "Detector",
    data: "DataSet",
    views: "RecordedViews",
    out: Path,
    *,
    params: "Dump",
    teacher: str,
    teacher_sha256: str,
    fabric: "Fabric",
    on_mismatch: OnMismatch = "error",
    progress: Progress = no_progress,
    old: Store | None = None,
    code: str = "",
) -> "Manifest":
    """Writes a teacher's heatmap, wh and offset, peaks and features of every view.

    Takes up what an earlier run left at `out`; a run that was killed and continued writes the same
    bytes as one that was not, on the same machine. The processes of `fabric` share the shards; each
    renders the next batch and writes earlier ones while it computes, so memory does not grow with
    the views.

    Args:
        model: the teacher.
        data: whose images `views` shows.
        views: in the order in which the store has them.
        out: where the store goes.
        params: batch size, peaks, precision, encodings.
        teacher: its name in params.
        teacher_sha256: of its weights file.
        fabric: the devices and processes.
        on_mismatch: what happens when a view has other pixels than were recorded.
        progress: called with views done, by all processes, and in all.
        old: what `older_dump` found: its views are copied, and what its sample said holds on. Where `out` was begun
            without it and its features are encoded otherwise, all views are computed.
        code: fingerprint of the code that runs; goes into the manifest.

    Returns:
        The store's manifest.

    Raises:
        UserError: the teacher does not fit the data or the size of the views, or an image is not as
            it was recorded.
        StoreError: `out` holds another store, or a shard is being written by some other process.
    """
    start = time.perf_counter()
    with inference(model, fabric.device):
        describe = partial(dump_spec, model, data, views, params=params, teacher=teacher,
                           teacher_sha256=teacher_sha256)
        study = partial(sample_of, old) if old else partial(
            study_sample, model, data, views, sample_views(len(views)), params=params, device=fabric.device,
            on_mismatch=on_mismatch)
        writer = _begin(out, describe, study, fabric)
        spec, pending = writer.spec, writer.pending()
        reduce = Reduction(spec[FEATURES], fabric.device) if params.features else None
        if old and not continues(old, spec):
            old = None
        first = len(pending) * fabric.global_rank // fabric.world_size  # so that processes do not queue up
        for shard in pending[first:] + pending[:first]:
            claim = writer.claim(shard, processes=fabric.world_size)
            if claim is None:
                continue
            done = spec.views - sum(len(spec.shard_range(other)) for other in writer.pending())
            with claim, _Writing(claim, spec) as writing:
                left = claim.views[taken_over(claim, old) if old else 0 :]
                for rows, images in rendered(views, data, left, params.batch, on_mismatch):
                    writing.write(outputs(model, images, fabric.device, params, reduce))
                    if fabric.is_global_zero:
                        progress(done + rows[-1] + 1 - claim.views.start, spec.views, "views")
    fabric.barrier()
    if fabric.is_global_zero:
        writer.finish(seconds=round(time.perf_counter() - start, 3), processes=fabric.world_size,
                      device=device_name(fabric.device), cpus=os.cpu_count(), torch=str(torch.__version__),
                      flip=spec.attributes["flip"], code=code,
                      **({"inherited_seconds": seconds_to_make(old.manifest)} if old else {}))
    fabric.barrier()
    return writer.finish()


class _Writing:
    """Batches on their way into a shard: encoded side by side, for a GPU is faster than one thread, and added in turn.

    On exit all batches are written or, on error, dropped.
    """

    def __init__(self, claim: ShardClaim, spec: StoreSpec) -> None:
        self.claim, self.spec = claim, spec
        self.encoders, self.adder = ThreadPoolExecutor(ENCODERS), ThreadPoolExecutor(1)
        self.under_way: deque[Future[None]] = deque()

    def write(self, values: Values) -> None:
        """Takes the next batch; waits while too many are under way.

        Raises:
            StoreError: an earlier batch does not fit its encoding.
        """
        while len(self.under_way) > ENCODERS:
            self.under_way.popleft().result()
        encoded = self.encoders.submit(encode_views, self.spec, values)
        self.under_way.append(self.adder.submit(lambda: self.claim.add(*encoded.result())))

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self.under_way and kind is None:
                self.under_way.popleft().result()
        finally:
            for pool in (self.encoders, self.adder):
                pool.shutdown(cancel_futures=True)


def _begin(out: Path, describe: "Callable[..., StoreSpec]", study: "Callable[[], Sample]",
           fabric: "Fabric") -> StoreWriter:
    """The store at `out`, begun by one process with what a sample says, or by an earlier run."""
    wanted = describe()  # what does not fit is refused before the teacher runs
    if fabric.is_global_zero and begun(out) is None:
        fitted, flip = study()
        # Another command may have begun it meanwhile: then its sample counts.
        create_store(out, describe(fitted=fitted, flip=flip))
    fabric.barrier()
    found = begun(out)
    assert found is not None, f"{out} was begun"
    return create_store(out, replace(found, identity=wanted.identity))


def dump_spec(
    model: "Detector", data: "DataSet", views: "RecordedViews", *, params: "Dump", teacher: str,
    teacher_sha256: str, fitted: dict[str, Any] | None = None, flip: dict[str, Any] | None = None,
) -> StoreSpec:
    """What the store of a teacher holds.

    Args:
        fitted: the parameters of the features' encoding; without them the store has no features yet.
        flip: what `study_sample` found of mirrored views.

    Raises:
        UserError: the teacher does not fit the data or the size of the views.
        StoreError: an encoding is unknown, or does not suit the features.
    """
    config = model.config
    check_size(config, views.size)
    check_scales(config, views.size, params.tta)
    if config.num_classes != len(data.classes) or config.classes not in (None, data.classes):
        known, wanted = ", ".join(config.classes or ["unnamed"]), ", ".join(data.classes)
        raise UserError(
            f"Teacher {teacher!r} knows {config.num_classes} classes ({known}), expected the "
            f"{len(data.classes)} of data {data.name!r} ({wanted}). Train the teacher on this data.")
    grid = views.size[0] // config.stride, views.size[1] // config.stride
    encodings = params.identity["encodings"]
    arrays = [ArraySpec("heatmap", (config.num_classes, *grid), encoding=encodings["heatmap"]),
              ArraySpec("wh_offset", (4, *grid), encoding=encodings["wh_offset"]),
              ArraySpec("peaks", (params.peaks, 7), encoding="exact-fp32")]
    if params.features:
        shape = reduced_shape(encodings[FEATURES], (config.feature_channels, *grid))
        if fitted is not None:
            arrays.append(ArraySpec(FEATURES, shape, encoding=encodings[FEATURES], parameters=fitted))
    return StoreSpec(
        arrays=tuple(arrays),
        views=len(views),
        shard_views=params.shard_views,
        identity={
            "kind": "teacher", "teacher": teacher, "weights": teacher_sha256, "data": data.fingerprint,
            "views": views.fingerprint, "size": list(views.size), "classes": list(data.classes),
            "stride": config.stride, **params.identity,
        },
        attributes={
            "model": config.model, "classes": list(data.classes), "size": list(views.size),
            "stride": config.stride, "licence": data.manifest.get("licence"), "flip": flip,
            **({"known": list(config.known)} if config.known is not None else {}),
        },
    )


def outputs(
    model: "Detector", images: NDArray[np.uint8], device: torch.device, params: "Dump", reduce: Reduction | None
) -> Values:
    """The arrays of a store for a batch of (B, H, W, 3) images; features with `reduce`. `model` is in `inference`."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    said = answer(model, pixels, precision=params.precision, peaks=params.peaks, tta=params.tta)
    found = {"heatmap": said.heatmap, "wh_offset": said.wh_offset, "peaks": said.peaks}
    if reduce:
        found[FEATURES] = reduce(said.features)
    return {name: values.cpu().numpy() for name, values in found.items()}
