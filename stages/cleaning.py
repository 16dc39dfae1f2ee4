"""What `pipeline clean` does: work folders and what screenings keep go, results stay."""

from pathlib import Path

from pipeline.errors import UserError
from pipeline.paths import SCREENED, SCREENING, WORK
from stages.placing import remove
from stages.work import discard, locked, say


def clean(*, everything: bool = False) -> int:
    """Deletes the work folders of finished stages, or all of them, but for those that a command is working in.

    Args:
        everything: unfinished work too, and what screenings keep: their students, and folders of variations that
            were not finished.

    Returns:
        The bytes that were freed.
    """
    for left in WORK.glob("deleted-*"):  # by a kill
        remove(left)
    folders = [marker.parent for marker in sorted(WORK.rglob("inputs.json"))
               if everything or marker.with_name("done").exists()]
    if everything:
        folders += [folder for folder in (SCREENED, *sorted(SCREENING.glob("*/*"))) if folder.is_dir()]
    freed = 0
    for folder in folders:
        try:
            with locked(folder, alone=True):
                freed += sum(path.stat().st_size for path in folder.rglob("*")
                             if path.is_file() and not path.is_symlink())
                if WORK in folder.parents:
                    discard([folder])
                else:  # may lie on another disk than .work
                    remove(folder)
        except UserError as error:
            say(f"clean: not deleted: {error}")
        except FileNotFoundError:  # it was another process's own, which deleted it just now
            continue
        for parent in folder.parents:
            if parent in (WORK, Path()) or not parent.exists() or any(parent.iterdir()):
                break
            parent.rmdir()
    return freed
