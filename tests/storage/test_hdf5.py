"""Chunks of HDF5 whose checksum is right and whose content is not: HDF5 itself would take them."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numcodecs.fletcher32 import Fletcher32

import storage
from storage import ArraySpec, CorruptStore, StoreSpec

GOOD = np.random.default_rng(0).integers(0, 2**16, (2, 3, 50), np.uint16)


def packed(content: bytes) -> bytes:
    return bytes(Fletcher32().encode(zlib.compress(content, 9)))


def shuffled(codes: np.ndarray) -> bytes:
    return codes.view(np.uint8).reshape(-1, codes.itemsize).T.tobytes()


def store_of(path: Path, array: ArraySpec, chunks: list[bytes], mask: int = 0) -> storage.Store:
    """A finished store whose last view is kept in `chunks` as they are."""
    writer = storage.create_store(path, StoreSpec((array,), len(chunks), len(chunks), {}, backend="hdf5"))
    with writer.claim(0) as claim:
        data = claim._files[array.name]._data
        for slot, chunk in enumerate(chunks):
            last = slot == len(chunks) - 1
            data.id.write_direct_chunk((slot, *[0] * len(array.shape)), chunk, mask if last else 0)
        claim._count = len(chunks)
    writer.finish()
    return storage.open_store(path)


@pytest.mark.parametrize(("chunk", "message"), [
    (packed(shuffled(GOOD)[:16]), "does not unpack to exactly 600 bytes"),
    (packed(shuffled(GOOD)[:-1]), "does not unpack to exactly 600 bytes"),
    (packed(shuffled(GOOD) + b"x"), "does not unpack to exactly 600 bytes"),
    (bytes(Fletcher32().encode(zlib.compress(shuffled(GOOD)) + b"more")), "does not unpack to exactly 600 bytes"),
    (bytes(Fletcher32().encode(zlib.compress(shuffled(GOOD))[:-4])), "does not unpack to exactly 600 bytes"),
    (packed(shuffled(GOOD))[:-1] + b"\0", "fails its checksum"),
    (bytes(Fletcher32().encode(b"no deflate stream")), "does not unpack to exactly 600 bytes"),
    (b"abc", "fails its checksum"),
    (np.random.default_rng(1).bytes(5000), "has a chunk of more than 1633 bytes"),
], ids=["16 bytes", "a byte less", "a byte more", "a tail", "no end", "checksum", "no stream", "3 bytes", "too long"])
def test_a_chunk_that_is_no_view_is_refused_and_the_others_are_read(tmp_path: Path, chunk: bytes, message: str):
    store = store_of(tmp_path / "s", ArraySpec("x", (2, 3, 50), "uint16"), [packed(shuffled(GOOD)), chunk])
    assert np.array_equal(store.read("x", [0])[0], GOOD)
    with pytest.raises(CorruptStore, match=f"000000.h5: view 1 .*{message}"):
        store.read("x", [1])
    assert storage.verify(tmp_path / "s").bad_views == [1]


def test_a_chunk_that_says_it_has_no_filters_is_refused(tmp_path: Path):
    store = store_of(tmp_path / "s", ArraySpec("x", (2, 3, 50), "uint16"), [GOOD.tobytes()], mask=0b111)
    with pytest.raises(CorruptStore, match="view 0 has a chunk that was written without its filters"):
        store.read("x", [0])


def test_a_short_stream_for_megabytes_is_an_error_and_not_a_crash(tmp_path: Path):
    store_of(tmp_path / "s", ArraySpec("x", (2**22,), "uint8"), [packed(bytes(16))])
    found = subprocess.run([sys.executable, "-c", "import storage, sys; print(storage.verify(sys.argv[1]).problems)",
                            str(tmp_path / "s")], capture_output=True, text=True, check=False)
    assert "view 0 has a chunk that does not unpack to exactly 4194304 bytes" in found.stdout, found


def test_a_bomb_shorter_than_a_view_takes_no_memory(tmp_path: Path, grown):
    """185 kB that unpack to 190 MB, where a view may have 204 kB."""
    store_of(tmp_path / "s", ArraySpec("x", (200_000,), "uint8"), [packed(bytes(190_000_000))])
    megabytes, problems = grown("print(storage.verify(sys.argv[1]).problems)", tmp_path / "s")
    assert megabytes < 40
    assert "view 0 has a chunk that does not unpack to exactly 200000 bytes" in problems
