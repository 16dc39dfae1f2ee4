"""Where the files of a store lie, by backend."""

from storage.spec import ArraySpec, StoreSpec
from storage.zarr_format import documents as zarr_documents
from storage.zarr_format import shard_key as zarr_key


def shard_key(spec: StoreSpec, array: ArraySpec, shard: int) -> str:
    """The file of a shard below the store's folder: `heatmap/c.3.0.0.0`, or `heatmap/000003.h5`."""
    return zarr_key(array, shard) if spec.backend == "zarr" else f"{array.name}/{shard:06d}.h5"


def documents(spec: StoreSpec) -> dict[str, bytes]:
    """The store's other files by path, but for the manifest; a pure function of the spec."""
    return zarr_documents(spec) if spec.backend == "zarr" else {}
