"""Files that are whole or absent, and locks that die with their owner."""

import contextlib
import errno
import fcntl
import os
import weakref
from pathlib import Path
from typing import TypeGuard

from storage.errors import StoreError


def is_url(path: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether this is an address for fsspec, e.g. `s3://bucket/x.zarr`, and not a local path."""
    return isinstance(path, str) and "://" in path


def local_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a store that is to be written.

    Raises:
        StoreError: it is a URL.
    """
    if is_url(path):
        raise StoreError(f"{path}: a store is written to a local disk; name a path there, then copy its folder")
    return Path(os.path.abspath(path))


def read_start(file: Path, most: int) -> bytes | None:
    """The first `most` bytes of a file, or all; None where there is no such file."""
    try:
        with open(file, "rb", opener=_at_once) as opened:
            # So large a buffer as `most` is not taken for a small file.
            return opened.read(min(os.fstat(opened.fileno()).st_size, most))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _at_once(path: str, flags: int) -> int:
    # To open a pipe would wait for somebody to write into it.
    return os.open(path, flags | os.O_NONBLOCK)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in as many steps as the system takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest):]


def write_whole(path: Path, data: bytes, work: Path) -> None:
    """Write a file so that at every moment it is either the old one or the new one.

    Args:
        work: folder on the same file system for the temporary file.
    """
    temporary = work / f"{path.name}.{os.getpid()}.partial"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    sync_folder(path.parent)


class Lock:
    """An exclusive lock on a file, freed by the kernel when its process ends however it ends.

    It is `flock`: local file systems and NFS of Linux 2.6.12 or later have it; on a network file
    system that is mounted without locks, opening fails with a message instead.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        _held.add(self)

    @classmethod
    def take(cls, path: Path, *, wait: bool = False) -> "Lock | None":
        """Lock `path`, creating it; None if somebody else has it and `wait` is false."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
                raise StoreError(f"{path.parent}: this file system has no locks ({error.strerror}); "
                                 "write the store on another one and copy it here") from None
            raise
        return cls(fd)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    __del__ = release

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child shares the lock: if it kept it, a killed writer's shard would stay locked
    # until the last of its loader workers is gone.
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
