"""The params files that come with the package."""

from importlib.resources import files
from pathlib import Path

from pipeline.errors import UserError, unknown


def summaries() -> dict[str, str]:
    """{name: the first comment line of its file}, in alphabetical order."""
    return {name: _text(name).splitlines()[0].lstrip("# ") for name in _names()}


def write(name: str, out: Path, *, force: bool = False) -> Path:
    """Writes the profile's params file to `out`.

    Raises:
        UserError: there is no such profile, or `out` was edited by hand and `force` is not given.
    """
    if name not in _names():
        raise unknown("profile", name, _names())
    if out.exists() and not force and out.read_text(encoding="utf-8", errors="replace") not in map(_text, _names()):
        raise UserError(f"{out} was edited since a profile wrote it; keep a copy and add --force, "
                        "or name another --out.")
    out.write_text(_text(name), encoding="utf-8")
    return out


def _names() -> list[str]:
    return sorted(path.name.removesuffix(".yaml") for path in files(__name__).iterdir() if path.name.endswith(".yaml"))


def _text(name: str) -> str:
    return files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
