import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from pipeline.errors import UserError
from pipeline.inform import is_main_process
from stages import cleaning, placing, work

MODULE = "stages.work"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def of(build):
    """Calls `build` with the work folder, where the result goes, and the fingerprint."""
    return lambda held: build(held.folder, held.result, held.fingerprint)


def make(out, build, **inputs):
    return work.run("stage/item", module=MODULE, inputs=inputs, out=out, build=of(build))


def test_the_out_appears_in_one_piece_and_is_taken_over_afterwards(tmp_path, capsys):
    calls = []

    def build(folder, result, fingerprint):
        calls.append(fingerprint)
        result.mkdir()
        (result / "a").write_text("1")
        assert not (tmp_path / "made").exists()

    out = tmp_path / "made"
    first = make(out, build, x=1)
    assert (out / "a").read_text() == "1"
    (out / "a").unlink()
    assert make(out, build, x=1) == first
    assert (out / "a").read_text() == "1"
    assert calls == [first]
    assert "taken over" in capsys.readouterr().err


def test_other_inputs_have_other_work(tmp_path):
    def build(folder, result, fingerprint):
        result.write_text(fingerprint)

    out = tmp_path / "file"
    assert make(out, build, x=1) != make(out, build, x=2)
    assert out.read_text() == make(out, build, x=2)


def test_what_else_a_run_had_is_said_as_far_as_it_is_known(tmp_path):
    made = make(tmp_path / "made", lambda folder, result, _: result.write_text(""), x=1, y=[2, 3, 4], z="a", w=None)
    then = {"x": 1, "y": [2, 3, 4], "z": "a", "w": None}
    stage = "stage/item"
    assert work.changes(stage, made, then) == "other code"
    assert work.changes(stage, made, then | {"x": 2}) == "other params or inputs (x is 1, expected 2)"
    assert work.changes(stage, made, {"x": 2}).endswith("; and 1 more)")
    assert work.changes(stage, "of nobody", then) == "other params, inputs or code"


def test_failed_work_leaves_the_old_out_and_continues_next_time(tmp_path):
    out = tmp_path / "made"
    out.write_text("old")

    def fail(folder, result, fingerprint):
        (folder / "half").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        make(out, fail, x=1)
    assert out.read_text() == "old"

    def finish(folder, result, fingerprint):
        result.write_text((folder / "half").read_text() + "whole")

    make(out, finish, x=1)
    assert out.read_text() == "halfwhole"
    assert not list(work.WORK.rglob("half"))
    assert sorted(os.listdir(tmp_path)) == [".work", "made"]


def test_two_processes_do_not_share_work(tmp_path):
    script = ("from pathlib import Path; from stages import work; import sys, time\n"
              "def build(held):\n    print('in', flush=True); time.sleep(60)\n"
              f"work.run('stage/item', module={MODULE!r}, inputs={{'x': 1}}, out=Path('made'), build=build)\n")
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match=f"process {other.pid}"):
            make(tmp_path / "made", lambda *_: None, x=1)
    finally:
        other.kill()
        other.communicate()


def test_copies_of_killed_processes_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process, name in ((gone.pid, "made"), (os.getppid(), "made"), (gone.pid, "other")):
        (tmp_path / f".{name}.{process}.new").mkdir()
    make(tmp_path / "made", lambda folder, result, _: result.write_text("new"))
    assert sorted(os.listdir(tmp_path)) == sorted([".work", "made", f".made.{os.getppid()}.new",
                                                   f".other.{gone.pid}.new"])


def test_what_a_killed_process_of_the_same_number_left_is_removed(tmp_path):
    """In containers each command may be process 1."""
    for kind in ("new", "old"):
        (tmp_path / f".made.{os.getpid()}.{kind}").mkdir()
        (tmp_path / f".made.{os.getpid()}.{kind}" / kind).write_text("")
    make(tmp_path / "made", lambda folder, result, _: result.mkdir())
    assert sorted(os.listdir(tmp_path)) == [".work", "made"]
    assert os.listdir(tmp_path / "made") == []


def test_an_out_that_cannot_be_replaced_is_there_again(tmp_path, monkeypatch):
    out, source = tmp_path / "out", tmp_path / "source"
    for folder in (out, source):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    replace = os.replace

    def breaks(old, new):
        if new == out and ".new" in old.name:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", breaks)
    with pytest.raises(KeyboardInterrupt):
        placing.place(source, out)
    assert (out / "name").read_text() == "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_an_out_stays_until_its_successor_is_on_the_disk(tmp_path, monkeypatch):
    out, source, seen = tmp_path / "out", tmp_path / "source", []
    for folder in (out, source):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    monkeypatch.setattr(os, "sync", lambda: seen.append((out / "name").read_text()))
    placing.place(source, out)
    assert [*seen, (out / "name").read_text()] == ["out", "source"]


def test_an_out_that_a_killed_process_moved_away_returns_before_anything_else(tmp_path, monkeypatch):
    dead = 2**22 + 1  # no process has this number
    moved, left = tmp_path / f".out.{dead}.old", tmp_path / f".other.{dead}.old"
    for folder in (moved, left, tmp_path / "other"):
        folder.mkdir()
    (moved / "name").write_text("moved")
    monkeypatch.setattr(shutil, "copytree", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    for name in ("out", "other"):
        with pytest.raises(OSError, match="disk full"):
            placing.place(tmp_path, tmp_path / name)
    assert (tmp_path / "out/name").read_text() == "moved"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_commands_that_share_work_deliver_it_one_after_the_other(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")  # commands are processes, and their temporary files are named so
    both, inside, most, place = context.Barrier(2), context.Value("i", 0), context.Value("i", 0), work.place

    def slow(source, out):
        with inside.get_lock():
            inside.value += 1
            most.value = max(most.value, inside.value)
        time.sleep(0.1)
        place(source, out)
        with inside.get_lock():
            inside.value -= 1

    def build(folder, result, fingerprint):
        result.mkdir(exist_ok=True)
        both.wait(30)

    monkeypatch.setattr(work, "place", slow)
    asked = {"module": MODULE, "inputs": {}, "out": tmp_path / "made", "build": of(build), "shared": True}
    commands = [context.Process(target=work.run, args=("stage/item",), kwargs=asked) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
    assert [command.exitcode for command in commands] == [0, 0]
    assert most.value == 1
    assert sorted(os.listdir(tmp_path)) == [".work", "made"]


def test_clean_keeps_unfinished_work(tmp_path):
    def build(folder, result, fingerprint):
        result.write_text("x" * 1000)

    make(tmp_path / "a", build, x=1)
    with pytest.raises(RuntimeError):
        make(tmp_path / "b", lambda *_: (_ for _ in ()).throw(RuntimeError), x=2)
    assert cleaning.clean() > 1000
    assert len(list(work.WORK.rglob("inputs.json"))) == 1
    cleaning.clean(everything=True)
    assert not list(work.WORK.rglob("*"))
    assert (tmp_path / "a").exists()


def test_clean_keeps_the_empty_folders_of_unfinished_work(tmp_path):
    def build(folder, result, fingerprint):
        (folder / "store" / "heatmap").mkdir(parents=True)
        raise RuntimeError

    make(tmp_path / "a", lambda folder, result, _: result.write_text("done"), x=1)
    with pytest.raises(RuntimeError):
        make(tmp_path / "b", build, x=2)
    cleaning.clean()
    assert [path.parent.name for path in work.WORK.rglob("heatmap")] == ["store"]


def test_scratch_goes_and_clean_takes_what_a_killed_process_left(tmp_path):
    with work.scratch("page") as fresh:
        assert not list(fresh.iterdir())
        (fresh / "index.html").write_text("a page")
        cleaning.clean(everything=True)  # another command's, while this one is at it
        assert (fresh / "index.html").exists()
    assert not fresh.exists()
    left = work.WORK / "page" / "1234567"
    left.mkdir(parents=True)
    for name in ("lock", "inputs.json"):
        (left / name).write_text("")
    cleaning.clean(everything=True)
    assert not list(work.WORK.rglob("*"))


def test_begun_work_replaces_another_result_only_where_that_is_kept_or_a_person_said_so(tmp_path):
    def stopped(folder, result, _):
        (folder / "checkpoint").write_text("half")
        raise RuntimeError

    other = make(tmp_path / "a", lambda folder, result, _: result.write_text("done"), x=1)
    with pytest.raises(RuntimeError):
        make(tmp_path / "a", stopped, x=2)
    begun = work.stage_fingerprint("stage/item", MODULE, {"x": 2})
    never = work.stage_fingerprint("stage/item", MODULE, {"x": 3})
    assert work.may_replace("stage/item", begun, other)  # there is a copy of it
    assert not work.may_replace("stage/item", never, other)
    cleaning.clean()
    assert not work.may_replace("stage/item", begun, other)
    with work.hold("stage/item", module=MODULE, inputs={"x": 2}, out=tmp_path / "a") as held:
        work.allow_replacing(held, other)
    assert work.may_replace("stage/item", begun, other)
    assert not work.may_replace("stage/item", begun, "of something else")


@pytest.mark.parametrize("shared", [False, True])
def test_clean_leaves_what_is_being_worked_on(tmp_path, capsys, shared):
    make(tmp_path / "a", lambda folder, result, _: result.write_text("done"), x=1)

    def build(folder, result, _):
        (folder / "checkpoint").write_text("half")
        cleaning.clean(everything=True)
        result.write_text((folder / "checkpoint").read_text())

    work.run("stage/item", module=MODULE, inputs={"x": 2}, out=tmp_path / "b", build=of(build), shared=shared)
    assert f"is being worked on by process {os.getpid()}" in capsys.readouterr().err
    assert (tmp_path / "b").read_text() == "half"
    assert [path.parent.name for path in work.WORK.rglob("b")] == [path.parent.name for path in work.WORK.rglob("done")]


def test_finished_work_is_found_newest_first(tmp_path):
    assert work.finished("stage/item", "made") == []
    for number in range(3):
        make(tmp_path / "made", lambda folder, result, _, text=str(number): result.write_text(text), x=number)
    for number, done in enumerate(work.WORK.rglob("done")):
        os.utime(done, (number, int(done.with_name("made").read_text())))
    with pytest.raises(RuntimeError):
        make(tmp_path / "made", lambda *_: (_ for _ in ()).throw(RuntimeError), x=3)
    assert [path.read_text() for path in work.finished("stage/item", "made")] == ["2", "1", "0"]


def test_a_restart_leaves_nothing_of_earlier_runs_with_these_inputs(tmp_path, capsys):
    def build(folder, result, fingerprint):
        assert sorted(os.listdir(folder)) == ["inputs.json", "lock", "restarted"]
        result.write_text("new")

    make(tmp_path / "made", lambda folder, result, _: result.write_text("old"), x=1)
    make(tmp_path / "made", lambda folder, result, _: result.write_text("other"), x=2)
    work.run("stage/item", module=MODULE, inputs={"x": 1}, out=tmp_path / "made", build=of(build), restart=True)
    assert (tmp_path / "made").read_text() == "new"
    assert "beginning anew" in capsys.readouterr().err
    assert sorted(path.read_text() for path in work.finished("stage/item", "made")) == ["new", "other"]


def test_shared_work_is_not_restarted_under_others(tmp_path):
    def again(folder, result, _, **how):
        work.run("stage/item", module=MODULE, inputs={"x": 1}, out=tmp_path / "made", shared=True,
                 build=of(lambda folder, result, _: result.write_text("inner")), **how)

    def build(folder, result, fingerprint):
        again(folder, result, fingerprint)
        result.unlink()
        with pytest.raises(UserError, match=f"process {os.getpid()}"):
            again(folder, result, fingerprint, restart=True)
        result.write_text("outer")

    work.run("stage/item", module=MODULE, inputs={"x": 1}, out=tmp_path / "made", shared=True, build=of(build))
    assert (tmp_path / "made").read_text() == "outer"


@pytest.mark.parametrize("what", ["clean", "restart"])
@pytest.mark.parametrize("deleted", range(4))
def test_what_a_kill_leaves_of_a_result_that_is_being_deleted_is_not_taken_over(tmp_path, monkeypatch, what, deleted):
    def half(folder, result, _):
        result.mkdir()
        for name in "abc":
            (result / name).write_text(name)

    def whole(folder, result, _):
        assert not result.exists()
        half(folder, result, _)

    class Killed(BaseException):
        """Nobody catches it, as nobody catches a kill."""

    unlink, count = os.unlink, iter(range(100))

    def kills(path, **how):
        if next(count) >= deleted:
            raise Killed
        unlink(path, **how)

    make(tmp_path / "made", half, x=1)
    with monkeypatch.context() as context:
        context.setattr(os, "unlink", kills)
        context.setattr(shutil, "rmtree", lambda path, **_: [
            kills(file) for file in sorted(path.rglob("*"), reverse=True) if file.is_file()])
        delete = cleaning.clean if what == "clean" else lambda: work.run(
            "stage/item", module=MODULE, inputs={"x": 1}, out=tmp_path / "made", build=of(whole), restart=True)
        with pytest.raises(Killed):
            delete()
    make(tmp_path / "made", whole, x=1)
    assert sorted(os.listdir(tmp_path / "made")) == ["a", "b", "c"]
    cleaning.clean()
    assert not list(work.WORK.rglob("*"))


@pytest.mark.parametrize("deleted", range(5))
def test_a_restart_that_is_killed_begins_anew_the_next_time(tmp_path, monkeypatch, deleted):
    """Whatever it had not deleted yet: else the next command went on from what was to be replaced."""
    class Killed(BaseException):
        """Nobody catches it, as nobody catches a kill."""

    replace, count = os.replace, iter(range(100))

    def kills(source, target):
        if "deleted-" in str(target) and next(count) >= deleted:
            raise Killed
        replace(source, target)

    def build(folder, result, _):
        assert not {"checkpoint.pt", "log.csv"} & {*os.listdir(folder)}
        for name in ("checkpoint.pt", "log.csv"):
            (folder / name).write_text("begun")
        result.write_text("new")

    make(tmp_path / "made", lambda folder, result, _: result.write_text("old"), x=1)
    [done] = (tmp_path / work.WORK).rglob("done")
    for name in ("checkpoint.pt", "log.csv"):
        done.with_name(name).write_text("old")
    with monkeypatch.context() as context:
        context.setattr(os, "replace", kills)
        with pytest.raises(Killed):
            work.run("stage/item", module=MODULE, inputs={"x": 1}, out=tmp_path / "made", build=of(build),
                     restart=True)
    assert work.is_restarting("stage/item", work.stage_fingerprint("stage/item", MODULE, {"x": 1}))
    make(tmp_path / "made", build, x=1)
    assert (tmp_path / "made").read_text() == "new"


def test_commands_that_end_at_the_same_moment_do_not_meet(tmp_path, monkeypatch):
    def command(name):
        for number in range(30):
            make(tmp_path / f"{name}{number}", lambda folder, result, _: result.write_text(name), of=[name, number])

    monkeypatch.setattr(os, "sync", lambda: None)
    commands = [multiprocessing.get_context("fork").Process(target=command, args=name) for name in "abc"]
    for one in commands:
        one.start()
    for one in commands:
        one.join(60)
    assert [one.exitcode for one in commands] == [0, 0, 0]


def test_what_a_restart_began_knows_of_it_when_it_goes_on(tmp_path):
    seen = []

    def stopped(held):
        seen.append(held.restarted)
        raise RuntimeError

    for restart in (False, True, False):
        with pytest.raises(RuntimeError):
            work.run("stage/item", module=MODULE, inputs={}, out=tmp_path / "made", build=stopped, restart=restart)
    assert seen == [False, True, True]
    fingerprint = work.stage_fingerprint("stage/item", MODULE, {})
    assert work.is_restarting("stage/item", fingerprint)
    make(tmp_path / "made", lambda folder, result, _: result.write_text("new"))
    assert not work.is_restarting("stage/item", fingerprint)


@pytest.mark.parametrize(("environment", "main"), [
    ({}, True), ({"RANK": "0", "LOCAL_RANK": "0"}, True), ({"RANK": "2", "LOCAL_RANK": "0"}, False),
    ({"SLURM_PROCID": "1"}, False),
    ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),  # started by Fabric in a SLURM job without srun
])
def test_the_main_process_is_known_by_its_rank(monkeypatch, environment, main):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main


def test_a_helper_process_leaves_the_work_of_one_process_alone(tmp_path, monkeypatch):
    """It holds no lock, and would delete what the main one is making."""
    monkeypatch.setenv("RANK", "1")
    for shared in (False, True):
        built = []
        with nullcontext() if shared else pytest.raises(UserError, match="stage/item is work of one process"):
            work.run("stage/item", module=MODULE, inputs={}, out=tmp_path / "made", build=built.append, shared=shared)
        assert len(built) == shared


@pytest.mark.parametrize("failing", ["os.replace", "pathlib.Path.write_text"])
def test_a_small_file_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch, failing):
    path = tmp_path / "resnet50.json"
    work.write_text(path, "old")

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space left"):
        work.write_text(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["resnet50.json"]
    assert path.read_text() == "old"


def test_what_other_inputs_began_is_named(tmp_path, capsys):
    """Or hours of training would be begun anew without a word."""
    def killed(folder, result, fingerprint):
        (folder / "checkpoint.pt").write_text("half")
        raise KeyboardInterrupt

    for rate in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "out", killed, rate=rate)
    said = capsys.readouterr().err
    assert re.search(r"item: beginning; what was begun in \.work/stage/item/\w{16} had .*rate is 1", said)
