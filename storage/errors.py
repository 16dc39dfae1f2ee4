"""What can be wrong with a store, each with a message that names the store and says what to do."""


class StoreError(ValueError):
    """A store, or what was asked of it, is not as it has to be."""


class FormatError(StoreError):
    """The folder is no store, or one of a format version that this program does not know."""


class IncompleteStore(StoreError):
    """The store was begun and never finished: it has no manifest yet, or misses shards."""


class FingerprintMismatch(StoreError):
    """The store was made from something else than what was expected; names every differing field."""


class CorruptStore(StoreError):
    """Bytes are missing, damaged or from elsewhere; names the file and the views it affects."""


class RemoteError(StoreError):
    """A store cannot be read from where it is, which says nothing about whether it is whole."""
