import errno
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data import ImageRecord
from pipeline.data.loading import Batches, FreshViews, ImageCache
from pipeline.errors import UserError
from pipeline.params import Views


class Numbers:
    """A source of nothing but its items."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def fetch(self, items):
        return {"items": np.array(items, np.int64)}


@pytest.fixture
def records(tmp_path):
    found = []
    for number in range(10):
        rng = np.random.default_rng(number)
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
        boxes = np.array([[10, 10, 60, 50], [30, 5, 50, 20]][: number % 3], np.float32).reshape(-1, 4)
        flags = np.zeros(len(boxes), bool)
        labels = np.arange(len(boxes), dtype=np.int64)
        found.append(ImageRecord(str(number), path, 80, 60, boxes, labels, flags, flags))
    return found


def all_items(batches, start=0):
    return [tuple(map(tuple, batch["items"].tolist())) for batch in batches.iterate(start)]


runs = st.fixed_dictionaries({
    "batch": st.integers(1, 12), "epochs": st.floats(0.1, 4), "seed": st.integers(0, 2**32 - 1)})


@given(st.integers(1, 40), runs, st.data())
def test_a_run_goes_on_at_any_step(length, run, data):
    batches = Batches(Numbers(length), **run)
    whole = all_items(batches)
    start = data.draw(st.integers(0, batches.steps))
    assert all_items(batches, start) == whole[start:]
    assert len(whole) == batches.steps == max(1, round(run["epochs"] * batches.steps_per_epoch))


@given(st.integers(1, 40), runs)
def test_an_epoch_shows_no_image_twice(length, run):
    batches = Batches(Numbers(length), **run)
    assert batches.steps_per_epoch == max(1, length // run["batch"])
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        items = [item for step in steps for item in batches.items(step)]
        assert {e for _, e in items} == {epoch}
        assert len({index for index, _ in items}) == len(items) == batches.batch * batches.steps_per_epoch


@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 20))
def test_ranks_partition_the_global_batch(length, world, share, step):
    run = {"batch": world * share, "epochs": 9, "seed": 1}
    everything = Batches(Numbers(length), **run, rank=0, world=1)
    parts = [Batches(Numbers(length), **run, rank=rank, world=world) for rank in range(world)]
    if everything.batch % world:
        return  # a source smaller than the batch is cut to what the processes can share
    assert {part.steps for part in parts} == {everything.steps}
    items = [part.items(step) for part in parts]
    assert len({len(part) for part in items}) == 1
    assert [item for row in zip(*items, strict=True) for item in row] == everything.items(step)


def test_epochs_differ_and_seeds_differ():
    batches, other = (Batches(Numbers(50), batch=50, epochs=2, seed=seed) for seed in (0, 1))
    first, second = ([index for index, _ in batches.items(step)] for step in (0, 1))
    assert first != second
    assert first != [index for index, _ in other.items(0)]


def test_a_source_smaller_than_the_batch_is_one_step():
    batches = Batches(Numbers(5), batch=32, epochs=3, seed=0)
    assert (batches.steps, batches.steps_per_epoch, len(batches.items(0))) == (3, 1, 5)


def test_what_cannot_be_shared_is_named():
    with pytest.raises(UserError, match="batch is 5: expected a multiple of the 2"):
        Batches(Numbers(50), batch=5, epochs=1, seed=0, world=2)
    with pytest.raises(UserError, match="There are 0 images"):
        Batches(Numbers(0), batch=5, epochs=1, seed=0)
    with pytest.raises(UserError, match="There are 1 images"):
        Batches(Numbers(1), batch=4, epochs=1, seed=0, world=2)


def test_fresh_views_have_the_promised_shapes(records):
    batch = FreshViews(records, 3, Views(size=(32, 48), max_objects=7)).fetch([(2, 0), (5, 1), (0, 4)])
    shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
    assert shapes == {
        "image": ((3, 3, 32, 48), "uint8"), "heatmap": ((3, 3, 8, 12), "float32"),
        "wh": ((3, 7, 2), "float32"), "offset": ((3, 7, 2), "float32"), "indices": ((3, 7), "int64"),
        "mask": ((3, 7), "float32"), "view": ((3,), "int64")}
    assert batch["view"].tolist() == [2, 5, 0]
    assert all(array.flags.c_contiguous for array in batch.values())


def test_fresh_views_depend_on_seed_epoch_and_image_alone(records):
    source, again, other = (FreshViews(records, 3, Views(), seed=seed) for seed in (1, 1, 2))
    image = source.fetch([(3, 1), (4, 0)])["image"]
    np.testing.assert_array_equal(image[:1], again.fetch([(3, 1)])["image"])
    assert not np.array_equal(image[:1], source.fetch([(3, 0)])["image"])
    assert not np.array_equal(image[:1], other.fetch([(3, 1)])["image"])


def test_targets_lie_where_the_object_is(records):
    """A white rectangle on black, found by its brightness in every view."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:50, 10:60] = 255
    Image.fromarray(pixels).save(records[1].path)
    source = FreshViews(records, 3, Views(scale=(1.4, 1.4, 0.1), color=0.0, lighting=0.0, size=(128, 128)))
    batch = source.fetch([(1, epoch) for epoch in range(12)])
    for row in range(12):
        y, x = (batch["image"][row, 0] > 127).nonzero()
        index, (dx, dy), (w, h) = (batch[name][row, 0] for name in ("indices", "offset", "wh"))
        assert 4 * (index % 32 + dx) == pytest.approx((x.min() + x.max() + 1) / 2, abs=4)
        assert 4 * (index // 32 + dy) == pytest.approx((y.min() + y.max() + 1) / 2, abs=4)
        assert 4 * np.array([w, h]) == pytest.approx([np.ptp(x) + 1, np.ptp(y) + 1], abs=5)
        assert batch["heatmap"][row, 0].reshape(-1)[index] == 1


def test_the_cache_stops_at_its_limit_and_travels_empty(records, monkeypatch):
    reads = []

    def read(record):
        reads.append(record.id)
        return np.zeros((record.height, record.width, 3), np.uint8)

    monkeypatch.setattr(ImageRecord, "read", read)
    cache = ImageCache(limit_mb=2 * 60 * 80 * 3 / 2**20)
    for number in (0, 1, 2, 0, 1, 2):
        assert cache.read(records[number]).shape == (60, 80, 3)
    assert reads == ["0", "1", "2", "2"]
    travelled = pickle.loads(pickle.dumps(cache))
    travelled.read(records[0])
    assert reads[-1] == "0"


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_load_what_one_process_loads(records, start_method, method, workers):
    start_method(method)
    source = FreshViews(records, 3, Views())
    alone, shared = (Batches(source, batch=4, epochs=2, seed=0, workers=number) for number in (0, workers))
    found = list(shared.iterate(1))
    assert len(found) == alone.steps - 1
    for one, other in zip(alone.iterate(1), found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_missing_image_is_named(records):
    gone = Path(records[4].path)
    gone.unlink()
    with pytest.raises(UserError, match=gone.name):
        FreshViews(records, 3, Views()).fetch([(4, 0)])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_serve_on_after_a_schedulers_sigterm_and_ctrl_c(records, number):
    batches = Batches(FreshViews(records, 3, Views()), batch=4, epochs=4, seed=0, workers=1)
    loaded = batches.iterate()
    first = next(loaded)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, number)
    assert len([first, *loaded]) == batches.steps
    worker.join(10)
    assert worker.exitcode == 0


class Killed(Numbers):
    def fetch(self, items):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_the_system_kills_is_one_line():
    with pytest.raises(UserError, match=r"a loader process ended \(DataLoader worker .*\); lower") as caught:
        list(Batches(Killed(8), batch=4, epochs=1, seed=0, workers=1).iterate())
    assert "\n" not in str(caught.value)


class BrokenDisk(Numbers):
    def fetch(self, items):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "targets/x.zarr/heatmap/c.0.0.0.0")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_disk_that_fails_under_a_worker_keeps_its_words_and_its_file():
    with pytest.raises(OSError, match="Input/output error") as caught:
        list(Batches(BrokenDisk(8), batch=4, epochs=1, seed=0, workers=1).iterate())
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "targets/x.zarr/heatmap/c.0.0.0.0")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_an_error_in_a_worker_is_one_line_as_well(records, workers):
    Path(records[0].path).unlink()
    batches = Batches(FreshViews(records, 3, Views()), batch=10, epochs=1, seed=0, workers=workers)
    with pytest.raises(UserError) as caught:
        list(batches.iterate())
    assert "0.png" in str(caught.value)
    assert "\n" not in str(caught.value)


class Huge(Numbers):
    def fetch(self, items):
        return {"image": np.zeros((1 << 40, 1 << 10))}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_without_memory_says_so_as_one_process_does(workers):
    with pytest.raises(MemoryError, match="Unable to allocate 8"):
        list(Batches(Huge(8), batch=4, epochs=1, seed=0, workers=workers).iterate())


class Misshapen(Numbers):
    def fetch(self, items):
        raise ValueError("could not broadcast")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_bug_in_a_worker_says_where_it_was():
    with pytest.raises(ValueError, match="could not broadcast") as caught:
        list(Batches(Misshapen(8), batch=4, epochs=1, seed=0, workers=1).iterate())
    assert "in fetch" in "".join(caught.value.__notes__)


class Buggy(Numbers):
    def fetch(self, items):
        raise RuntimeError("a bug")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_worker_outlives_an_error_in_one():
    """At exit they would be sent a SIGTERM, which they ignore, and waited for."""
    with pytest.raises(RuntimeError, match="a bug") as caught:
        list(Batches(Buggy(10), batch=5, epochs=2, seed=0, workers=2).iterate())
    assert caught.tb
    assert not multiprocessing.active_children()
