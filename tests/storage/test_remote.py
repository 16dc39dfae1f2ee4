"""Stores by URL: as safe as local ones, and every way not to reach them is one line. The rest is in the contract."""

import os
import shutil
import socket

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

import storage
from storage import CorruptStore, IncompleteStore, RemoteError, StoreError, manifest
from storage.shards import TAG_BYTES

SHARD = "heatmap/c.1.0.0.0"  # of the views 4 to 7


@pytest.fixture(params=["file", "memory", "http"])
def address(request, serve, monkeypatch):
    """address(path) -> URL of the store there, as it is at that moment."""
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])

    def in_memory(path):
        MemoryFileSystem.store.clear()
        fsspec.filesystem("memory").put(str(path), f"/{path.name}", recursive=True)
        return f"memory://{path.name}"

    return {"file": "file://{}".format, "memory": in_memory, "http": serve}[request.param]


def flip(file, byte):
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)


def damaged(url):
    """The views of the heatmap that cannot be read, each alone, with what is said of it."""
    store, said = storage.open_store(url), {}
    for view in range(len(store)):
        try:
            store.read("heatmap", [view])
        except CorruptStore as error:
            said[view] = str(error)
    return said


def test_zarr_reads_the_same(store_path, address, rows):
    url = address(store_path)
    group, store = zarr.open_group(url, mode="r"), storage.open_store(url)
    for name, codes in rows.items():
        assert np.array_equal(group[name][:], codes)
        assert np.array_equal(store.read(name, range(11)), codes)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.unlink(), "is missing"),
    (lambda file: file.write_bytes(b""), "has 0 bytes, expected"),
    (lambda file: os.truncate(file, 40), "has 40 bytes, expected"),
    (lambda file: os.truncate(file, file.stat().st_size - 1), "bytes, expected"),
    (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "bytes, expected"),
    (lambda file: file.write_bytes(bytes(file.stat().st_size)), "belongs to another store, array or place"),
    (lambda file: flip(file, 9), "belongs to another store, array or place"),
    (lambda file: flip(file, -1), "has a damaged index"),
    (lambda file: flip(file, -20), "has a damaged index"),
], ids=["missing", "empty", "cut", "truncated", "longer", "zeros", "tag", "checksum of the index", "index"])
def test_shards_that_are_not_whole_name_their_views(store_path, address, damage, message):
    damage(store_path / SHARD)
    url = address(store_path)
    said = damaged(url)
    assert list(said) == [4, 5, 6, 7]
    assert f"{url}/{SHARD}: the shard of views 4 to 7 " in said[5]
    assert message in said[5]
    report = storage.verify(url)
    assert report.bad_views == [4, 5, 6, 7]
    assert report.problems == [said[4]]
    with pytest.raises(CorruptStore, match="views 4 to 7"):
        storage.open_store(url).read("heatmap", [0, 9, 6])


def test_a_damaged_view_is_named_and_the_others_are_read(store_path, address):
    flip(store_path / SHARD, TAG_BYTES + 20)
    url = address(store_path)
    assert damaged(url) == {4: f"{url}/{SHARD}: view 4 fails its checksum"}
    assert storage.verify(url).bad_views == [4]


def test_a_shard_of_another_place_is_refused(tmp_path, address, make_spec, make_rows, write):
    """Even where lengths and index agree: all views here compress to the same."""
    spec = make_spec(8, 4)
    writer = storage.create_store(tmp_path / "s", spec)
    write(writer, {name: np.zeros_like(codes) for name, codes in make_rows(spec).items()})
    writer.finish()
    shutil.copy(tmp_path / "s/heatmap/c.0.0.0.0", tmp_path / "s" / SHARD)
    with pytest.raises(CorruptStore, match="views 4 to 7 belongs to another store, array or place"):
        storage.open_store(address(tmp_path / "s")).read("heatmap", [6])


@pytest.mark.parametrize("name", ["manifest.json", "zarr.json", "record/zarr.json"])
@pytest.mark.parametrize("damage", [lambda file: flip(file, 99), lambda file: file.write_bytes(b""),
                                    lambda file: file.write_bytes(file.read_bytes() + b" ")],
                         ids=["flipped", "empty", "longer"])
def test_damaged_metadata_refuses_the_store(store_path, address, name, damage):
    damage(store_path / name)
    url = address(store_path)
    with pytest.raises(CorruptStore) as caught:
        storage.open_store(url)
    assert str(caught.value).startswith(f"{url}/{name}: ")
    report = storage.verify(url)
    assert report.path == url
    assert not report.ok


def test_missing_metadata_refuses_the_store(store_path, address):
    (store_path / "record/zarr.json").unlink()
    with pytest.raises(CorruptStore, match=r"record/zarr\.json: is missing"):
        storage.open_store(address(store_path))
    (store_path / "manifest.json").unlink()
    with pytest.raises(IncompleteStore, match=r"there is no manifest\.json"):
        storage.open_store(address(store_path))


def test_a_shard_that_goes_away_is_never_zeros(store_path, address, rows):
    """To zarr-python it is: that is why it reads nothing here."""
    url = address(store_path)
    store, array = storage.open_store(url), zarr.open_group(url, mode="r")["heatmap"]
    assert np.array_equal(store.read("heatmap", [4]), rows["heatmap"][[4]])
    assert np.array_equal(array[4], rows["heatmap"][4])
    if url.startswith("memory"):
        fsspec.filesystem("memory").rm(f"/{store_path.name}/{SHARD}")
    else:
        (store_path / SHARD).unlink()
    assert not array[4].any()
    with pytest.raises(CorruptStore, match=f"{SHARD}: view 4 is missing"):
        store.read("heatmap", [4])


def test_the_whole_file_is_verified_too(store_path, address):
    content = manifest.parse((store_path / "manifest.json").read_bytes())
    content["shards"][1]["arrays"]["heatmap"]["sha256"] = "0" * 64
    (store_path / "manifest.json").write_bytes(manifest.render(content))
    url = address(store_path)
    assert storage.verify(url).problems == [
        f"{url}/{SHARD}: the shard of views 4 to 7 has a wrong checksum, that of every view is right"]


def test_a_store_in_an_archive(store_path, tmp_path, rows):
    shutil.make_archive(str(tmp_path / "archive"), "zip", store_path.parent, store_path.name)
    url = f"zip://{store_path.name}::file://{tmp_path}/archive.zip"
    assert storage.verify(url).ok
    assert np.array_equal(storage.open_store(url).read("record", [10, 0]), rows["record"][[10, 0]])


@pytest.mark.parametrize("backend", ["hdf5"])
def test_hdf5_is_read_from_a_local_disk_only(store_path, address):
    url = address(store_path)
    for attempt in (storage.open_store, storage.verify):
        with pytest.raises(RemoteError, match=f"{url}: .*hdf5 is read from a local disk only; copy its folder here"):
            attempt(url)


def test_nothing_is_written_to_a_url(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="memory://s: a store is written to a local disk; name a path there"):
        storage.create_store("memory://s", spec)
    assert not list(tmp_path.iterdir())


def unreachable(url, reason):
    for attempt in (storage.open_store, storage.verify):
        with pytest.raises(RemoteError, match=reason) as caught:
            attempt(url)
        assert str(caught.value).startswith(f"{url}: ")
        assert "copy the store's folder here" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unknown_protocol():
    unreachable("nowhere://s", "Protocol not known: nowhere")


def test_a_package_that_is_not_installed():
    fsspec.register_implementation("lacking", "lacking_fs.core.LackingFileSystem", clobber=True)
    unreachable("lacking://s", "run 'pip install lacking_fs'")


def test_nobody_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    unreachable(f"http://127.0.0.1:{port}/s", "cannot be read: Cannot connect")


def test_a_refusal(serve, tmp_path):
    unreachable(serve(tmp_path / "forbidden"), "403")


def test_a_server_of_whole_files_only(store_path, serve_whole):
    url = serve_whole(store_path)
    assert storage.open_store(url).fingerprint
    with pytest.raises(RemoteError, match="sends whole files where it is asked for parts of them"):
        storage.open_store(url).read("heatmap", [3])


@pytest.mark.parametrize("address", ["memory"], indirect=True)
def test_a_network_that_fails_is_no_damage(store_path, address, monkeypatch):
    url, answer = address(store_path), MemoryFileSystem.cat_file

    def cat_file(self, path, *arguments, **options):
        if path.endswith(SHARD):
            raise TimeoutError
        return answer(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    store = storage.open_store(url)
    assert store.read("heatmap", [0]).any()
    for attempt in (lambda: store.read("heatmap", [5]), lambda: storage.verify(url)):
        with pytest.raises(RemoteError, match=f"{url}: cannot be read: TimeoutError; check the address"):
            attempt()
