"""What a dump will take, before it is begun."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.inference.dump import FEATURES, dump_spec, outputs
from pipeline.inference.growing import sample_of
from pipeline.inference.prediction import inference
from pipeline.inference.rendering import rendered
from pipeline.inference.sampling import Reduction, study_sample
from storage import Store, StoreSpec, compressed_size, encode_views

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from pipeline.data import DataSet
    from pipeline.data.recorded import RecordedViews
    from pipeline.inference.dump import Values
    from pipeline.inference.rendering import OnMismatch
    from pipeline.models import Detector
    from pipeline.params import Dump


def plan_dump(
    model: "Detector", data: "DataSet", views: "RecordedViews", *, params: "Dump", fabric: "Fabric",
    old: Store | None = None, on_mismatch: "OnMismatch" = "error",
) -> dict[str, Any]:
    """Counts a teacher's dump and measures two batches of it; writes nothing.

    Args:
        old: what `older_dump` found.
        on_mismatch: what happens when a view has other pixels than were recorded.

    Returns:
        {"views": that the teacher has to see, "taken_over": those of an older dump,
        "bytes_uncompressed": of the whole store, exact, "bytes": of the whole store, estimated from the
        measured batches, "seconds": that its processes take, estimated from the second batch;
        rendering, computing and compressing one after the other, while the dump overlaps them}.

    Raises:
        UserError: the teacher does not fit the data or the size of the views.
    """
    describe = partial(dump_spec, model, data, views, params=params, teacher="", teacher_sha256="")
    describe()  # what does not fit is refused before the teacher runs
    sizes = []
    middle = min(len(views) // 2, max(0, len(views) - params.batch))
    with inference(model, fabric.device):
        first = range(min(params.batch, len(views)))  # the teacher warms up
        sample = study_sample(model, data, views, first, params=params, device=fabric.device,
                              on_mismatch=on_mismatch)
        spec = describe(fitted=(sample_of(old) if old else sample).fitted)
        reduce = Reduction(spec[FEATURES], fabric.device) if params.features else None
        for start in (0, middle):
            rows = range(start, min(start + params.batch, len(views)))
            began = time.perf_counter()
            for _, images in rendered(views, data, rows, params.batch, on_mismatch):
                sizes += _compressed_bytes(spec, outputs(model, images, fabric.device, params, reduce))
            seconds = (time.perf_counter() - began) / len(rows)
    missing = len(views) - len(old or ())
    return {
        "views": missing,
        "taken_over": len(views) - missing,
        "bytes_uncompressed": len(views) * sum(array.nbytes for array in spec.arrays),
        "bytes": round(len(views) * float(np.mean(sizes))),
        "seconds": missing * seconds / fabric.world_size,
    }


def _compressed_bytes(spec: StoreSpec, batch: "Values") -> list[int]:
    """Of each view of a batch."""
    codes, _ = encode_views(spec, batch)
    return [sum(compressed_size(spec[name], row) for name, row in zip(codes, rows, strict=True))
            for rows in zip(*codes.values(), strict=True)]
