"""What every benchmark does with its rows: a table on stdout, a file of record."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from pipeline.devices import machine

RESULTS = Path(__file__).parent / "results"

#: A process begins with the peak of the one that started it, so a small one comes between.
_BETWEEN = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(bool(status))
"""


def peak_memory(command: Sequence[str], folder: Path) -> float:
    """Runs a command in a folder; returns the peak memory of its process in GB."""
    found = subprocess.run([sys.executable, "-S", "-c", _BETWEEN, *command], cwd=folder, stdout=subprocess.PIPE,
                           text=True, check=False)
    if found.returncode:
        sys.exit(f"Error: {' '.join(command)} failed")
    return int(found.stdout) * 1024 / 1e9


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        name: what was measured, with its unit.
        value: the median.
        target: such as ">= 0.60", or None where a row only stands beside the others.
        spread: half the distance between the quartiles.
        n: measurements.
    """

    name: str
    value: float
    target: str | None = None
    spread: float | None = None
    n: int = 1

    @property
    def ok(self) -> bool | None:
        """Whether the target is met."""
        if self.target is None:
            return None
        sign, bound = self.target.split()
        compare: Callable[[float, float], bool] = {">=": float.__ge__, "<=": float.__le__}[sign]
        return compare(float(self.value), float(bound))

    @property
    def close(self) -> bool:
        """Whether the target is nearer than the spread, so that another run may say the opposite."""
        return self.target is not None and abs(self.value - float(self.target.split()[1])) < (self.spread or 0.0)


def record(name: str, rows: Sequence[Row], *, keep: bool = True, **about: object) -> None:
    """Prints the rows and, if they are to be kept, writes benchmarks/results/NAME.json."""
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  {'median':>10}  {'spread':>8}  {'n':>4}  target")
    for row in rows:
        spread = "" if row.spread is None else f"{row.spread:.3g}"
        verdict = "" if row.ok is None else f"{row.target}  {'ok' if row.ok else 'MISSED'}{', close' * row.close}"
        print(f"{row.name:{width}}  {row.value:>10.4g}  {spread:>8}  {row.n:>4}  {verdict}".rstrip())
    if not keep:
        return
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "commit": _commit(), "date": date.today().isoformat(),
               "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES"), **about,
               "rows": [{**asdict(row), "ok": row.ok, "close": row.close} for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _commit() -> str | None:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False,
                           cwd=Path(__file__).parent)
    return found.stdout.strip() or None
