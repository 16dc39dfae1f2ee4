"""Disks that fail under a reader: whose fault it was, and in which file."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import storage


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("readable", [0, 2], ids=["the index", "a chunk"])
def test_a_disk_that_fails_is_not_a_damaged_store_and_names_the_file(
        store_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, readable: int):
    store, real, left = storage.open_store(store_path), os.pread, [readable]

    def fail(fd: int, nbytes: int, offset: int) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return real(fd, nbytes, offset)

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        store.read("heatmap", [5])
    assert (caught.value.errno, caught.value.filename) == (number, str(store_path / "heatmap/c.1.0.0.0"))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        store.sha256("heatmap", 1)
    assert caught.value.filename == str(store_path / "heatmap/c.1.0.0.0")


def test_a_file_system_that_gives_less_than_asked_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    noise, real = np.random.default_rng(0).integers(0, 256, (3, 10_000), np.uint8), os.pread
    array = storage.ArraySpec("x", (10_000,), "uint8")
    writer = storage.create_store(tmp_path / "s", storage.StoreSpec((array,), 3, 1000, {}))
    with writer.claim(0) as claim:
        for view in claim.views:
            claim.append({"x": noise[view]})
    writer.finish()
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, offset: real(fd, min(nbytes, 4096), offset))
    assert np.array_equal(storage.open_store(tmp_path / "s").read("x", range(3)), noise)
    assert storage.verify(tmp_path / "s").problems == []


@pytest.mark.parametrize("backend", ["hdf5"])
def test_so_it_is_with_hdf5(store_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Unable to synchronously open file (file read failed: time = …\n, errno = 5)")

    monkeypatch.setattr("h5py.File", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        storage.open_store(store_path).read("heatmap", [5])
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(store_path / "heatmap/000001.h5"))
