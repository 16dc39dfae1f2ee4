"""Damage to a finished store: every bit of it is noticed, and no read is wrong, missing or stale in silence."""

import json
import os
import random
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

import storage
from storage import ArraySpec, CorruptStore, FormatError, StoreError, StoreSpec, manifest
from storage.shards import TAG_BYTES

HEATMAP = "heatmap/c.{}.0.0.0"


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def readable(path: Path, array: str, views: range | list[int]) -> dict[int, str]:
    """What each view says when it is read: its codes in hexadecimal, or the error."""
    store, answers = storage.open_store(path), {}
    for view in views:
        try:
            answers[view] = store.read(array, [view]).tobytes().hex()
        except CorruptStore as error:
            answers[view] = f"error {error}"
    return answers


def edit_manifest(path: Path, edit: Callable[[dict], None]) -> None:
    """An edit by somebody who knows how to make the checksum right again."""
    content = manifest.parse((path / "manifest.json").read_bytes())
    edit(content)
    (path / "manifest.json").write_bytes(manifest.render(content))


def test_every_flipped_bit_is_found_and_none_is_read(store_path: Path, rows):
    random.seed(1)
    files = sorted(file for file in store_path.rglob("*") if file.is_file())
    # As likely in small files as in large ones, or the metadata would hardly be hit.
    for file in (random.choice(files) for _ in range(60)):
        bit = random.randrange(file.stat().st_size * 8)
        flip(file, bit)
        report = storage.verify(store_path)
        assert not report.ok, f"bit {bit} of {file}"
        assert any(file.name in problem for problem in report.problems)
        if file.suffix == ".json":
            with pytest.raises(StoreError, match=file.name):
                storage.open_store(store_path)
        else:
            array, shard = file.parent.name, int(file.name.split(".")[1])
            answers = readable(store_path, array, range(11))
            for view, answer in answers.items():
                if answer.startswith("error"):
                    assert view // 4 == shard
                    assert view in report.bad_views
                else:
                    assert answer == rows[array][view].tobytes().hex()
        flip(file, bit)
    assert storage.verify(store_path).ok


def test_a_damaged_view_is_named_and_the_others_are_read(store_path: Path):
    flip(store_path / HEATMAP.format(1), (TAG_BYTES + 200) * 8)
    answers = readable(store_path, "heatmap", range(11))
    assert [view for view, answer in answers.items() if answer.startswith("error")] == [4]
    assert "view 4 fails its checksum" in answers[4]
    report = storage.verify(store_path)
    assert report.bad_views == [4]
    assert len(report.problems) == 1
    with pytest.raises(CorruptStore, match=r"heatmap/c\.1.*view 4 "):
        storage.open_store(store_path).read("heatmap", [0, 4])


def test_a_sound_store_is_reported_as_such(store_path: Path, spec):
    report = storage.verify(store_path)
    assert report.ok
    assert report.views == 11
    assert report.fingerprint == spec.fingerprint
    assert report.bytes == sum(file.stat().st_size for file in store_path.rglob("c.*"))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.unlink(), "is missing"),
    (lambda file: file.write_bytes(b""), "has 0 bytes, expected"),
    (lambda file: os.truncate(file, file.stat().st_size - 1), "bytes, expected"),
    (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "bytes, expected"),
    (lambda file: file.write_bytes(bytes(file.stat().st_size)), "another store"),
])
def test_shards_that_are_not_whole_name_their_views(store_path: Path, damage, message: str):
    damage(store_path / HEATMAP.format(1))
    answers = readable(store_path, "heatmap", range(11))
    assert all((view in range(4, 8)) == answer.startswith("error") for view, answer in answers.items())
    assert "views 4 to 7" in answers[4]
    assert message in answers[4]
    assert storage.verify(store_path).bad_views == [4, 5, 6, 7]
    assert readable(store_path, "record", [5])[5][:5] != "error"


def test_shards_of_another_store_or_place_are_refused(tmp_path: Path, store_path: Path, make_spec, write):
    """Even where lengths and index agree: all arrays here compress to the same."""
    def zeros(path: Path, **identity: object) -> None:
        spec = make_spec(8, 4, **identity)
        writer = storage.create_store(path, spec)
        write(writer, {array.name: np.zeros((8, *array.shape), array.code_dtype) for array in spec.arrays})
        writer.finish()

    for source in ("other/heatmap/c.1.0.0.0", "mine/heatmap/c.0.0.0.0"):
        zeros(tmp_path / "mine")
        zeros(tmp_path / "other", seed=1)
        shutil.copy(tmp_path / source, tmp_path / "mine" / HEATMAP.format(1))
        with pytest.raises(CorruptStore, match="views 4 to 7 belongs to another store"):
            storage.open_store(tmp_path / "mine").read("heatmap", [6])
        assert storage.verify(tmp_path / "mine").bad_views == [4, 5, 6, 7]
        shutil.rmtree(tmp_path / "mine")
        shutil.rmtree(tmp_path / "other")


def test_files_that_do_not_belong_are_named(store_path: Path):
    (store_path / "heatmap/c.3.0.0.0.partial").write_bytes(b"x")
    (store_path / "notes.txt").write_text("x")
    problems = storage.verify(store_path).problems
    assert len(problems) == 2
    assert all("does not belong" in problem for problem in problems)
    assert len(storage.open_store(store_path)) == 11


@pytest.mark.parametrize("name", ["zarr.json", "record/zarr.json"])
def test_missing_metadata_refuses_the_store(store_path: Path, name: str):
    (store_path / name).unlink()
    with pytest.raises(CorruptStore, match=rf"{name}: is missing"):
        storage.open_store(store_path)
    assert not storage.verify(store_path).ok


def test_an_edited_manifest_is_refused(store_path: Path):
    file = store_path / "manifest.json"
    text = file.read_text()
    for edited in (text.replace("resnet50", "resnet51"), text.replace('"views": 11', '"views": 12'), text + " ",
                   text.replace("\n", " "), json.dumps(json.loads(text)), text[:-10], "[]", "3", "", "{" * 10**5):
        file.write_text(edited)
        with pytest.raises(CorruptStore, match=r"manifest\.json"):
            storage.open_store(store_path)
        assert not storage.verify(store_path).ok


@pytest.mark.parametrize("change", [{"version": 2}, {"version": "1"}, {"format": "pictures"}])
def test_another_format_is_refused_with_what_to_do(store_path: Path, change: dict):
    edit_manifest(store_path, lambda content: content.update(change))
    with pytest.raises(FormatError, match="this program reads 1; update it, or write the store anew"):
        storage.open_store(store_path)
    with pytest.raises(FormatError):
        storage.create_store(store_path, StoreSpec((ArraySpec("x", (), "uint8"),), 1, 1, {}))


@pytest.mark.parametrize("edit", [
    lambda content: content["spec"].update(views=12),
    lambda content: content["spec"]["arrays"][0].update(name="../../etc"),
    lambda content: content["spec"]["arrays"][0].update(name="a/b"),
    lambda content: content["spec"]["arrays"][0].update(shape=[10**6, 10**6]),
    lambda content: content["spec"]["arrays"][0].update(shape=[-1]),
    lambda content: content["spec"]["arrays"][0].update(encoding="pickle"),
    lambda content: content["spec"].update(shard_views=2**60),
    lambda content: content["spec"].update(identity={"teacher": "forged"}),
    lambda content: content.pop("spec"),
    lambda content: content.update(spec=3),
    lambda content: content.update(fingerprint="0" * 64),
    lambda content: content["shards"].pop(),
    lambda content: content["shards"][0].pop("origin"),
    lambda content: content["shards"][0]["arrays"].pop("record"),
    lambda content: content["shards"][0]["arrays"]["record"].update(bytes="many"),
    lambda content: content["shards"][0].update(arrays=[]),
    lambda content: content.update(shards=None),
    lambda content: content["files"].pop("zarr.json"),
    lambda content: content["files"].update({"../../secret": {"bytes": 1, "sha256": "x"}}),
    lambda content: content["files"].update({"zarr.json": 3}),
    lambda content: content["counts"].update(views=3),
])
def test_a_manifest_made_to_hurt_is_refused(store_path: Path, edit):
    edit_manifest(store_path, edit)
    with pytest.raises(CorruptStore, match=r"manifest\.json|zarr\.json"):
        storage.open_store(store_path)
    assert not storage.verify(store_path).ok


def craft_index(path: Path, shard: int, edit: Callable[[np.ndarray], None], shard_views: int = 4) -> None:
    """Change a shard's index and make every checksum right again."""
    file, tail = path / HEATMAP.format(shard), shard_views * 16
    data = file.read_bytes()
    index = np.frombuffer(data[-tail - 4:-4], "<u8").reshape(shard_views, 2).copy()
    edit(index)
    body = data[:-tail - 4] + index.tobytes()
    file.write_bytes(body + struct.pack("<I", crc32c(index.tobytes())))
    edit_manifest(path, lambda content: content["shards"][shard]["arrays"]["heatmap"].update(
        bytes=file.stat().st_size, crc32c=crc32c(file.read_bytes())))


def _set(row: int, column: int, value: int) -> Callable[[np.ndarray], None]:
    def edit(index: np.ndarray) -> None:
        index[row, column] = np.uint64(value)
    return edit


@pytest.mark.parametrize("edit", [
    _set(0, 0, 2**64 - 5), _set(0, 0, 2**63), _set(2, 0, 10**6), _set(0, 0, 0), _set(0, 1, 2**64 - 10),
    _set(0, 1, 10**6), _set(3, 1, 900), _set(0, 1, 2**33), lambda index: index.__setitem__(1, index[0]),
    lambda index: index.__setitem__(slice(None), 2**64 - 1), lambda index: index.__setitem__(2, 2**64 - 1),
])
def test_an_index_made_to_hurt_is_refused(store_path: Path, edit):
    craft_index(store_path, 0, edit)
    with pytest.raises(CorruptStore, match="views 0 to 3 has an index"):
        storage.open_store(store_path).read("heatmap", [0])
    assert not storage.verify(store_path).ok


def test_views_beyond_the_end_are_refused(store_path: Path):
    craft_index(store_path, 2, lambda index: index.__setitem__(3, index[0]))
    with pytest.raises(CorruptStore, match="views 8 to 10 has an index"):
        storage.open_store(store_path).read("heatmap", [8])


@pytest.mark.parametrize("nbytes", [0, 3, 4, 10])
def test_chunks_too_short_to_be_any_are_refused(store_path: Path, nbytes: int):
    craft_index(store_path, 0, _set(1, 1, nbytes))
    with pytest.raises(CorruptStore, match="view 1 "):
        storage.open_store(store_path).read("heatmap", [1])


def test_a_compression_bomb_stays_small(tmp_path: Path):
    """A chunk that claims to unpack to far more than a view is refused before it does."""
    from storage.compressors import LZ4_BITSHUFFLE

    spec = StoreSpec((ArraySpec("heatmap", (64, 1, 1), "uint8"),), 1, 1, {})
    writer = storage.create_store(tmp_path / "s", spec)
    bomb = LZ4_BITSHUFFLE.compress(np.zeros(200_000_000, np.uint8))[:1000]
    with writer.claim(0) as claim:
        claim._files["heatmap"].append(0, bomb)
        claim._count = 1
    writer.finish()
    tracemalloc.start()
    with pytest.raises(CorruptStore, match="claims 200000000 bytes"):
        storage.open_store(tmp_path / "s").read("heatmap", [0])
    assert not storage.verify(tmp_path / "s").ok
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
