"""The zarr.json documents of a store: what makes it a Zarr v3 group for everybody else."""

import json
from typing import Any

from storage.encodings import encoding_of
from storage.spec import ArraySpec, StoreSpec

_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}


def shard_key(array: ArraySpec, shard: int) -> str:
    """The file of a shard below the store's folder, e.g. `heatmap/c.3.0.0.0`."""
    return f"{array.name}/c.{shard}{'.0' * len(array.shape)}"


def _array(spec: StoreSpec, array: ArraySpec) -> dict[str, Any]:
    compressor = encoding_of(array.encoding).compressor.to_json(array.code_dtype.itemsize, array.nbytes)
    fill = {"b": False, "f": 0.0}.get(array.code_dtype.kind, 0)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [spec.views, *array.shape],
        "data_type": array.dtype,
        "chunk_grid": {"name": "regular",
                       "configuration": {"chunk_shape": [spec.shard_views, *array.shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": fill,
        "codecs": [{"name": "sharding_indexed", "configuration": {
            "chunk_shape": [1, *array.shape],
            "codecs": [_LITTLE, compressor, _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end"}}],
        "attributes": {"encoding": array.encoding, "parameters": array.parameters},
        "storage_transformers": [],
    }


def documents(spec: StoreSpec) -> dict[str, bytes]:
    """Every zarr.json of the store by its path; a pure function of the spec.

    The group repeats its arrays' documents ("consolidated"), so that clients need not list the
    folder, where they would wonder about manifest.json.
    """
    arrays = {array.name: _array(spec, array) for array in spec.arrays}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**spec.attributes, "identity": spec.identity, "fingerprint": spec.fingerprint},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
    files = {"zarr.json": group} | {f"{name}/zarr.json": document for name, document in arrays.items()}
    return {path: json.dumps(document, indent=1).encode() for path, document in files.items()}
