"""What `python -m stages.NAME` and the `pipeline` command share: one line per error, exit 1."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from pipeline.errors import FULL, UserError
from pipeline.inform import is_main_process
from pipeline.seeds import SEEDS

if TYPE_CHECKING:
    from pipeline.params import Params

#: Seconds that a process waits for the main one to say the same error.
PATIENCE = 5


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns what a person can cause into one line on stderr and exit code 1.

    PIPELINE_DEBUG=1 shows the traceback instead. The processes of a command that ends well end together.
    """
    if os.environ.get("PIPELINE_DEBUG"):
        yield
        _leave()
        return
    try:
        with _one_line_warnings():
            yield
            _leave()
    except KeyboardInterrupt:
        if not is_main_process():
            sys.exit(1)
        again = ("run it again without --restart to continue what was begun, and with it for what was not"
                 if "--restart" in sys.argv else "run the same command again to continue where it stopped")
        _fail(f"interrupted; {again}")
    except BrokenPipeError:
        raise  # click ends quietly where the reader has seen enough
    except Exception as error:
        if not is_fixable(error):
            raise
        _fail(told(error))


def is_fixable(error: Exception) -> bool:
    """Whether a person can fix it: what is named in a message of ours, the disk, or memory that ran out."""
    from storage import StoreError

    if isinstance(error, RuntimeError | MemoryError):
        from pipeline.devices import is_out_of_memory

        return is_out_of_memory(error)
    return isinstance(error, UserError | StoreError | OSError)


def stops_all(error: Exception) -> bool:
    """Whether what comes next would meet it too: a full disk, a bug; anything, where its traceback is asked for."""
    full = isinstance(error, OSError) and error.errno in FULL
    return full or bool(os.environ.get("PIPELINE_DEBUG")) or not is_fixable(error)


def told(error: Exception) -> str:
    """What to say of an error that is fixable: its words, and what to do where they do not name it."""
    from storage import CorruptStore

    if isinstance(error, RuntimeError | MemoryError):
        said = str(error).partition("\n")[0] or type(error).__name__
        return (f"out of memory ({said}); lower the batch where params set it: teachers.NAME.train or train for a "
                "teacher, students.NAME.train or distill.train for a student, dump.batch, evaluate.batch")
    if isinstance(error, OSError):
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        if error.errno in FULL:  # a write through a buffer does not know its file
            names = f"{names or Path.cwd()}; free some space and run the same command again"
        return f"{error.strerror or error}{': ' + names if names else ''}"
    advice = "; run the command that made this store, which makes again what is damaged"
    return f"{error}{advice if isinstance(error, CorruptStore) and 'again' not in str(error) else ''}"


def _leave() -> None:
    if devices := sys.modules.get("pipeline.devices"):  # otherwise there is one process, and no need of torch
        devices.leave()


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Of a warning its words alone, without where they are in the source."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {' '.join(str(message).split())}\n"
    try:
        with warnings.catch_warnings():
            # Of an odd image, in lines of source: what it spoils is listed as a problem of its file.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        warnings.formatwarning = before


def stage_main(run: Callable[..., Any], *arguments: str, check: "Callable[[Params], None]" = lambda _: None) -> None:
    """The command line of one stage: its positional arguments, `--params` and `--set`.

    Args:
        run: called with (params, *arguments).
        arguments: names of the positional arguments; "seed" is a whole number.
        check: called with params before that; unlike `run` it may read those that the stage does not depend on.
    """
    main = sys.modules["__main__"]
    parser = argparse.ArgumentParser(prog=f"python -m {main.__spec__.name if main.__spec__ else run.__module__}",
                                     description=main.__doc__)
    for name in arguments:
        parser.add_argument(name, type=_seed if name == "seed" else str)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    given = vars(parser.parse_args())
    with one_line_errors():
        from pipeline.params import load_params

        params = load_params(given.pop("params"), given.pop("overrides"))
        check(params)
        run(params, *given.values())


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {SEEDS - 1}")
    return int(text)


def _fail(message: str) -> None:
    if not is_main_process():
        # What the main process has met too, it says, and then ends this one; what it has not, only this one can say.
        sleep(PATIENCE)
    line = " ".join(message.split())
    print(f"Error: {line}", file=sys.stderr, flush=True)
    sys.exit(1)
