"""What every store does, whatever holds its bytes. A backend adds its fixtures and nothing else."""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage
from storage import FingerprintMismatch, IncompleteStore, Store, StoreError, StoreSpec, StoreWriter

Create = Callable[[Path, StoreSpec], StoreWriter]
Open = Callable[..., Store]
Address = Callable[[Path], Path | str]


def _read_sum(store: Store, views: list[int], results: "multiprocessing.Queue[float]") -> None:
    results.put(float(store.read("heatmap", views).astype(np.float64).sum()))


class ReaderContract:
    """A subclass of a local backend names it in the fixture `backend`; one of stores elsewhere has an `address`."""

    @pytest.fixture
    def create(self) -> Create:
        return storage.create_store

    @pytest.fixture
    def address(self) -> Address:
        """What a store that was written to a folder is opened by."""
        return lambda location: location

    @pytest.fixture
    def open(self, address: Address) -> Open:
        return lambda location, **options: storage.open_store(address(location), **options)

    @pytest.fixture
    def unfinished(self) -> tuple[str, str]:
        """What is said where there is no store, and where two of three shards are written."""
        return "there is no store", "2 of 3 shards"

    @pytest.fixture
    def location(self, tmp_path: Path) -> Path:
        return tmp_path / "store"

    @pytest.fixture
    def store(self, location: Path, create: Create, open: Open, spec, rows, write) -> Store:
        writer = create(location, spec)
        write(writer, rows)
        writer.finish(cost={"seconds": 2})
        return open(location)

    def test_the_content_is_that_of_the_codes(self, store: Store, tmp_path: Path, create: Create, open: Open, spec,
                                              rows, write):
        other = {name: codes[::-1].copy() for name, codes in rows.items()}
        for name, codes, views in (("same", rows, spec.shard_views), ("shards", rows, 3), ("other", other, 3)):
            write(writer := create(tmp_path / name, replace(spec, shard_views=views)), codes)
            writer.finish(cost={"seconds": 3})
            assert open(tmp_path / name).fingerprint == store.fingerprint
            assert (open(tmp_path / name).content == store.content) == (name != "other")

    def test_reads_back_what_was_written(self, store: Store, spec, rows):
        assert len(store) == spec.views
        assert store.spec == spec
        for name, codes in rows.items():
            read = store.read(name, range(spec.views))
            assert read.dtype == spec[name].code_dtype
            assert np.array_equal(read, codes)

    def test_keeps_the_order_and_repeats(self, store: Store, rows):
        views = [10, 0, 7, 7, 1, 10]
        assert np.array_equal(store.read("heatmap", views), rows["heatmap"][views])
        assert np.array_equal(store.read("record", np.array(views, np.uint8)), rows["record"][views])

    def test_nothing_asked_is_nothing_read(self, store: Store, spec):
        assert store.read("heatmap", []).shape == (0, *spec["heatmap"].shape)

    def test_reads_into_memory_that_is_there(self, store: Store, spec, rows):
        batch = np.full((4, *spec["heatmap"].shape), 9, np.float16)
        assert store.read("heatmap", [3, 2], batch[1:3]) is not None
        assert np.array_equal(batch[1:3], rows["heatmap"][[3, 2]])
        assert (batch[[0, 3]] == 9).all()

    @pytest.mark.parametrize("wrong", [
        np.empty((2, 3, 8, 6), np.float32), np.empty((3, 3, 8, 6), np.float16),
        np.empty((4, 3, 8, 6), np.float16)[::2], np.empty((2, 3, 6, 8), np.float16).swapaxes(2, 3)])
    def test_refuses_memory_of_another_kind(self, store: Store, wrong: np.ndarray):
        with pytest.raises(ValueError, match="expected C-contiguous float16"):
            store.read("heatmap", [0, 1], wrong)

    @pytest.mark.parametrize("views", [[-1], [11], [0, 11], [2**40], [0.0], [[0]], [True]])
    def test_refuses_indices_that_are_none(self, store: Store, views: list):
        with pytest.raises(IndexError):
            store.read("heatmap", views)

    def test_refuses_an_unknown_array(self, store: Store):
        with pytest.raises(StoreError, match="it has heatmap, peaks, record, scale"):
            store.read("features", [0])

    def test_decodes(self, store: Store, rows):
        values = store.decode("heatmap", store.read("heatmap", [4]))
        assert values.dtype == np.float32
        assert np.array_equal(values, rows["heatmap"][[4]].astype(np.float32))

    def test_tells_where_it_comes_from(self, store: Store, spec, location: Path, address: Address):
        assert store.path == address(location)
        assert store.fingerprint == spec.fingerprint == store.manifest["fingerprint"]
        assert store.manifest["counts"]["views"] == spec.views
        assert store.manifest["created"]["cost"] == {"seconds": 2}
        error = {name: array["error"]["measured"] for name, array in store.manifest["arrays"].items()}
        assert error == {"heatmap": 0.0, "peaks": None, "record": 0.0, "scale": 0.0}

    def test_opens_for_the_expected_only(self, store: Store, location: Path, open: Open):
        good = {"teacher": {"weights": "ab"}, "size": [32, 24], "teacher.name": "resnet50"}
        assert len(open(location, expect=good)) == len(store)
        with pytest.raises(FingerprintMismatch) as caught:
            open(location, expect={"teacher": {"weights": "cd"}, "kind": "test", "seed": 3})
        assert 'teacher.weights is "ab", expected "cd"' in str(caught.value)
        assert "seed is absent, expected 3" in str(caught.value)
        assert "kind" not in str(caught.value)

    def test_is_refused_before_it_is_finished(self, location: Path, create: Create, open: Open, address: Address,
                                              unfinished, spec, rows, write):
        with pytest.raises(IncompleteStore, match=unfinished[0]):
            open(location)
        writer = create(location, spec)
        write(writer, rows, [0, 2])
        with pytest.raises(IncompleteStore, match=unfinished[1]):
            open(location)
        with pytest.raises(IncompleteStore, match=r"1 of 3 shards are missing.*: 1"):
            writer.finish()
        assert not storage.verify(address(location)).ok

    def test_is_taken_up_where_it_stopped(self, location: Path, create: Create, open: Open, spec, rows, write):
        write(create(location, spec), rows, [1])
        again = create(location, spec)
        assert again.pending() == [0, 2]
        assert again.claim(1) is None
        assert not again.complete
        write(again, rows)
        again.finish()
        assert np.array_equal(open(location).read("peaks", range(11)), rows["peaks"])

    @settings(max_examples=25, deadline=None, suppress_health_check=[
        HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])  # every backend is one
    @given(data=st.data())
    def test_any_number_of_views_and_shards(self, data, tmp_path_factory, create, open, make_spec, make_rows, write):
        spec = make_spec(data.draw(st.integers(1, 9)), data.draw(st.integers(1, 5)))
        rows, location = make_rows(spec, data.draw(st.integers(0, 99))), tmp_path_factory.mktemp("any") / "s"
        writer = create(location, spec)
        write(writer, rows, data.draw(st.permutations(range(spec.shards))))
        writer.finish()
        views = data.draw(st.lists(st.integers(0, spec.views - 1)))
        for name, codes in rows.items():
            assert np.array_equal(open(location).read(name, views), codes[views])

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_other_processes_read_it_too(self, store: Store, rows, method: str):
        store.read("heatmap", [0, 5])  # so that descriptors are open when the fork comes
        context = multiprocessing.get_context(method)
        results = context.Queue()
        views = [[4, 0, 10], [3], [9, 9]]
        # By value where it is spawned: the module of a test has no name that a child can import.
        arguments = [(store, each, results) for each in views]
        if method == "spawn":
            sums = [float(pickle.loads(_in_new_process(store, each)).astype(np.float64).sum()) for each in views]
        else:
            children = [context.Process(target=_read_sum, args=each) for each in arguments]
            for child in children:
                child.start()
            sums = [results.get(timeout=30) for _ in children]
            for child in children:
                child.join()
        expected = [float(rows["heatmap"][each].astype(np.float64).sum()) for each in views]
        assert sorted(sums) == pytest.approx(sorted(expected))
        assert np.array_equal(store.read("heatmap", [0, 5]), rows["heatmap"][[0, 5]])

    def test_threads_share_it(self, store: Store, rows, monkeypatch: pytest.MonkeyPatch):
        wrong: list[object] = []

        def read(seed: int) -> None:
            random = np.random.default_rng(seed)
            try:
                for _ in range(50):
                    views = random.integers(0, 11, 8)
                    wrong.extend([1] * (not np.array_equal(store.read("heatmap", views), rows["heatmap"][views])))
            except Exception as error:  # a thread's error would be lost
                wrong.append(error)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_few_descriptors_are_enough(self, tmp_path: Path, create: Create, address: Address, make_spec, make_rows,
                                        write):
        spec = make_spec(60, 1)
        rows = make_rows(spec)
        writer = create(tmp_path / "many", spec)
        write(writer, rows)
        writer.finish()
        code = ("import hashlib, resource, sys, storage\n"
                "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
                "stores = [storage.open_store(sys.argv[1]) for _ in range(3)]\n"
                "for name in sys.argv[2:]:\n"
                "    print(*{hashlib.sha256(store.read(name, range(60)).tobytes()).hexdigest() for store in stores})\n")
        found = subprocess.run([sys.executable, "-c", code, str(address(tmp_path / "many")), *rows],
                               capture_output=True, text=True, check=False)
        expected = [hashlib.sha256(np.ascontiguousarray(codes).tobytes()).hexdigest() for codes in rows.values()]
        assert found.stdout.split() == expected, found.stderr

    def test_its_files_are_closed_when_nobody_has_it(self, location: Path, create: Create, open: Open,
                                                     spec, rows, write):
        writer = create(location, spec)
        write(writer, rows)
        writer.finish()
        del writer  # it has a journal
        gc.collect()
        gc.disable()
        try:
            open(location).read("heatmap", range(11))
            assert not [link for link in _open_files() if str(location) in link]
        finally:
            gc.enable()

    def test_a_pickled_store_that_was_replaced_is_refused(self, store: Store, location: Path, create: Create,
                                                          make_spec, make_rows, write):
        pickled = pickle.dumps(store)
        location.rename(location.with_name("old"))
        other = make_spec(seed=1)
        writer = create(location, other)
        write(writer, make_rows(other))
        writer.finish()
        with pytest.raises(FingerprintMismatch, match="replaced while it was in use"):
            pickle.loads(pickled)

    def test_reading_leaves_everything_as_it_is(self, store: Store, location: Path, open: Open, address: Address, rows):
        for each in (location, *location.rglob("*")):
            os.utime(each, (0, 0))
        before = _listing(location)
        assert np.array_equal(open(location).read("heatmap", [3]), rows["heatmap"][[3]])
        assert storage.verify(address(location)).ok
        assert _listing(location) == before


def _listing(folder: Path) -> dict[Path, tuple[int, int]]:
    return {each: (each.stat().st_mtime_ns, each.stat().st_size) for each in (folder, *folder.rglob("*"))}


class WriterContract(ReaderContract):
    """What a backend that writes does too; how its stores are read from elsewhere, or in parts, is no matter."""

    def test_is_never_written_twice(self, store: Store, location: Path, create: Create, spec):
        writer = create(location, spec)
        assert writer.complete
        assert writer.pending() == []
        assert writer.claim(0) is None
        assert writer.finish(cost={"seconds": 99}) == store.manifest

    def test_another_spec_is_refused_by_name(self, store: Store, location: Path, create: Create, make_spec):
        with pytest.raises(FingerprintMismatch, match=r"teacher\.name is \"resnet50\".*views is 11, expected 12"):
            create(location, make_spec(12, teacher={"name": "hourglass", "weights": "ab"}))

    def test_a_shard_has_one_writer(self, location: Path, create: Create, spec, rows, write):
        first, second = create(location, spec), create(location, spec)
        claim = first.claim(0)
        with claim:
            assert second.claim(0) is None
            for view in claim.views:
                claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()})
        assert second.claim(0) is None
        assert second.pending() == [1, 2]

    def test_a_shard_given_up_is_free_again(self, location: Path, create: Create, spec, rows, write):
        writer = create(location, spec)
        with pytest.raises(KeyboardInterrupt), writer.claim(0) as claim:
            claim.append(_Interrupting({name: np.asarray(codes[0]) for name, codes in rows.items()}))
        with pytest.raises(StoreError, match="got 0 of 4 views"), writer.claim(0):
            pass
        assert writer.pending() == [0, 1, 2]
        write(writer, rows)
        writer.finish()
        assert storage.verify(location).ok

    def test_codes_of_another_kind_are_refused(self, location: Path, create: Create, spec, rows):
        good = {name: np.asarray(codes[0]) for name, codes in rows.items()}
        for name, wrong in [("heatmap", good["heatmap"].astype(np.float32)), ("peaks", good["peaks"][:4])]:
            with pytest.raises(StoreError, match=f"{name!r} takes"), create(location, spec).claim(0) as claim:
                claim.append({**good, name: wrong})

    def test_an_error_beyond_the_bound_is_refused(self, location: Path, create: Create, spec, rows):
        good = {name: np.asarray(codes[0]) for name, codes in rows.items()}
        for error in (1e-3, float("nan")):
            with pytest.raises(StoreError, match="view 0 of 'heatmap' is off"), \
                    create(location, spec).claim(0) as claim:
                claim.append(good, {"heatmap": error})

    def test_the_largest_error_is_kept_over_a_resume(self, location: Path, create: Create, spec, rows):
        errors = np.linspace(0, 4e-4, spec.views)[::-1]
        for shard in range(spec.shards):
            with create(location, spec).claim(shard) as claim:
                for view in claim.views:
                    claim.append({name: np.asarray(codes[view]) for name, codes in rows.items()},
                                 {"heatmap": errors[view]})
        manifest = create(location, spec).finish()
        assert manifest["arrays"]["heatmap"]["error"]["measured"] == pytest.approx(4e-4)


def _open_files() -> list[str]:
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return links


class _Interrupting(dict):
    """Codes during which somebody presses Ctrl-C: the first array is written, the second is not."""

    def __getitem__(self, name: str) -> np.ndarray:
        if name == "peaks":
            raise KeyboardInterrupt
        return super().__getitem__(name)


def _in_new_process(store: Store, views: list[int]) -> bytes:
    import subprocess

    code = ("import pickle, sys; store, views = pickle.load(sys.stdin.buffer); "
            "sys.stdout.buffer.write(pickle.dumps(store.read('heatmap', views)))")
    return subprocess.run([sys.executable, "-c", code], input=pickle.dumps((store, views)), check=True,
                          stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}).stdout


class TestZarrStore(WriterContract):
    """The default."""


class TestHdf5Store(WriterContract):
    @pytest.fixture
    def backend(self) -> str:
        return "hdf5"


class TestZarrStoreInParts(ReaderContract):
    """Every batch is decoded by several threads."""

    @pytest.fixture(autouse=True)
    def _small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("storage.threads.LEAST_BYTES", 0)
        monkeypatch.setattr("storage.threads.THREADS", 3)


class _FromElsewhere(ReaderContract):
    @pytest.fixture
    def unfinished(self) -> tuple[str, str]:
        return "so there is no store, or none that is finished", "so there is no store, or none that is finished"


class TestStoreOfFileUrl(_FromElsewhere):
    """A file system that answers one request after the other."""

    @pytest.fixture
    def address(self) -> Address:
        return "file://{}".format


class TestStoreOfHttpUrl(_FromElsewhere):
    """One over a network, with connections of its own in each process."""

    @pytest.fixture
    def address(self, serve: Address) -> Address:
        return serve
