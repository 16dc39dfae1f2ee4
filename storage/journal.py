"""What the writers of an unfinished store have finished, each in a file of its own."""

import json
import os
import secrets
import socket
from operator import itemgetter
from pathlib import Path
from typing import Any

from crc32c import crc32c

from storage.files import write_all
from storage.layout import shard_key
from storage.spec import StoreSpec, canonical


class Journal:
    """An append-only list of finished shards; nobody else writes to this file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd: int | None = None

    def add(self, shard: int, record: dict[str, Any]) -> None:
        """Returns once the line is on the disk. Only who has claimed the shard may call this."""
        if self._fd is None:
            name = f"journal-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            self._fd = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                               0o666)
        number = _latest(self._folder, shard).get(shard, {"number": 0})["number"] + 1
        text = canonical({"shard": shard, "number": number, **record}).encode()
        # The line break comes first: a line cut off by a full disk spoils none but itself.
        write_all(self._fd, b"\n%08x %s" % (crc32c(text), text))
        os.fsync(self._fd)

    def __del__(self) -> None:
        if self._fd is not None:
            os.close(self._fd)


def _latest(folder: Path, shard: int | None = None) -> dict[int, dict[str, Any]]:
    """The last record of each shard, or of one, in whichever journal it is: `number` counts those of a shard."""
    latest: dict[int, dict[str, Any]] = {}
    end = b"" if shard is None else b'"shard":%d}' % shard  # the last key of a canonical record
    for file in folder.glob("journal-*"):
        try:
            lines = file.read_bytes().split(b"\n")
        except FileNotFoundError:  # another writer finished the store just now
            continue
        for line in lines:
            crc, _, text = line.partition(b" ")
            if line.endswith(end) and crc == b"%08x" % crc32c(text):
                record = json.loads(text)
                latest[record["shard"]] = max(record, latest.get(record["shard"], record), key=itemgetter("number"))
    return latest


def finished(folder: Path, path: Path, spec: StoreSpec) -> dict[int, dict[str, Any]]:
    """The last record of each shard whose files are still there in full.

    A line that was cut off or damaged does not count: its shard is written again.

    Args:
        folder: of the journals.
        path, spec: of the store.
    """
    return {shard: record for shard, record in sorted(_latest(folder).items()) if _is_whole(record, path, spec, shard)}


def is_finished(folder: Path, path: Path, spec: StoreSpec, shard: int) -> bool:
    """Whether one shard is among those that are `finished`; where its files are not there, no journal is read."""
    files = [path / shard_key(spec, array, shard) for array in spec.arrays]
    record = _latest(folder, shard).get(shard) if all(file.exists() for file in files) else None
    return record is not None and _is_whole(record, path, spec, shard)


def _is_whole(record: dict[str, Any], path: Path, spec: StoreSpec, shard: int) -> bool:
    try:
        return all((path / shard_key(spec, array, shard)).stat().st_size == record["arrays"][array.name]["bytes"]
                   for array in spec.arrays)
    except OSError:
        return False
