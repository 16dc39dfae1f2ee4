"""Stores of dense teacher outputs: a valid Zarr v3 group that is read and written our own way.

Numpy only; nothing here knows torch or the pipeline. The format is described in
docs/store-format.md.
"""

from storage.base import Store
from storage.conversion import convert
from storage.encodings import ENCODINGS, compressed_size, decode, encode, encode_views, measure
from storage.errors import CorruptStore, FingerprintMismatch, FormatError, IncompleteStore, RemoteError, StoreError
from storage.features import channel_variances, codec, fit_parameters, reduce, reduced_shape, reduction, sample_cells
from storage.files import is_url
from storage.growth import continues, copy_views
from storage.manifest import Manifest, begun, seconds_to_make, unfinished
from storage.reader import open_store
from storage.spec import ArraySpec, StoreSpec, canonical, differences, fingerprint, in_short
from storage.verification import Report, verify
from storage.writer import ShardClaim, StoreWriter, create_store

__all__ = [
    "ENCODINGS", "ArraySpec", "CorruptStore", "FingerprintMismatch", "FormatError", "IncompleteStore", "Manifest",
    "RemoteError", "Report", "ShardClaim", "Store", "StoreError", "StoreSpec", "StoreWriter", "begun", "canonical",
    "channel_variances", "codec", "compressed_size", "continues", "convert", "copy_views", "create_store", "decode",
    "differences", "encode", "encode_views", "fingerprint", "fit_parameters", "in_short", "is_url", "measure",
    "open_store", "reduce", "reduced_shape", "reduction", "sample_cells", "seconds_to_make", "unfinished", "verify",
]
