"""Which of our own files a stage runs, found by reading its imports."""

import ast
import hashlib
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

PACKAGES = ("pipeline", "stages", "storage")

#: Not part of a stage's fingerprint: the *values* of params are in it already, and these modules only
#: carry values, errors and progress from one place to another, start processes, guard outs or refuse params.
PLUMBING = ("pipeline.devices", "pipeline.engine.interrupt", "pipeline.engine.log", "pipeline.engine.stopwatch",
            "pipeline.engine.window", "pipeline.errors", "pipeline.inform", "pipeline.params", "pipeline.paths",
            "stages.ahead", "stages.code", "stages.entry", "stages.placing", "stages.replacing", "stages.work",
            "storage.conversion", "storage.remote", "storage.remote_files", "storage.verification")


@cache
def first_party_files(module: str) -> dict[str, Path]:
    """The modules of ours that `module` imports, directly or not, at any depth of its code.

    Returns:
        {dotted name: file}, itself included, plumbing excluded, sorted by name.
    """
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        if name in found or name in PLUMBING or name.startswith(tuple(f"{p}." for p in PLUMBING)):
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        todo += _imports(Path(spec.origin), name)
    return dict(sorted(found.items()))


@cache
def code_fingerprint(module: str) -> str:
    """sha256 over what `module` and every module of ours that it imports do: their source as of `without_remarks`."""
    digest = hashlib.sha256()
    for name, path in first_party_files(module).items():
        digest.update(f"{name}\0{without_remarks(path.read_text(encoding='utf-8'))}".encode())
    return digest.hexdigest()


def without_remarks(source: str) -> str:
    """Python without comments and docstrings, so that a better word for something trains nothing again.

    It is source and no syntax tree: what a tree looks like depends on the version of Python.
    """
    given = source.split("\n")  # as both count lines: splitlines also breaks at a form feed
    lines: list[str | None] = [*given]
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = token.line[:column].rstrip() or None
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            doc = node.body[0]
            if not given[doc.lineno - 1][: doc.col_offset].strip():  # nothing else begins on its line
                for row in range(doc.lineno - 1, doc.end_lineno or doc.lineno):
                    lines[row] = None
    return "\n".join(line for line in lines if line is not None)


def _imports(path: Path, module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute here"
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in PACKAGES:
                yield from _with_parents(name)


def _with_parents(name: str) -> Iterator[str]:
    """`a.b.c` runs a/__init__, a.b/__init__ and a.b.c, where each is a module and not a name in one."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        candidate = ".".join(parts[:end])
        try:
            if find_spec(candidate) is not None:
                yield candidate
        except ModuleNotFoundError:  # its parent is a module, so this is a name in it
            return
