"""A finished store is not lost to a slip of the hand: what is kept nowhere else is replaced only when asked."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from stages import work
from storage import StoreError, open_store


def refuse_loss(stage: str, out: Path, result: Path, *, old: Path | str | None = None,
                expect: Mapping[str, Any] | None = None) -> None:
    """To be called before a stage that was not told to begin anew writes another store.

    DVC removes an out itself before it runs the stage.

    Args:
        stage: name of the work folder.
        out: where the new store will be brought.
        result: where it is written. What was begun there may be finished: whoever began it was asked.
        old: the store whose views the new one takes over.
        expect: fields that the identity of the store at `out` should have, for the message.

    Raises:
        UserError: what is at `out` is neither in a finished work folder nor taken over; names what differs.
    """
    if not out.exists() or result.exists() or old == Path(os.path.abspath(out)):
        return
    found = _content(out)
    if found and found in map(_content, work.finished(stage, out.name)):
        return
    try:
        open_store(out, expect)
        said = f"{out}: this store was made from something else, or by other code"
    except (StoreError, OSError) as error:
        said = str(error)
    raise UserError(f"{said}. There is no other copy of it: move it away, or add --restart to replace it.")


def _content(path: Path) -> str | None:
    try:
        return open_store(path).content
    except (StoreError, OSError):
        return None
