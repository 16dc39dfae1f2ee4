"""Work in parts: all of it, once, and errors come out."""

import multiprocessing
import os
import threading

import pytest

from storage import threads
from storage.threads import LEAST_BYTES, in_parts


@pytest.fixture(autouse=True)
def _four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "THREADS", 4)
    threads._pool.cache_clear()


@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
@pytest.mark.parametrize("nbytes", [1, LEAST_BYTES])
def test_every_item_is_worked_on_once(count: int, nbytes: int):
    done: list[int] = []
    in_parts(done.extend, range(count), nbytes)
    assert sorted(done) == list(range(count))


def test_parts_run_at_once():
    """Each waits for the others: one after the other they would wait for ever."""
    barrier = threading.Barrier(4, timeout=20)
    in_parts(lambda _: barrier.wait() and None, range(8), LEAST_BYTES)


@pytest.mark.parametrize("wrong", [0, 1, 7])
def test_an_error_of_any_part_comes_out_when_all_have_ended(wrong: int):
    done: list[int] = []

    def work(part: range) -> None:
        if wrong in part:
            raise ValueError(f"item {wrong}")
        done.extend(part)

    with pytest.raises(ValueError, match=f"item {wrong}"):
        in_parts(work, range(8), LEAST_BYTES)
    assert sorted(done) == [item for item in range(8) if item % 4 != wrong % 4]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_has_threads_of_its_own():
    in_parts(lambda _: None, range(8), LEAST_BYTES)  # the parent's exist
    child = os.fork()
    if not child:
        done: list[int] = []
        in_parts(done.extend, range(8), LEAST_BYTES)
        os._exit(sorted(done) != list(range(8)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_worker_works_alone():
    context = multiprocessing.get_context("fork")
    names = context.Queue()

    def run() -> None:
        in_parts(lambda _: names.put(threading.current_thread().name), range(8), LEAST_BYTES)

    process = context.Process(target=run)
    process.start()
    assert names.get(timeout=20) == "MainThread"
    process.join()
    assert names.empty()
