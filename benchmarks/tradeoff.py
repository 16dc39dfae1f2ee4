"""The figure and the page of `make bench-encodings`.

    make bench-tradeoff     draws both again from benchmarks/results/encodings.json, in seconds
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

from common import RESULTS
from matplotlib.axes import Axes

from pipeline.report.drawing import DPI, LIGHT, legend, panels, plain_ticks, title

DOCS = Path(__file__).parents[1] / "docs"
#: The arrays that boxes are decoded from.
HEADS = ("heatmap", "wh_offset")
#: Two means further apart than so many standard errors of their difference are told apart: with ten comparisons
#: two would be passed by chance now and then.
STANDARD_ERRORS = 3
#: Least half height of the left panel, in points of AP: what `store verify --live` lets pass.
LET_PASS = 0.1
#: Of the figure's names, as a share of a panel's height.
LINE = 0.055


@dataclass(frozen=True)
class Cell:
    """One choice of encodings, measured.

    Attributes:
        heatmap, wh_offset, features: the encodings; features may be left out.
        kb: per view, by array.
        ap_live, ap_stored: in percent over the views, of exact peaks and of boxes decoded from stored maps.
        students: mAP on val in percent, by seed.
    """

    heatmap: str
    wh_offset: str
    features: str | None
    kb: dict[str, float]
    ap_live: float
    ap_stored: float
    students: list[float]

    @property
    def heads(self) -> str:
        return f"{self.heatmap}, {self.wh_offset}"

    @property
    def name(self) -> str:
        return f"{self.heads}, {self.features or 'no features'}"

    def label(self, kind: str) -> str:
        """Its encodings of the "heads" or of the "features"."""
        return self.heads if kind == "heads" else self.features or "no features"

    @property
    def kilobytes(self) -> float:
        return sum(self.kb.values())

    @property
    def maps(self) -> float:
        """kB of what boxes are decoded from."""
        return sum(self.kb[array] for array in HEADS)

    @property
    def mean(self) -> float:
        return fmean(self.students)

    @property
    def sd(self) -> float | None:
        return stdev(self.students) if len(self.students) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """Cells that differ in the heads and cells that differ in the features, the most exact one first in each."""

    heads: list[Cell]
    features: list[Cell]

    @property
    def cells(self) -> list[Cell]:
        return list({cell.name: cell for cell in (*self.heads, *self.features)}.values())

    @property
    def usual(self) -> Cell | None:
        """The one of params.yaml, if both have it."""
        return next((cell for cell in self.heads if cell in self.features), None)

    @property
    def sd(self) -> float | None:
        """Of one student over seeds, pooled over all cells."""
        spread = [variance(cell.students) for cell in self.cells if len(cell.students) > 1]
        return sqrt(fmean(spread)) if spread else None

    @property
    def limit(self) -> float | None:
        """What two cells' means have to differ by to be told apart."""
        return self.sd and STANDARD_ERRORS * self.sd * sqrt(2 / len(self.cells[0].students))


def main() -> None:
    result = json.loads((RESULTS / "encodings.json").read_text(encoding="utf-8"))
    heads, features = ([Cell(**cell) for cell in result["compared"][kind]] for kind in ("heads", "features"))
    write_docs(Comparison(heads, features), result["about"])


def write_docs(compared: Comparison, about: Mapping[str, Any]) -> None:
    """Writes docs/encodings.png and docs/encodings.md; `about` is what was asked for."""
    write_figure(compared, DOCS / "encodings.png")
    write_page(compared, about, DOCS / "encodings.md")


def write_figure(compared: Comparison, path: Path) -> None:
    """Bytes against what the store decodes to, and against what its students reach."""
    figure, (left, right) = panels(LIGHT, 2, columns=2, height=4.2)
    figure.get_layout_engine().set(wspace=0.05)
    usual = compared.usual
    kinds = {"heads vary": [cell for cell in compared.heads if cell != usual],
             "features vary": [cell for cell in compared.features if cell != usual],
             "as in params.yaml": [usual] if usual else []}
    for place, (kind, cells) in enumerate(kinds.items()):
        look = {"color": LIGHT.color(place), "marker": "os^"[place], "markersize": 8, "linestyle": "", "zorder": 3}
        if kind != "features vary":
            left.plot([cell.maps for cell in cells], [cell.ap_stored - cell.ap_live for cell in cells], **look)
        right.errorbar([cell.kilobytes for cell in cells], [cell.mean for cell in cells],
                       [cell.sd or 0 for cell in cells], elinewidth=1.4, label=kind, **look)
    low, high = left.get_ylim()
    left.set_ylim(min(low, -LET_PASS), max(high, LET_PASS))
    names = {cell.name: cell.label(kind) for kind in ("heads", "features") for cell in getattr(compared, kind)}
    _name(left, [(cell.maps, cell.ap_stored - cell.ap_live, cell.heads) for cell in compared.heads])
    _name(right, [(cell.kilobytes, cell.mean, names[cell.name]) for cell in compared.cells])
    title(left, LIGHT, "Boxes decoded from the stored maps")
    title(right, LIGHT, "Students taught by the store")
    for axis, across, up in ((left, "kB per view, heatmap, wh and offset", "AP less the live teacher's, points"),
                             (right, "kB per view, all arrays", "mAP@.5 on val, %: mean and sd of seeds")):
        axis.set_xscale("log")
        plain_ticks(axis.xaxis)
        axis.set_xlabel(across, color=LIGHT.muted, fontsize=9)
        axis.set_ylabel(up, color=LIGHT.muted, fontsize=9)
    legend(figure, right, LIGHT)
    figure.savefig(path, dpi=DPI, facecolor=LIGHT.paper, metadata={"Software": None})


def _name(axis: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Names of points in a column beside the axis, near their heights but so that none covers another."""
    low, high = axis.get_ylim()
    # At about one height the leftmost point has the highest name: its line passes above the other points.
    points = sorted(points, key=lambda point: (round((point[1] - low) / (high - low) / LINE), -point[0]))
    places = [(y - low) / (high - low) for _, y, _ in points]
    for row in range(1, len(places)):
        places[row] = max(places[row], places[row - 1] + LINE)
    for row in reversed(range(len(places))):
        places[row] = min(places[row], places[row + 1] - LINE if row + 1 < len(places) else 1)
    for (x, y, text), place in zip(points, places, strict=True):
        axis.annotate(text, (x, y), xytext=(1.08, place), textcoords="axes fraction", fontsize=8, va="center",
                      color=LIGHT.ink, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": LIGHT.muted, "linewidth": 0.5, "relpos": (0, 0.5),
                                  "shrinkA": 1, "shrinkB": 5})


def write_page(compared: Comparison, about: Mapping[str, Any], path: Path) -> None:
    """The table, the figure and what follows from them."""
    seeds, size = about["seeds"], "x".join(map(str, about["size"]))
    lines = [
        "# What encodings save and cost", "",
        f"Made by `make bench-encodings SEEDS={len(seeds)} EPOCHS={about['epochs']:g}` in a finished demo "
        "(`LINE=<folder>` names another one); every figure here is its.", "",
        f"{about['teacher']} was dumped over {about['views']:,} views of {about['images']:,} images ({size} px, "
        f"{about['classes']} classes) once per encoding, and each store taught {about['student']}s with "
        f"W = {about['weights']}, {about['epochs']:g} epochs long, one per seed ({', '.join(map(str, seeds))}); "
        "without features, w4 = 0 and the rest stays, which understates heads: without features they need other "
        f"weights ([losses.md](losses.md#without-features)). Scored on val ({about['val']} images): mAP@.5 by area in "
        "percent, mean ± standard deviation.", "",
        "![Bytes per view against AP](encodings.png)", ""]
    heads, features = compared.heads[0], compared.features[0]
    lines += [f"## Heads, beside {heads.label('features')}", "", *_table(compared.heads, "heads"), "",
              "*decoded* is the AP of the boxes decoded from the stored heatmap, wh and offset over all views, less "
              "that of the exact peaks, in points.", "",
              f"## Features, beside {features.heads}", "", *_table(compared.features, "features"), "",
              f"kB are those of a view; all of them include {heads.kb['peaks']:.2f} kB of peaks. Students read "
              "heatmap, peaks and features: wh and offset come to them from the peaks, which are always exact.", "",
              "## What can be concluded", "", *_decoded(compared), *_taught(compared), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _table(cells: Sequence[Cell], kind: str) -> list[str]:
    """Of cells that differ in the "heads" or in the "features"."""
    if kind == "heads":
        lines = ["| heatmap; wh and offset | kB heatmap | kB wh, offset | kB all | decoded | students' mAP |",
                 "|---|---:|---:|---:|---:|---:|"]
    else:
        lines = ["| features | kB features | kB all | students' mAP |", "|---|---:|---:|---:|"]
    for cell in cells:
        own = [f"{cell.kb.get(array, 0):.2f}" for array in (HEADS if kind == "heads" else ["features"])]
        decoded = [f"{cell.ap_stored - cell.ap_live:+z.3f}"] if kind == "heads" else []
        students = f"{cell.mean:.1f}" + ("" if cell.sd is None else f" ± {cell.sd:.1f}")
        lines.append(f"| {' | '.join([cell.label(kind), *own, f'{cell.kilobytes:.2f}', *decoded, students])} |")
    return lines


def _decoded(compared: Comparison) -> list[str]:
    exact = compared.heads[0]
    worst = max(compared.heads, key=lambda cell: abs(cell.ap_stored - cell.ap_live))
    least = min(compared.heads, key=lambda cell: cell.maps)
    lines = [f"- The live teacher has an AP of {exact.ap_live:.2f} on these views. Boxes decoded from stored maps are "
             f"at most {abs(worst.ap_stored - worst.ap_live):.3f} points away ({worst.heads}).",
             f"- Maps of {least.heads} take {least.maps:.2f} kB a view, 1/{exact.maps / least.maps:.0f} of the "
             f"{exact.maps:.2f} kB of {exact.heads}."]
    if compared.usual:
        share = compared.usual.kb.get("features", 0) / compared.usual.kilobytes
        lines.append(f"- Features are {share:.0%} of the {compared.usual.kilobytes:.2f} kB that a view takes as "
                     "params.yaml has it.")
    return lines


def _taught(compared: Comparison) -> list[str]:
    if compared.limit is None:
        return ["- One seed per encoding says nothing of the spread: no difference between these students can be told "
                "from chance."]
    lines = [f"- A student's mAP has a standard deviation of {compared.sd:.1f} points over seeds (pooled over all "
             f"{len(compared.cells)} encodings). Means of {len(compared.cells[0].students)} seeds are told apart "
             f"from {compared.limit:.1f} points on ({STANDARD_ERRORS} standard errors of a difference); a smaller "
             "effect would not have been seen."]
    for name, cells in (("heads", compared.heads), ("features", compared.features)):
        exact, *others = cells
        low, high = min(cells, key=lambda cell: cell.mean), max(cells, key=lambda cell: cell.mean)
        apart = [cell for cell in others if abs(cell.mean - exact.mean) > compared.limit]
        told = ", ".join(f"{cell.label(name)} ({cell.mean - exact.mean:+.1f})" for cell in apart)
        lines.append(f"- Of the {name}, students lie between {low.mean:.1f} ({low.label(name)}) and {high.mean:.1f} "
                     f"({high.label(name)}). " + (
                         f"Apart from {exact.label(name)} are {told}; the others are within the seeds' spread."
                         if apart else f"None is apart from {exact.label(name)}: the differences are within the seeds' "
                                       "spread, and no order of the encodings follows from them."))
    return lines


if __name__ == "__main__":
    main()
