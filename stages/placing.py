"""A result comes onto its out whole, and stays there when the power goes."""

import fcntl
import os
import shutil
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file


def place(source: Path, out: Path) -> None:
    """Brings a copy of `source` onto `out`: blocks shared where the file system can, by renaming.

    A folder takes two renames, since the old one has to make way. Where it fails, what was at `out` is there again.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_killed(out)
    fresh = out.with_name(f".{out.name}.{os.getpid()}.new")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        if source.is_dir():
            shutil.copytree(source, fresh, copy_function=_copy)
        else:
            _copy(source, fresh)
        os.sync()  # at once, for a data set has many thousand files; it may take minutes
        if source.is_dir() and out.exists():
            os.replace(out, old)
        os.replace(fresh, out)
    finally:
        _put_back(old, out)
        for path in (fresh, old):
            remove(path)


def _clear_after_killed(out: Path) -> None:
    """Clears what killed processes left beside `out`: DVC would take it for a part of the folder."""
    for copy in out.parent.glob(f".{out.name}.*"):
        process, kind = copy.name.split(".")[-2:]
        ended = process == str(os.getpid()) or not Path("/proc", process).exists()  # containers begin all with the same
        if kind in ("new", "old") and process.isdecimal() and ended and Path("/proc/self").exists():
            if kind == "old":
                _put_back(copy, out)
            remove(copy)


def _put_back(old: Path, out: Path) -> None:
    """What was moved out of the way returns where nothing came in its place."""
    if old.exists() and not out.exists():
        os.replace(old, out)


def remove(path: Path) -> None:
    """Deletes a file or a folder, as far as it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copy(source: str | Path, target: str | Path) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError:
            shutil.copyfileobj(read, write, 1 << 22)
