"""Writers that die, run side by side, or run out of disk."""

import errno
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import storage
from storage import ArraySpec, CorruptStore, FormatError, IncompleteStore, StoreError, files, writer
from storage import manifest as manifests
from storage.manifest import render
from storage.spec import BACKENDS

SCRIPT = Path(__file__).with_name("writer_process.py")
VIEWS, SHARD_VIEWS = 24, 2  # of what that script writes


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": os.getcwd()})


def test_a_crash_at_any_call_is_resumed_to_the_same_bytes(tmp_path: Path):
    out, _ = (process := start("crash", tmp_path)).communicate()
    assert process.returncode == 0
    assert int(out) > 40  # so many places there were to die


def test_kill_9_repeats_nothing_but_the_open_shard(tmp_path: Path):
    random.seed(0)
    finished: list[str] = []
    for _ in range(3):
        process = start("write", tmp_path / "s")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0, 0.12))
        process.kill()
        finished += process.stdout.read().split()
        process.wait()
        process.stdout.close()
    out, _ = start("write", tmp_path / "s").communicate()
    finished += out.split()[1:]
    # A shard may have been finished and not yet printed; none is printed twice.
    assert len(finished) == len(set(finished))
    assert storage.verify(tmp_path / "s").ok


def test_writers_side_by_side_share_the_shards(tmp_path: Path):
    processes = [start("write", tmp_path / "s") for _ in range(2)]
    shards = [process.communicate()[0].split()[1:] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(int(shard) for each in shards for shard in each) == list(range(12))
    assert storage.verify(tmp_path / "s").ok


def test_an_orphan_keeps_its_shard_and_a_dead_writer_does_not(tmp_path: Path, make_spec):
    process = start("hold", tmp_path / "s", 3)
    assert process.stdout is not None
    parent, child = map(int, process.stdout.readline().split())
    writer = storage.create_store(tmp_path / "s", make_spec(24, 2))
    try:
        assert writer.claim(3) is None
        os.kill(parent, signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # its loader worker lives on, and does not hold the shard
        assert writer.claim(3) is not None
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path, spec, rows, write,
                                                     monkeypatch: pytest.MonkeyPatch):
    """The disk is full at the n-th write, for every n, and has room again afterwards."""
    real = os.write
    for limit in range(0, 60, 2):
        left = [limit]

        def full(fd: int, data: bytes, left: list[int] = left) -> int:
            left[0] -= 1
            if left[0] < 0:
                if left[0] == -1 and len(data) > 1:
                    return real(fd, data[:len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data)

        path = tmp_path / f"s{limit}"
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            write(storage.create_store(path, spec), rows)
        monkeypatch.setattr(os, "write", real)
        assert not list(path.rglob("*.partial"))
        with pytest.raises(IncompleteStore):
            storage.open_store(path)
        writer = storage.create_store(path, spec)
        write(writer, rows)
        writer.finish()
        assert storage.verify(path).ok, storage.verify(path).problems


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=False,
                             capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine lets us mount no tmpfs")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)  # an error may still hold a journal


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_disk_names_the_file_that_did_not_fit(small_disk: Path, make_spec, make_rows, write):
    spec = make_spec(1000, 200)
    with pytest.raises(OSError, match=r"No space left.*partial") as caught:
        write(storage.create_store(small_disk / "s", spec), make_rows(spec))
    assert caught.value.errno == errno.ENOSPC
    assert not list(small_disk.rglob("*.partial"))


def test_a_read_only_disk_names_what_cannot_be_written(small_disk: Path, spec, rows, write):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match=rf"Read-only file system.*{small_disk}"):
        storage.create_store(small_disk / "s", spec)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    writer = storage.create_store(small_disk / "s", spec)
    write(writer, rows, [0])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=False)
    with pytest.raises(IncompleteStore, match="1 of 3 shards"):
        storage.open_store(small_disk / "s")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    write(writer, rows)
    writer.finish()
    assert storage.verify(small_disk / "s").ok


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_journal_says_is_on_the_disk(tmp_path: Path, make_spec, make_rows, write,
                                            monkeypatch: pytest.MonkeyPatch):
    """A shard is synced whole, renamed, its folder synced; then comes the line, and its fsync last of all."""
    path, spec, events, real = tmp_path / "s", make_spec(), [], os.replace

    def note(kind: str, file: Path) -> None:
        said = any(b'"shard":1}' in journal.read_bytes() for journal in path.glob(".writing/journal-*"))
        events.append((kind, file, file.read_bytes() if file.is_file() else b"", said))

    def replace(source: Path, target: Path) -> None:
        note("rename", Path(source))
        real(source, target)

    writer = storage.create_store(path, spec)
    monkeypatch.setattr(os, "fsync", lambda fd: note("fsync", Path(os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(os, "replace", replace)
    write(writer, make_rows(spec), [1])
    synced = [(number, file, content) for number, (kind, file, content, _) in enumerate(events) if kind == "fsync"]
    renamed = [(number, file, content) for number, (kind, file, content, _) in enumerate(events) if kind == "rename"]
    assert len(renamed) == len(spec.arrays)
    for number, partial, content in renamed:
        before = [at for at, file, _ in synced if file == partial and at < number]
        assert before, f"{partial} was renamed unsynced"
        assert events[before[-1]][2] == content
        folder = path / partial.name.partition(".")[0]
        assert [at for at, file, _ in synced if file == folder and at > number]
    assert [said for *_, said in events] == [False] * (len(events) - 1) + [True]
    kind, file, content, _ = events[-1]
    assert (kind, file.name[:8]) == ("fsync", "journal-")
    assert b'"shard":1}' in content


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_writers_write_while_eight_readers_read(tmp_path: Path, make_spec, make_rows, write, backend: str):
    spec = make_spec(VIEWS, SHARD_VIEWS)
    writer = storage.create_store(tmp_path / "old", spec)
    write(writer, make_rows(spec))
    writer.finish()
    readers = [start("read", tmp_path / "old", tmp_path / "new", seed, backend) for seed in range(8)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    writers = [start("write", tmp_path / "new", backend) for _ in range(2)]
    assert [process.wait(60) for process in writers] == [0, 0]
    said = [process.communicate(timeout=60)[0] for process in readers]
    assert [process.returncode for process in readers] == [0] * 8
    assert all(int(batches) > 0 for batches in said)
    assert sum(len(process.communicate()[0].split()) - 1 for process in writers) == spec.shards
    assert storage.verify(tmp_path / "new").ok


def test_leftovers_of_a_killed_writer_are_gone_at_the_end(tmp_path: Path, spec, rows, write):
    writer = storage.create_store(tmp_path / "s", spec)
    (tmp_path / "s/.writing/heatmap.c.0.0.0.0.partial").write_bytes(b"x" * 10**5)
    (tmp_path / "s/.writing/manifest.json.1.partial").write_bytes(b"{")
    write(writer, rows)
    writer.finish()
    assert storage.verify(tmp_path / "s").ok
    assert not list((tmp_path / "s").rglob(".*"))


@pytest.mark.parametrize("left", [".writing", ".writing-0123abcd"])
def test_a_writer_that_died_before_it_had_tidied_up(store_path: Path, spec, left: str):
    (store_path / left).mkdir()
    (store_path / left / "journal-x").write_bytes(b"x")
    assert storage.verify(store_path).problems == []
    assert storage.create_store(store_path, spec).complete
    assert not list(store_path.glob(".*"))


@pytest.mark.parametrize("use", [
    lambda late: late.finish(), lambda late: late.claim(0), lambda late: storage.create_store(late.path, late.spec)],
    ids=["finish", "claim", "create_store"])
def test_a_writer_that_comes_while_another_tidies_up_leaves_nothing(tmp_path: Path, spec, rows, write, use,
                                                                    monkeypatch: pytest.MonkeyPatch):
    """Between the last file of the folder and the folder itself."""
    writer, late = (storage.create_store(tmp_path / "s", spec) for _ in range(2))
    write(writer, rows)
    real, came = os.rmdir, []

    def rmdir(*arguments, **named) -> None:
        if not came:
            came.append(True)
            use(late)
        real(*arguments, **named)

    monkeypatch.setattr(os, "rmdir", rmdir)
    writer.finish()
    assert came
    assert storage.verify(tmp_path / "s").problems == []
    assert not list((tmp_path / "s").glob(".*"))


@pytest.mark.parametrize("damage", [b"", b"\n00000000 {}", b"\xff\n\n", b"\nnonsense"])
def test_damaged_journal_lines_cost_work_not_truth(tmp_path: Path, spec, rows, write, damage: bytes):
    write(storage.create_store(tmp_path / "s", spec), rows, [0, 1])
    [journal] = (tmp_path / "s/.writing").glob("journal-*")
    lines = journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([lines[1], damage, lines[2][:-3]]))
    writer = storage.create_store(tmp_path / "s", spec)
    assert writer.pending() == [1, 2]
    write(writer, rows)
    writer.finish()
    assert storage.verify(tmp_path / "s").ok


def test_a_finished_shard_that_vanished_is_written_again(tmp_path: Path, spec, rows, write):
    write(storage.create_store(tmp_path / "s", spec), rows)
    (tmp_path / "s/peaks/c.1.0.0").unlink()
    os.truncate(tmp_path / "s/record/c.0.0", 50)
    writer = storage.create_store(tmp_path / "s", spec)
    assert writer.pending() == [0, 1]
    with pytest.raises(IncompleteStore, match="2 of 3 shards"):
        writer.finish()


@pytest.mark.parametrize("names", ["01", "10"])
@pytest.mark.parametrize("again", [lambda codes: codes * 0, lambda codes: codes + 1], ids=["shorter", "as long"])
def test_of_a_shard_that_was_written_again_the_latest_record_counts(
        tmp_path: Path, write, monkeypatch: pytest.MonkeyPatch, again, names: str):
    """Whatever the journals are called."""
    spec = storage.StoreSpec((ArraySpec("record", (8,), "int64"),), 8, 4, {})
    rows = {"record": np.random.default_rng(0).integers(-2**60, 2**60, (8, 8))}
    left = iter(names)
    monkeypatch.setattr("secrets.token_hex", lambda _: next(left))
    write(storage.create_store(tmp_path / "s", spec), rows)
    (tmp_path / "s/record/c.0.0").unlink()
    rows["record"][:4] = again(rows["record"][:4])
    writer = storage.create_store(tmp_path / "s", spec)
    write(writer, rows)
    writer.finish()
    assert storage.verify(tmp_path / "s").problems == []
    assert np.array_equal(storage.open_store(tmp_path / "s").read("record", range(8)), rows["record"])


def test_other_shard_sizes_and_notes_do_not_part_ways(tmp_path: Path, spec, make_spec, rows, write):
    write(storage.create_store(tmp_path / "s", spec), rows, [0])
    writer = storage.create_store(tmp_path / "s", make_spec(shard_views=3))
    assert writer.spec.shard_views == 4  # the store's
    write(writer, rows)
    writer.finish()
    assert np.array_equal(storage.open_store(tmp_path / "s").read("record", range(11)), rows["record"])


@pytest.mark.parametrize("make", [
    lambda path: path.write_text("x"),
    lambda path: (path.mkdir(), (path / "thesis.tex").write_text("x")),
])
def test_what_is_no_store_is_left_alone(tmp_path: Path, spec, make):
    make(tmp_path / "s")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="something else than a store"):
        storage.create_store(tmp_path / "s", spec)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unfinished_store_that_cannot_be_continued(tmp_path: Path, spec):
    storage.create_store(tmp_path / "s", spec)
    begun = tmp_path / "s/.writing/spec.json"
    begun.write_bytes(render({"format": "centernet-distill store", "version": 99, "spec": {}}))
    with pytest.raises(FormatError, match="version is 99"):
        storage.create_store(tmp_path / "s", spec)
    begun.write_bytes(b"{")
    for use in (lambda: storage.create_store(tmp_path / "s", spec), lambda: storage.open_store(tmp_path / "s")):
        with pytest.raises(CorruptStore, match=r"spec\.json.*write the store anew"):
            use()


def test_a_store_whose_manifest_could_not_be_read_is_not_begun(tmp_path: Path, make_spec):
    with pytest.raises(StoreError, match=r"cannot list 400,000 files of 1 views each; choose a larger shard_views"):
        storage.create_store(tmp_path / "s", make_spec(100_000, 1))
    assert not (tmp_path / "s/.writing/spec.json").exists()
    storage.create_store(tmp_path / "s", make_spec(100_000, 20))


@pytest.mark.parametrize(("name", "arrays"), [("n" * 64, 1), ("heatmap", 4)])
def test_a_manifest_needs_no_more_than_is_kept_free_for_it(name: str, arrays: int):
    spec = storage.StoreSpec(tuple(ArraySpec(f"{name[:-1]}{number}", (), "uint8") for number in range(arrays)), 1000, 1,
                             {})
    entry = {"bytes": 2**48, "sha256": "f" * 64}
    shards = [{"arrays": {array.name: entry for array in spec.arrays}, "content": "f" * 64, "errors": {}}] * spec.shards
    content = manifests.build(spec, shards, {}, {})
    assert len(manifests.render(content)) < 2000 + 1000 * arrays * manifests.ENTRY_BYTES


def test_a_file_system_without_locks_says_so(tmp_path: Path, spec, monkeypatch: pytest.MonkeyPatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(StoreError, match="no locks"):
        storage.create_store(tmp_path / "s", spec)


def test_memory_does_not_grow_with_the_shard(tmp_path: Path):
    """What a claim keeps of 64 views is their index alone."""
    import tracemalloc

    array = storage.ArraySpec("x", (100_000,), "uint8")
    noise = np.random.default_rng(0).integers(0, 256, 100_000).astype(np.uint8)
    writer = storage.create_store(tmp_path / "s", storage.StoreSpec((array,), 64, 64, {}))
    tracemalloc.start()
    with writer.claim(0) as claim:
        for _ in claim.views:
            claim.append({"x": noise})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_cost_of_a_shard_is_its_share_of_the_processes_of_that_time(tmp_path: Path, spec, rows,
                                                                       monkeypatch: pytest.MonkeyPatch):
    """Begun by four processes, resumed by one."""
    clock = iter(range(0, 10**6, 12))  # a shard takes 12 s
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for shard, processes in enumerate((4, 4, 1)):
        with storage.create_store(tmp_path / "s", spec).claim(shard, processes=processes) as claim:
            for view in claim.views:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()})
    manifest = storage.create_store(tmp_path / "s", spec).finish(processes=1)
    assert (manifest["created"]["shard_seconds"], storage.seconds_to_make(manifest)) == (36, 3 + 3 + 12)


def test_an_error_that_was_not_measured_of_every_view_is_not_known(tmp_path: Path, spec, rows):
    writer = storage.create_store(tmp_path / "s", spec)
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            for view in claim.views:
                measured = {"peaks": 0.0} if view == 5 else {"heatmap": 1e-4, "peaks": 0.0}
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()}, measured)
    arrays = writer.finish()["arrays"]
    assert (arrays["heatmap"]["error"]["measured"], arrays["peaks"]["error"]["measured"]) == (None, 0.0)


def test_contents_that_are_not_those_of_the_codes_are_named(store_path: Path):
    """What was made from a store, and a student's fingerprint, rest on them."""
    content = manifests.parse((store_path / "manifest.json").read_bytes())
    content["shards"][1]["content"] = "0" * 64
    (store_path / "manifest.json").write_bytes(render(content))
    report = storage.verify(store_path)
    assert report.problems == [f"{store_path}: the content of shard 1 is not what the manifest says"]
    assert report.bad_views == []


def test_a_claim_looks_at_its_own_shard_alone(tmp_path: Path, make_spec, make_rows, write,
                                              monkeypatch: pytest.MonkeyPatch):
    """However many others are finished: or many small shards would take quadratic time."""
    spec, looks, real = make_spec(60, 1), [0], os.stat
    writer = storage.create_store(tmp_path / "s", spec)

    def stat(*arguments, **named):
        looks[0] += 1
        return real(*arguments, **named)

    monkeypatch.setattr(os, "stat", stat)
    counts = []
    for shard in (58, 59):
        looks[0] = 0
        claim = writer.claim(shard)
        counts.append(looks[0])
        assert claim is not None
        write(writer, make_rows(spec), list(range(58)) if shard == 58 else [])
    assert counts[0] == counts[1] > 0


def test_a_store_that_another_finishes_meanwhile_has_nothing_to_claim(tmp_path: Path, spec, rows, write,
                                                                      monkeypatch: pytest.MonkeyPatch):
    mine, other = (storage.create_store(tmp_path / "s", spec) for _ in range(2))
    is_finished = writer.is_finished

    def late(*arguments: object) -> bool:
        monkeypatch.undo()
        write(other, rows)
        other.finish()  # which takes the journals away
        return is_finished(*arguments)

    monkeypatch.setattr(writer, "is_finished", late)
    lock = mine._lock
    monkeypatch.setattr(mine, "_lock", lambda name, wait: lock(f"of-mine-{name}", wait=wait))  # or `other` has to wait
    assert mine.claim(0) is None


def test_a_shard_file_that_cannot_be_made_leaves_no_noise(tmp_path: Path, spec):
    claim = storage.create_store(tmp_path / "s", spec).claim(0)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(FileNotFoundError), claim:
        pass
    gc.collect()  # what cannot be raised in it is a warning, and that an error


def test_claims_are_for_shards_that_exist(tmp_path: Path, spec):
    with pytest.raises(IndexError, match="shard 3 is not one of 3"):
        storage.create_store(tmp_path / "s", spec).claim(3)
