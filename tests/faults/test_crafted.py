"""Stores made to hurt by somebody who knows how to make every checksum right: a clear error, and little memory."""

import hashlib
import os
import struct

import h5py
import numpy as np
import pytest
from crc32c import crc32c

import storage
from storage import ArraySpec, CorruptStore, StoreSpec
from storage.compressors import LZ4_BITSHUFFLE


def other_array(content, **changes):
    """Changes an array of the spec, and the fingerprint with it."""
    spec = content["spec"]
    spec["arrays"][2].update(changes)
    arrays = {array["name"]: array for array in spec["arrays"]}
    content["fingerprint"] = storage.fingerprint({"identity": spec["identity"], "views": spec["views"],
                                                  "arrays": arrays})


@pytest.mark.parametrize("edit", [
    lambda content: content["spec"].update(views=12),
    lambda content: content["spec"]["arrays"][0].update(name="../../etc"),
    lambda content: content["spec"]["arrays"][0].update(name="a/b"),
    lambda content: content["spec"]["arrays"][0].update(shape=[10**6, 10**6]),
    lambda content: content["spec"]["arrays"][0].update(shape=[-1]),
    lambda content: other_array(content, shape=[1] * 64),
    lambda content: other_array(content, dtype="(,)f4"),
    lambda content: content["spec"]["arrays"][0].update(encoding="pickle"),
    lambda content: content["spec"].update(shard_views=2**60),
    lambda content: content["spec"].update(identity={"teacher": "forged"}),
    lambda content: content.pop("spec"),
    lambda content: content.update(spec=3),
    lambda content: content.update(fingerprint="0" * 64),
    lambda content: content["shards"].pop(),
    lambda content: content["shards"][0].pop("content"),
    lambda content: content["shards"][0].update(content="many"),
    lambda content: content["shards"][0].update(content=3),
    lambda content: content["shards"][0]["arrays"].pop("record"),
    lambda content: content["shards"][0]["arrays"]["record"].update(bytes="many"),
    lambda content: content["shards"][0]["arrays"]["record"].pop("sha256"),
    lambda content: content["shards"][0].update(arrays=[]),
    lambda content: content.update(shards=None),
    lambda content: content.update(files={"other.json": {"bytes": 1, "sha256": "x"}}),
    lambda content: content["files"].update({"../../secret": {"bytes": 1, "sha256": "x"}}),
    lambda content: content["files"].update({"zarr.json": 3}),
    lambda content: content["counts"].update(views=3),
    lambda content: content.pop("arrays"),
    lambda content: content["arrays"].pop("record"),
    lambda content: content["arrays"].update(record={}),
    lambda content: content["arrays"]["record"].update(bytes=1),
    lambda content: content["arrays"]["record"].update(error=None),
    lambda content: content["arrays"]["record"]["error"].pop("measured"),
    lambda content: content["arrays"]["record"]["error"].update(bound="little"),
    lambda content: content["arrays"]["record"]["error"].update(unit=3),
    lambda content: content.pop("created"),
    lambda content: content.update(created=[]),
    lambda content: content["created"].pop("shard_seconds"),
    lambda content: content["created"].update(shard_seconds="long"),
    lambda content: content["created"].update(shard_seconds=10**400),
    lambda content: content["created"].update(processes=0),
    lambda content: content["created"].update(inherited_seconds=-1),
    lambda content: content["created"].update(flip={"error": 0.1}),
    lambda content: content["created"].update(flip={"views": 16, "error": "none"}),
])
def test_a_manifest_made_to_hurt_is_refused(store_path, edit_manifest, edit):
    edit_manifest(store_path, edit)
    with pytest.raises(CorruptStore, match=r"manifest\.json|zarr\.json"):
        storage.open_store(store_path)
    assert not storage.verify(store_path).ok


@pytest.mark.parametrize("name", ["manifest.json", "zarr.json", "a shard"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(store_path, shard_file, backend, name):
    if name == "zarr.json" and backend == "hdf5":
        pytest.skip("has none")
    file = shard_file(store_path, "heatmap", 1) if name == "a shard" else store_path / name
    file.unlink()
    os.mkfifo(file)
    report = storage.verify(store_path)
    assert report.bad_views == ([4, 5, 6, 7] if name == "a shard" else [])
    assert [problem.partition(": ")[0] for problem in report.problems] == [str(file)]
    with pytest.raises(CorruptStore, match=file.name):
        storage.open_store(store_path).read("heatmap", [4])


@pytest.mark.parametrize("file", ["manifest.json", ".writing/spec.json"])
def test_a_text_made_to_fill_the_memory_is_refused_unread(tmp_path, file, grown):
    """Lists of nothing take 20 times their text when they are parsed."""
    path = tmp_path / "s" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"format": "centernet-distill store", "version": 3, "x": [' + b"[]," * 2**23)
    megabytes, message = grown("try:\n"
                               "    storage.begun(sys.argv[1])\n"
                               "except storage.CorruptStore as error:\n"
                               "    print(error)", tmp_path / "s")
    assert megabytes < 60
    assert f"{path}: has more than 16777216 bytes" in message


def crafted(path, edit_manifest, shard, file):
    """Makes the manifest agree with a shard of the heatmap that was changed."""
    def edit(content):
        entry = content["shards"][shard]["arrays"]["heatmap"]
        for total in (content["counts"], content["arrays"]["heatmap"]):
            total["bytes"] += file.stat().st_size - entry["bytes"]
        entry.update(bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())

    edit_manifest(path, edit)


@pytest.fixture
def craft_index(store_path, shard_file, edit_manifest):
    """craft_index(shard, edit): changes the index of a shard and makes every checksum right again."""

    def craft_index(shard, edit):
        file, tail = shard_file(store_path, "heatmap", shard), 4 * 16
        data = file.read_bytes()
        index = np.frombuffer(data[-tail - 4:-4], "<u8").reshape(4, 2).copy()
        edit(index)
        file.write_bytes(data[:-tail - 4] + index.tobytes() + struct.pack("<I", crc32c(index.tobytes())))
        crafted(store_path, edit_manifest, shard, file)

    return craft_index


def _set(row, column, value):
    def edit(index):
        index[row, column] = np.uint64(value)
    return edit


@pytest.mark.parametrize("backend", ["zarr"])
@pytest.mark.parametrize("edit", [
    _set(0, 0, 2**64 - 5), _set(0, 0, 2**63), _set(2, 0, 10**6), _set(0, 0, 0), _set(0, 1, 2**64 - 10),
    _set(0, 1, 10**6), _set(3, 1, 900), _set(0, 1, 2**33), lambda index: index.__setitem__(1, index[0]),
    lambda index: index.__setitem__(slice(None), 2**64 - 1), lambda index: index.__setitem__(2, 2**64 - 1),
])
def test_an_index_made_to_hurt_is_refused(store_path, craft_index, edit):
    craft_index(0, edit)
    with pytest.raises(CorruptStore, match="views 0 to 3 has an index"):
        storage.open_store(store_path).read("heatmap", [0])
    assert not storage.verify(store_path).ok


@pytest.mark.parametrize("backend", ["zarr"])
def test_views_beyond_the_end_are_refused(store_path, craft_index):
    craft_index(2, lambda index: index.__setitem__(3, index[0]))
    with pytest.raises(CorruptStore, match="views 8 to 10 has an index"):
        storage.open_store(store_path).read("heatmap", [8])


@pytest.mark.parametrize("backend", ["zarr"])
@pytest.mark.parametrize("nbytes", [0, 3, 4, 10])
def test_chunks_too_short_to_be_any_are_refused(store_path, craft_index, nbytes):
    craft_index(0, _set(1, 1, nbytes))
    with pytest.raises(CorruptStore, match="view 1 "):
        storage.open_store(store_path).read("heatmap", [1])


def one_view(path, chunk):
    """A store whose only chunk is `chunk`."""
    spec = StoreSpec((ArraySpec("heatmap", (64, 1, 1), "uint8"),), 1, 1, {})
    writer = storage.create_store(path, spec)
    with writer.claim(0) as claim:
        file = claim._files["heatmap"]
        file._compress = lambda _: chunk
        file.append(0, np.zeros(0))
        claim._count = 1
    writer.finish()


def test_a_compression_bomb_stays_small(tmp_path, grown):
    """A chunk that unpacks to far more than a view is refused before it takes the memory; HDF5's: test_hdf5.py."""
    one_view(tmp_path / "s", LZ4_BITSHUFFLE.compress(np.zeros(200_000_000, np.uint8))[:1000])
    megabytes, message = grown("try:\n"
                               "    storage.open_store(sys.argv[1]).read('heatmap', [0])\n"
                               "except storage.CorruptStore as error:\n"
                               "    assert not storage.verify(sys.argv[1]).ok\n"
                               "    print(error)", tmp_path / "s")
    assert megabytes < 60
    assert "view 0" in message or "views 0 to 0" in message


def _external_link(file):
    with h5py.File(file, "w") as out:
        out["heatmap"] = h5py.ExternalLink("/etc/passwd", "heatmap")


def _soft_link(file):
    with h5py.File(file, "r+") as out:
        out.move("heatmap", "elsewhere")
        out["heatmap"] = h5py.SoftLink("/elsewhere")


def _external_storage(file):
    with h5py.File(file, "r+") as out:
        tag = out["heatmap"].attrs["tag"]
        del out["heatmap"]
        out.create_dataset("heatmap", (4, 3, 8, 6), "uint8", external=[("/etc/passwd", 0, 576)])
        out["heatmap"].attrs["tag"] = tag


def _rewritten(**options):
    def edit(file):
        with h5py.File(file, "r+") as out:
            codes, tag = out["heatmap"][:], out["heatmap"].attrs["tag"]
            del out["heatmap"]
            given = {"data": codes, "chunks": (1, 3, 8, 6), "compression": "gzip", "fletcher32": True, **options}
            out.create_dataset("heatmap", **given)
            out["heatmap"].attrs["tag"] = tag
    return edit


@pytest.mark.parametrize("backend", ["hdf5"])
@pytest.mark.parametrize("edit", [
    _external_link, _soft_link, _external_storage,
    _rewritten(data=np.zeros((5, 3, 8, 6), np.uint8)), _rewritten(data=np.zeros((4, 3, 8, 6), np.int32)),
    _rewritten(chunks=(4, 3, 8, 6)), _rewritten(compression=None), _rewritten(fletcher32=False),
    _rewritten(data=None, shape=(4, 3, 8, 6), dtype="uint8"),
    _rewritten(data=None, shape=(10**6, 10**6, 8, 6), dtype="uint8"),
], ids=["external link", "soft link", "external storage", "more views", "another dtype", "one chunk", "other filters",
        "no checksum", "never written", "huge"])
def test_an_hdf5_file_made_to_hurt_is_refused(store_path, shard_file, edit_manifest, edit):
    file = shard_file(store_path, "heatmap", 0)
    edit(file)
    crafted(store_path, edit_manifest, 0, file)
    with pytest.raises(CorruptStore, match="views 0 to 3 is not built as a shard of this array"):
        storage.open_store(store_path).read("heatmap", [0])
    assert storage.verify(store_path).bad_views == [0, 1, 2, 3]
