"""Running a stage so that its out appears whole or not at all, and a killed run continues.

DVC deletes a stage's outs before it runs it. So the work happens in a folder of its own,
`.work/<stage>/<fingerprint of all inputs and code>/`, where an earlier run of the same inputs
left off, and the finished result is brought onto the out in one step. The work folder stays:
what a person ran by hand, the next `dvc repro` takes over. `pipeline clean` removes it.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError
from pipeline.inform import is_main_process
from pipeline.paths import WORK
from stages.code import code_fingerprint
from stages.placing import place, remove
from storage import differences, in_short

#: Files of a work folder that are there before the work is.
BOOKKEEPING = ("inputs.json", "lock", "replaces", "restarting", "restarted")


@dataclass(frozen=True)
class Work:
    """A stage's work, held by this process.

    Attributes:
        folder: where it is done.
        out: the file or folder that appears at the end.
        fingerprint: of all inputs and code.
        done: whether it was finished before.
        restarted: whether it was begun anew, by this command or by the one that it goes on from; what there was before
            counts for nothing then.
    """

    folder: Path
    out: Path
    fingerprint: str
    done: bool
    restarted: bool

    @property
    def result(self) -> Path:
        """Where the result is put before it is delivered."""
        return self.folder / self.out.name

    def deliver(self) -> None:
        """Brings the complete result onto the out; once for all processes."""
        if not is_main_process():
            return
        with _alone_in(self.folder):  # commands that share the work end at the same moment
            if not self.done:
                os.sync()  # what is called done is on the disk
                write_text(self.folder / "done", self.fingerprint)
                # What only unfinished work needs goes: checkpoints are larger than what they lead to.
                _empty(self.folder, keep={*BOOKKEEPING, "done", self.out.name})
            place(self.result, self.out)


@contextmanager
def hold(stage: str, *, module: str, inputs: Mapping[str, Any], out: Path, shared: bool = False,
         restart: bool = False) -> Iterator[Work]:
    """Holds the work folder of a stage, while its result is made and delivered.

    Args:
        stage: name of the work folder, e.g. "distill/resnet18/plain/seed0".
        module: the stage's module, whose code is part of the fingerprint.
        inputs: JSON values of everything else that decides the result.
        out: file or folder that appears at the end.
        shared: several commands work in the folder by arrangement of their own.
        restart: begin anew: what earlier runs of the same inputs left is deleted.

    Raises:
        UserError: another command is at this stage with these inputs; where it is `shared`, that matters
            to a restart alone.
    """
    fingerprint = stage_fingerprint(stage, module, inputs)
    folder = _folder(stage, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    deleting = folder / "restarting"  # a restart that was killed meanwhile deletes the rest first
    with locked(folder, alone=restart or deleting.exists() or not shared) if is_main_process() else nullcontext():
        anew = restart or deleting.exists()
        if anew and is_main_process():
            say(f"{stage}: beginning anew in {folder}")
            write_text(deleting, "")
            _empty(folder, keep={"lock", deleting.name})
            os.replace(deleting, folder / "restarted")
        work = Work(folder, out, fingerprint,
                    done=not anew and (folder / "done").exists() and (folder / out.name).exists(),
                    restarted=anew or (folder / "restarted").exists())
        if work.done:
            say(f"{stage}: taken over from {folder}")
        else:
            if not anew and is_begun(stage, fingerprint):
                say(f"{stage}: continuing in {folder}")
            else:
                for left in _unfinished(stage, fingerprint):
                    say(f"{stage}: beginning; what was begun in {left} had {changes(stage, left.name, inputs)}")
            if is_main_process():
                write_text(folder / "inputs.json", json.dumps(inputs, indent=1, sort_keys=True, default=str))
        yield work


def run(stage: str, *, module: str, inputs: Mapping[str, Any], out: Path,
        build: Callable[[Work], None], shared: bool = False, restart: bool = False) -> str:
    """Makes `out`, or takes it over from finished work with the same fingerprint.

    Args:
        stage, module, inputs, out, shared, restart: as in `hold`.
        build: resumes what it finds in the work folder, and returns when the result is complete.

    Returns:
        The fingerprint.

    Raises:
        UserError: as `hold`; or the work is not `shared`, and this is a helper process of a launcher.
    """
    if not (shared or is_main_process()):
        raise UserError(f"{stage} is work of one process, which the first one does: start this command without "
                        "torchrun and srun.")
    with hold(stage, module=module, inputs=inputs, out=out, shared=shared, restart=restart) as work:
        if not work.done:
            build(work)
        work.deliver()
    return work.fingerprint


def is_begun(stage: str, fingerprint: str) -> bool:
    """Whether an earlier run with this fingerprint left work, finished or not."""
    folder = _folder(stage, fingerprint)
    return folder.exists() and any(path.name not in BOOKKEEPING for path in folder.iterdir())


def is_restarting(stage: str, fingerprint: str) -> bool:
    """Whether this work was begun anew, and is not finished since."""
    folder = _folder(stage, fingerprint)
    return (folder / "restarting").exists() or ((folder / "restarted").exists() and not (folder / "done").exists())


def allow_replacing(work: Work, found: str) -> None:
    """Notes that a person wants this work in place of what `found` is the fingerprint of."""
    write_text(work.folder / "replaces", found)


def may_replace(stage: str, fingerprint: str, found: str) -> bool:
    """Whether work that was begun may go on and take the place of finished work, of the fingerprint `found`.

    It may where a person said so, where the other's result is kept in its own work folder, or is not whole ("").
    """
    asked = _folder(stage, fingerprint) / "replaces"
    return is_begun(stage, fingerprint) and (
        not found or (_folder(stage, found) / "done").exists()
        or (asked.exists() and asked.read_text(encoding="utf-8") == found))


def _unfinished(stage: str, fingerprint: str) -> list[Path]:
    """The folders in which other inputs' work of this stage was begun and not finished."""
    begun = (path.parent for path in (WORK / stage).glob("*/inputs.json"))
    return [path for path in sorted(begun) if path != _folder(stage, fingerprint)
            and not (path / "done").exists() and is_begun(stage, path.name)]


def changes(stage: str, fingerprint: str, inputs: Mapping[str, Any]) -> str:
    """In words, what else than `inputs` a run of this fingerprint had, if its work folder is there to say."""
    try:
        then = json.loads((_folder(stage, fingerprint) / "inputs.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "other params, inputs or code"
    found = differences(then, json.loads(json.dumps(inputs, default=str)), both_ways=True)
    return f"other params or inputs ({in_short(found)})" if found else "other code"


def _folder(stage: str, fingerprint: str) -> Path:
    return WORK / stage / fingerprint[:16]


def stage_fingerprint(stage: str, module: str, inputs: Mapping[str, Any]) -> str:
    """sha256 of a stage's inputs and of the code that it runs."""
    text = json.dumps({"stage": stage, "code": code_fingerprint(module), "inputs": inputs},
                      sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished(stage: str, name: str) -> list[Path]:
    """What finished runs of a stage left in their work folders as `name`, newest first."""
    runs = sorted((WORK / stage).glob("*/done"), key=lambda done: done.stat().st_mtime, reverse=True)
    return [result for done in runs if (result := done.with_name(name)).exists()]


def _empty(work: Path, keep: set[str]) -> None:
    """Empties a work folder but for the names in `keep`, of "done" first."""
    discard(sorted((path for path in work.iterdir() if path.name not in keep), key=lambda path: path.name != "done"))


def discard(found: Sequence[Path]) -> None:
    """Deletes files and folders of work. Each goes at once: a kill leaves no half of one where it was."""
    gone = {path: WORK / f"deleted-{secrets.token_hex(8)}" for path in found}
    for path, there in gone.items():
        os.replace(path, there)
    for there in gone.values():
        remove(there)


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(work: Path, *, alone: bool) -> Iterator[None]:
    """Holds a folder, alone or with others that share it.

    Raises:
        UserError: somebody else holds it.
    """
    file: IO[str]
    with (work / "lock").open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{work} is being worked on by process {file.read().strip() or '?'}; "
                            "wait for it or stop it, then run this again.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until nobody else is in here with the same folder."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def say(text: str) -> None:
    if is_main_process():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A new folder of one process, for as long as it is in here; what a killed one left, `clean --all` deletes."""
    folder = WORK / name / str(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    fresh = folder / "fresh"
    fresh.mkdir(parents=True)
    with locked(folder, alone=True):
        write_text(folder / "inputs.json", "{}")
        try:
            yield fresh
        finally:
            shutil.rmtree(folder, ignore_errors=True)
