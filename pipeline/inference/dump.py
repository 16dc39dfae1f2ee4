"""The teachers' dump: what a teacher says of every recorded view, written once."""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.inference.prediction import inference, predict
from pipeline.inference.prefetching import prefetched
from pipeline.models import check_size, find_peaks
from storage import ArraySpec, ShardClaim, StoreSpec, create_store, encode, measure

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.inform import Progress
    from pipeline.models import Detector
    from pipeline.params import Dump
    from storage.manifest import Manifest

OnMismatch = Literal["error", "warn"]
Values = dict[str, NDArray[np.float32]]

#: Of the dumping: a store that another version wrote is not continued.
VERSION = 1


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
    progress: "Progress | None" = None,
) -> "Manifest":
    """Writes a teacher's heatmap, wh and offset, peaks and features of every view.

    Takes up what an earlier run left at `out`; a run that was killed and continued writes the same
    bytes as one that was not, on the same machine. The processes of `fabric` share the shards; each
    renders the next batch and writes the last one while it computes, so memory does not grow with
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

    Returns:
        The store's manifest.

    Raises:
        UserError: the teacher does not fit the data or the size of the views, or an image is not as
            it was recorded.
        StoreError: `out` holds another store, or a shard is being written by some other process.
    """
    spec = dump_spec(model, data, views, params=params, teacher=teacher, teacher_sha256=teacher_sha256)
    writer = create_store(out, spec)
    start = time.perf_counter()
    pending = writer.pending()
    first = len(pending) * fabric.global_rank // fabric.world_size  # so that processes do not queue up
    with inference(model, fabric.device):
        for shard in pending[first:] + pending[:first]:
            claim = writer.claim(shard)
            if claim is None:
                continue
            done = spec.views - sum(len(spec.shard_range(left)) for left in writer.pending())
            # The thread ends before the shard is closed, whatever happens.
            with claim, ThreadPoolExecutor(1) as pool:
                written: Future[None] | None = None
                for rows, images in rendered(views, data, claim.views, params.batch, on_mismatch):
                    values = outputs(model, images, fabric.device, params)
                    if written:
                        written.result()
                    written = pool.submit(_append, claim, spec, values)
                    if progress and fabric.is_global_zero:
                        progress(done + rows.stop - claim.views.start, spec.views, "views")
                if written:
                    written.result()
    fabric.barrier()
    if fabric.is_global_zero:
        writer.finish(seconds=round(time.perf_counter() - start, 3), processes=fabric.world_size,
                      device=_device_name(fabric.device), cpus=os.cpu_count(), torch=str(torch.__version__))
    fabric.barrier()
    return writer.finish()


def dump_spec(
    model: "Detector", data: "DataSet", views: "RecordedViews", *, params: "Dump", teacher: str,
    teacher_sha256: str,
) -> StoreSpec:
    """What the store of a teacher holds.

    Raises:
        UserError: the teacher does not fit the data or the size of the views.
        StoreError: an encoding is unknown.
    """
    config = model.config
    check_size(config, views.size)
    if config.num_classes != len(data.classes) or config.classes not in (None, data.classes):
        known, wanted = ", ".join(config.classes or ["unnamed"]), ", ".join(data.classes)
        raise UserError(
            f"Teacher {teacher!r} knows {config.num_classes} classes ({known}), expected the "
            f"{len(data.classes)} of data {data.name!r} ({wanted}). Train the teacher on this data.")
    grid = views.size[0] // config.stride, views.size[1] // config.stride
    planes = {"heatmap": config.num_classes, "wh_offset": 4}
    if params.features:
        planes["features"] = config.feature_channels
    encodings = dict.fromkeys(planes, "exact-fp16")
    encodings |= {name: encoding for name, encoding in params.encodings.items() if name in planes}
    arrays = [ArraySpec(name, (count, *grid), encoding=encodings[name]) for name, count in planes.items()]
    arrays.append(ArraySpec("peaks", (params.peaks, 7), encoding="exact-fp32"))
    return StoreSpec(
        arrays=tuple(arrays),
        views=len(views),
        shard_views=params.shard_views,
        identity={
            "kind": "teacher", "teacher": teacher, "weights": teacher_sha256, "data": data.fingerprint,
            "views": views.fingerprint, "size": list(views.size), "classes": list(data.classes),
            "stride": config.stride, "encodings": encodings, "peaks": params.peaks,
            "precision": params.precision, "dump_version": VERSION,
        },
        attributes={
            "model": config.model, "classes": list(data.classes), "size": list(views.size),
            "stride": config.stride, "licence": data.manifest.get("licence"),
        },
    )


def rendered(
    views: "RecordedViews", data: "DataSet", rows: range, batch: int, on_mismatch: OnMismatch = "error"
) -> Iterator[tuple[range, NDArray[np.uint8]]]:
    """Batches of rows and their (B, H, W, 3) uint8 RGB pixels, rendered ahead in threads."""
    records = data.records(views.split)

    def render(some: range) -> tuple[range, NDArray[np.uint8]]:
        images = np.empty((len(some), *views.size, 3), np.uint8)
        shown, pixels = -1, images[0]
        for place, row in enumerate(some):
            image = views.view(row).image
            if image != shown:  # the views of an image follow each other
                shown, pixels = image, records[image].read()
            images[place] = views.render(row, pixels, records[image].path, on_mismatch)
        return some, images

    return prefetched(render, (rows[at : at + batch] for at in range(0, len(rows), batch)))


def outputs(
    model: "Detector", images: NDArray[np.uint8], device: torch.device, params: "Dump"
) -> Values:
    """The arrays of a dump for a batch of (B, H, W, 3) images; `model` is inside `inference`."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    heatmap, wh, offset, features = predict(model, pixels, params.precision)
    found = {
        "heatmap": heatmap, "wh_offset": torch.cat([wh, offset], 1),
        "peaks": find_peaks(heatmap, wh, offset, params.peaks),
    }
    if params.features:
        found["features"] = features
    return {name: values.cpu().numpy() for name, values in found.items()}


def _append(claim: ShardClaim, spec: StoreSpec, batch: Mapping[str, NDArray[np.float32]]) -> None:
    codes = {name: encode(spec[name], values) for name, values in batch.items()}
    errors = {name: measure(spec[name], values, codes[name]) for name, values in batch.items()}
    for row in zip(*codes.values(), strict=True):
        claim.append(dict(zip(codes, row, strict=True)), errors)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
