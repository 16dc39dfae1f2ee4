"""Stores of dense teacher outputs: a valid Zarr v3 group that is read and written our own way.

Numpy only; nothing here knows torch or the pipeline. The format is described in
docs/store-format.md.
"""

from storage.base import Store
from storage.conversion import convert
from storage.encodings import ENCODINGS, decode, encode, encode_views, measure
from storage.errors import CorruptStore, FingerprintMismatch, FormatError, IncompleteStore, RemoteError, StoreError
from storage.features import channel_variances, codec, fit_parameters, reduce, reduced_shape, sample_cells
from storage.files import is_url
from storage.growth import continues, copy_views
from storage.manifest import begun, seconds_to_make
from storage.reader import open_store
from storage.spec import ArraySpec, StoreSpec, canonical, fingerprint
from storage.verify import Report, verify
from storage.writer import ShardClaim, StoreWriter, create_store

__all__ = [
    "ENCODINGS", "ArraySpec", "CorruptStore", "FingerprintMismatch", "FormatError", "IncompleteStore",
    "RemoteError", "Report", "ShardClaim", "Store", "StoreError", "StoreSpec", "StoreWriter", "begun", "canonical",
    "channel_variances", "codec", "continues", "convert", "copy_views", "create_store", "decode", "encode",
    "encode_views", "fingerprint", "fit_parameters", "is_url", "measure", "open_store", "reduce", "reduced_shape",
    "sample_cells", "seconds_to_make", "verify",
]
