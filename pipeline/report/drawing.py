"""Colours, canvas and saving that all figures share: each is drawn for light and for dark pages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pipeline.report.document import Picture

FOLDER = "figures"
DPI = 144
WIDTH = 10.0  # inches


@dataclass(frozen=True)
class Theme:
    """The colours of one page scheme; `series` are told apart by most colour-blind people too."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]

    def color(self, place: int) -> str:
        return self.series[place % len(self.series)]

    def marker(self, place: int) -> str:
        """Tells series of the same colour apart."""
        return "oDs"[place // len(self.series) % 3]


LIGHT = Theme(
    "light",
    paper="#ffffff",
    ink="#1c2330",
    muted="#667085",
    grid="#e4e7ec",
    series=("#0b6bcb", "#d9480f", "#2b8a3e", "#9c36b5", "#b8860b", "#0c8599", "#c2255c", "#5c6370"),
)
DARK = Theme(
    "dark",
    paper="#171b22",
    ink="#e6e9ef",
    muted="#98a2b3",
    grid="#2c333e",
    series=("#5ba7f7", "#ff8a4c", "#5fc77a", "#cf8ae6", "#e0b840", "#3fc1d4", "#f783ac", "#a3abb8"),
)


def save(
    draw: Callable[[Theme], Figure], out: Path, name: str, *, alt: str, caption: str, dark: bool = True
) -> Picture:
    """Writes out/figures/<name>.png and, if `dark`, <name>-dark.png."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    files = []
    for theme, suffix in ((LIGHT, ""), (DARK, "-dark"))[: 1 + dark]:
        file = f"{FOLDER}/{name}{suffix}.png"
        # Without the writer's version the same numbers give the same bytes.
        draw(theme).savefig(out / file, dpi=DPI, facecolor=theme.paper, metadata={"Software": None})
        files.append(file)
    return Picture(light=files[0], dark=files[1] if dark else None, alt=alt, caption=caption)


def panels(theme: Theme, count: int, *, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with `count` styled axes, `columns` in a row of `height` inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.4), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axis in axes:
        style(axis, theme)
    return figure, axes


def style(axis: Axes, theme: Theme) -> None:
    """No box, a faint grid, quiet ticks."""
    axis.set_facecolor(theme.paper)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(theme.muted)
    axis.tick_params(colors=theme.muted, labelsize=9, length=0, which="both")
    axis.grid(visible=True, color=theme.grid, linewidth=0.8)
    axis.set_axisbelow(True)


def plain_ticks(axis: Axis) -> None:
    """1, 2, 5, 10 … on a logarithmic axis that has its curves; where they span less than a decade, even steps."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 10 * low > 0 else MaxNLocator(5))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def title(axis: Axes, theme: Theme, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=theme.ink)


#: Three names do not fit beside each other where one has this many letters.
LONG = 48


def legend(figure: Figure, axis: Axes, theme: Theme) -> None:
    """One legend for the figure, above its panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(len(labels), 3 if max(map(len, labels), default=0) < LONG else 2),
        frameon=False,
        fontsize=9,
        labelcolor=theme.ink,
        handlelength=1.6,
        columnspacing=1.8,
    )
