"""Bytes of files that lie elsewhere, through fsspec; every way to fail is one line that says what to do."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec

from storage.errors import RemoteError

#: A part of a file: its name below the folder, its first byte and the byte after its last.
Part = tuple[str, int, int]


@dataclass(frozen=True)
class _Connection:
    """A file system of fsspec, where in it the store is, and the lock to hold while asking."""

    files: Any
    root: str
    turn: contextlib.AbstractContextManager[Any]


class RemoteFolder:
    """The files below a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connections: dict[int, _Connection] = {}

    def fetch(self, parts: Sequence[Part]) -> list[bytes | None]:
        """The bytes of parts of files.

        Args:
            parts: (name, start, end) of each.

        Returns:
            Of each part its bytes, fewer where the file ends before; None where there is no such file.

        Raises:
            RemoteError: a server does not answer, or not with what it was asked for.
        """
        connection = self._connection()
        names, starts, ends = (list(column) for column in zip(*parts, strict=True))
        with self._asking(connection):
            answers = connection.files.cat_ranges([f"{connection.root}/{name}" for name in names], starts, ends,
                                                  on_error="return")
        return [self._checked(part, answer) for part, answer in zip(parts, answers, strict=True)]

    def size(self, name: str) -> int | None:
        """How many bytes a file has; None where the server does not say."""
        connection = self._connection()
        with self._asking(connection):
            size: int | None = connection.files.size(f"{connection.root}/{name}")
            return size

    def _checked(self, part: Part, answer: bytes | Exception) -> bytes | None:
        name, start, end = part
        if isinstance(answer, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
            return None
        if isinstance(answer, Exception):
            # Asked for what lies beyond the end of a file, some give an error and others nothing.
            with contextlib.suppress(RemoteError):
                if (size := self.size(name)) is not None and size <= start:
                    return b""
            raise self._error(answer) from None
        if len(answer) > end - start:
            raise RemoteError(f"{self.url}: the server sends whole files where it is asked for parts of them; copy the "
                              "store's folder here")
        return answer

    def _connection(self) -> _Connection:
        # One per process, as connections and their threads do not survive a fork. A child keeps its parent's unused
        # ones: to close them would take them from the parent too.
        process = os.getpid()
        if process not in self._connections:
            try:
                files, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True)
            except ImportError as error:
                package = (getattr(error.__cause__, "name", None) or "the package for it").partition(".")[0]
                raise RemoteError(f"{self.url}: to read it, run 'pip install {package}'; or copy the store's folder "
                                  "here") from None
            except Exception as error:
                raise self._error(error) from None
            # Only the asynchronous file systems are made for several threads.
            turn = contextlib.nullcontext() if files.async_impl else threading.Lock()
            self._connections.setdefault(process, _Connection(files, root.rstrip("/"), turn))
        return self._connections[process]

    @contextlib.contextmanager
    def _asking(self, connection: _Connection) -> Iterator[None]:
        try:
            with connection.turn:
                yield
        except Exception as error:  # each file system has its own
            raise self._error(error) from None

    def _error(self, error: Exception) -> RemoteError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return RemoteError(f"{self.url}: cannot be read: {reason}; check the address, your rights and the network, or "
                           "copy the store's folder here")
