"""Damage to a finished store: every bit of it is noticed, and no read is wrong, missing or stale in silence."""

import json
import os
import random
import shutil

import numpy as np
import pytest

import storage
from storage import ArraySpec, CorruptStore, FormatError, StoreError, StoreSpec
from storage.shards import TAG_BYTES

ARRAYS = ("heatmap", "wh_offset", "record", "scale")


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def read_each(path, array, views=range(11)):
    """What each view says when it is read alone: its bytes, or the error."""
    store, answers = storage.open_store(path), {}
    for view in views:
        try:
            answers[view] = store.read(array, [view]).tobytes()
        except CorruptStore as error:
            answers[view] = str(error)
    return answers


def unreadable(answers):
    return [view for view, answer in answers.items() if isinstance(answer, str)]


def zarr_views(file, bit, views):
    """The views of a shard of four slots that hold a bit of it."""
    data = file.read_bytes()
    index = np.frombuffer(data[-4 * 16 - 4:-4], "<u8").reshape(4, 2)[:len(views)]
    return [view for view, (start, size) in zip(views, index, strict=True) if start <= bit // 8 < start + size] or views


def test_every_flipped_bit_is_found_and_none_is_read(store_path, shard_file, spec, rows, times, counted):
    random.seed(1)
    files = sorted(file for file in store_path.rglob("*") if file.is_file())
    shards = {shard_file(store_path, array, shard): (array, spec.shard_range(shard))
              for array in ARRAYS for shard in range(3)}
    with counted(f"one flipped bit in a {spec.backend} store, found by verify, never read") as tally:
        # As likely in small files as in large ones, or the metadata would hardly be hit.
        for file in random.choices(files, k=times(40, 200)):
            tally.times += 1
            bit = random.randrange(file.stat().st_size * 8)
            hit = zarr_views(file, bit, shards[file][1]) if spec.backend == "zarr" and file in shards else []
            flip(file, bit)
            report = storage.verify(store_path)
            assert not report.ok, f"bit {bit} of {file}"
            assert any(file.name in problem for problem in report.problems)
            if file in shards:
                array, views = shards[file]
                answers = read_each(store_path, array)
                bad = unreadable(answers)
                assert bad == report.bad_views
                assert set(bad) <= set(views)
                assert not hit or bad == list(hit)
                for view, answer in answers.items():
                    if view in bad:
                        assert f"view {view} " in answer or f"views {views.start} to {views[-1]} " in answer
                        assert str(file) in answer
                    else:
                        assert answer == rows[array][view].tobytes()
                others = [array for array in ARRAYS if array != shards[file][0]]
                assert not any(unreadable(read_each(store_path, array)) for array in others)
            else:
                with pytest.raises(StoreError, match=file.name):
                    storage.open_store(store_path)
            flip(file, bit)
            tally.right += 1
    assert storage.verify(store_path).ok


@pytest.mark.parametrize("backend", ["zarr"])
def test_a_damaged_view_is_named_and_the_others_are_read(store_path, shard_file):
    flip(shard_file(store_path, "wh_offset", 1), (TAG_BYTES + 200) * 8)
    answers = read_each(store_path, "wh_offset")
    assert unreadable(answers) == [4]
    assert "view 4 fails its checksum" in answers[4]
    report = storage.verify(store_path)
    assert report.bad_views == [4]
    assert len(report.problems) == 1
    with pytest.raises(CorruptStore, match=r"wh_offset/c\.1.*view 4 "):
        storage.open_store(store_path).read("wh_offset", [0, 4])


def test_a_sound_store_is_reported_as_such(store_path, shard_file, spec):
    report = storage.verify(store_path)
    assert report.ok
    assert (report.views, report.fingerprint) == (11, spec.fingerprint)
    assert report.bytes == sum(shard_file(store_path, array, shard).stat().st_size
                               for array in ARRAYS for shard in range(3))


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.unlink(), "is missing"),
    (lambda file: file.write_bytes(b""), "has 0 bytes, expected"),
    (lambda file: os.truncate(file, file.stat().st_size - 1), "bytes, expected"),
    (lambda file: file.write_bytes(file.read_bytes() + b"\0"), "bytes, expected"),
    (lambda file: file.write_bytes(bytes(file.stat().st_size)), "another store|is damaged"),
    (lambda file: (file.unlink(), file.mkdir()), "bytes, expected|is damaged|director"),
], ids=["missing", "empty", "truncated", "longer", "zeros", "folder"])
def test_shards_that_are_not_whole_name_their_views(store_path, shard_file, damage, message):
    damage(shard_file(store_path, "heatmap", 1))
    answers = read_each(store_path, "heatmap")
    assert unreadable(answers) == [4, 5, 6, 7]
    assert "views 4 to 7" in answers[4]
    with pytest.raises(CorruptStore, match=message):
        storage.open_store(store_path).read("heatmap", [4])
    assert storage.verify(store_path).bad_views == [4, 5, 6, 7]
    assert not unreadable(read_each(store_path, "record"))


def test_zeros_are_a_view_and_a_missing_shard_is_none(store_path, shard_file):
    """To other Zarr clients both are zeros."""
    for array in ARRAYS:
        assert not storage.open_store(store_path).read(array, [1]).any()
    assert storage.verify(store_path).ok
    shard_file(store_path, "heatmap", 0).unlink()
    with pytest.raises(CorruptStore, match="views 0 to 3 is missing"):
        storage.open_store(store_path).read("heatmap", [1])


@pytest.mark.parametrize("source", [("other", 1), ("mine", 0)], ids=["another store's", "another place's"])
def test_shards_of_another_store_or_place_are_refused(tmp_path, make_spec, write_store, shard_file, backend, source):
    """Even where lengths and index agree: all arrays here compress to the same."""
    for name in ("mine", "other"):
        spec = make_spec(8, 4, backend, name=name)
        zeros = {array.name: np.zeros((8, *array.shape), array.code_dtype) for array in spec.arrays}
        write_store(tmp_path / name, spec, zeros)
    shutil.copy(shard_file(tmp_path / source[0], "heatmap", source[1]), shard_file(tmp_path / "mine", "heatmap", 1))
    with pytest.raises(CorruptStore, match="views 4 to 7 belongs to another store"):
        storage.open_store(tmp_path / "mine").read("heatmap", [6])
    assert storage.verify(tmp_path / "mine").bad_views == [4, 5, 6, 7]


def swap_first_chunks(file):
    """Views 0 and 1 of a shard of `record`, whose chunks are of one length."""
    data = file.read_bytes()
    (first, size), (second, other) = np.frombuffer(data[-4 * 16 - 4:-4], "<u8").reshape(4, 2)[:2].tolist()
    assert (first, second, other) == (TAG_BYTES, TAG_BYTES + size, size)
    file.write_bytes(data[:first] + data[second:second + size] + data[first:second] + data[second + size:])


@pytest.mark.parametrize("backend", ["zarr"])
@pytest.mark.parametrize("source", ["swapped", "another dump"])
def test_sound_chunks_that_are_not_what_was_written_are_found(tmp_path, make_spec, write_store, shard_file, source):
    """Each chunk has its crc32c behind it, so a crc32c of the whole file would be the same."""
    spec, random = make_spec(8, 4), np.random.default_rng(0)
    for name in ("mine", "another"):
        rows = {array.name: np.zeros((8, *array.shape), array.code_dtype) for array in spec.arrays}
        write_store(tmp_path / name, spec, {**rows, "record": random.integers(-2**60, 2**60, rows["record"].shape)})
    file = shard_file(tmp_path / "mine", "record", 0)
    if source == "swapped":
        swap_first_chunks(file)
    else:
        shutil.copy(shard_file(tmp_path / "another", "record", 0), file)
    report = storage.verify(tmp_path / "mine")
    assert report.problems == [
        f"{file}: the shard of views 0 to 3 has a wrong checksum, that of every view is right"]


def test_files_that_do_not_belong_are_named(store_path, shard_file):
    strangers = [shard_file(store_path, "heatmap", 3), store_path / "notes.txt",
                 shard_file(store_path, "scale", 0).with_suffix(".partial")]
    for file in strangers:
        file.write_bytes(b"x")
    problems = storage.verify(store_path).problems
    assert len(problems) == 3
    for file in strangers:
        assert any(str(file) in problem and "does not belong" in problem for problem in problems)
    assert len(storage.open_store(store_path)) == 11


@pytest.mark.parametrize("backend", ["zarr"])
@pytest.mark.parametrize("name", ["zarr.json", "record/zarr.json"])
def test_missing_metadata_refuses_the_store(store_path, name):
    (store_path / name).unlink()
    with pytest.raises(CorruptStore, match=rf"{name}: is missing"):
        storage.open_store(store_path)
    assert not storage.verify(store_path).ok


def test_an_edited_manifest_is_refused(store_path):
    file = store_path / "manifest.json"
    text = file.read_text()
    for edited in (text.replace("resnet50", "resnet51"), text.replace('"views": 11', '"views": 12'), text + " ",
                   text.replace("\n", " "), json.dumps(json.loads(text)), text[:-10], "[]", "3", "", "{" * 10**5):
        file.write_text(edited)
        with pytest.raises(CorruptStore, match=r"manifest\.json"):
            storage.open_store(store_path)
        assert not storage.verify(store_path).ok


def test_a_manifest_of_another_store_is_refused(tmp_path, store_path, make_spec, make_rows, write_store, backend):
    spec = make_spec(backend=backend, seed=1)
    other = write_store(tmp_path / "other", spec, make_rows(spec, seed=1))
    shutil.copy(other / "manifest.json", store_path / "manifest.json")
    report = storage.verify(store_path)
    assert report.bad_views == list(range(11))
    with pytest.raises(CorruptStore):
        storage.open_store(store_path).read("heatmap", [0])


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 4}, {"version": "3"}, {"format": "pictures"}])
def test_another_format_is_refused_with_what_to_do(store_path, edit_manifest, change):
    edit_manifest(store_path, lambda content: content.update(change))
    with pytest.raises(FormatError, match="reads 3; use the program that wrote it, or write the store anew"):
        storage.open_store(store_path)
    with pytest.raises(FormatError):
        storage.create_store(store_path, StoreSpec((ArraySpec("x", (), "uint8"),), 1, 1, {}))
