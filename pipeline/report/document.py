"""What the report says, before anyone decides how it looks: the page and the Markdown render this."""

import math

from pydantic import BaseModel, ConfigDict

DASH = "–"


class Part(BaseModel):
    """A piece of the report; `tables.json` is these pieces as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Part):
    """A number measured in `n` runs: mean and sample standard deviation (null for one run)."""

    mean: float
    std: float | None = None
    n: int = 1


class Cell(Part):
    """One entry of a table.

    Attributes:
        text: as it is read.
        value, std, n: the numbers behind `text`, where there are any; n is the number of seeds.
        best: stands out among the cells that it competes with.
    """

    text: str
    value: float | None = None
    std: float | None = None
    n: int | None = None
    best: bool = False


class Column(Part):
    """A column's heading; neighbours of one `group` share a heading above theirs."""

    title: str
    group: str = ""
    numeric: bool = True


class Table(Part):
    key: str
    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    notes: list[str] = []


class Picture(Part):
    """An image file beside the page, drawn for light pages and, for pages that can be dark, for these."""

    light: str
    dark: str | None = None
    alt: str
    caption: str


class Section(Part):
    key: str
    title: str
    text: list[str] = []
    tables: list[Table] = []
    pictures: list[Picture] = []


class Document(Part):
    """The whole report.

    Attributes:
        summary: sentences in plain words, the first one says what came out.
        facts: (label, value) pairs: data, scale, seeds, machine, licence.
    """

    title: str
    subtitle: str
    summary: list[str]
    facts: list[tuple[str, str]]
    sections: list[Section]


def words(text: str) -> Cell:
    return Cell(text=text)


def number(value: float | None, digits: int = 1, *, sign: bool = False, unit: str = "") -> Cell:
    """A plain number; None becomes an en dash."""
    if value is None:
        return Cell(text=DASH)
    return Cell(text=shown(value, digits, sign=sign) + unit, value=value)


def measured(spread: Spread | None, *, sign: bool = False, seeds: bool = True) -> Cell:
    """A number with its spread and, unless a column of its own tells, its seeds; None becomes an en dash."""
    if spread is None:
        return Cell(text=DASH)
    text = shown(spread.mean, sign=sign)
    if spread.std is not None:
        text += f" ± {spread.std:.1f}"
    return Cell(text=text, value=spread.mean, std=spread.std, n=spread.n if seeds else None)


def changed(value: float | None, reference: float | None) -> Cell:
    """`value` against `reference` in percent: "−74.7 %"."""
    if value is None or not reference:
        return Cell(text=DASH)
    return number(100 * (value / reference - 1), sign=True, unit=" %")


def shown(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """The number in figures, thousands grouped, with a true minus sign and without "-0"."""
    rounded = round(value, digits) + 0.0
    text = f"{abs(rounded):,.{digits}f}"
    if rounded < 0:
        return f"−{text}"
    return f"+{text}" if sign and rounded > 0 else text


def best_of(cells: list[Cell], *, lowest: bool = False) -> list[Cell]:
    """The same cells with the best one emphasised, all of them at a tie; a lone number is not best."""
    values = [cell.value for cell in cells if cell.value is not None and math.isfinite(cell.value)]
    if len(values) < 2:
        return cells
    best = min(values) if lowest else max(values)
    return [cell.model_copy(update={"best": cell.value == best}) for cell in cells]


def best_in_columns(rows: list[list[Cell]], columns: list[int], *, lowest: bool = False) -> list[list[Cell]]:
    """The rows with the best cell of each of the columns emphasised."""
    rows = [list(row) for row in rows]
    for column in columns:
        for row, cell in zip(rows, best_of([row[column] for row in rows], lowest=lowest), strict=True):
            row[column] = cell
    return rows


def listed(items: list[str]) -> str:
    """Items as a sentence names them: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """ "1 seed", "3 seeds", "2,000 classes"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
