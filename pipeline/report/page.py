"""The document as an HTML page and as Markdown."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.document import Cell, Document, Table


def render_html(document: Document) -> str:
    """A page that needs no other files but its figures."""
    return _environment(autoescape=True).get_template("index.html").render(document=document)


def render_markdown(document: Document) -> str:
    """The same content for a terminal or a code host."""
    return _environment(autoescape=False).get_template("report.md").render(document=document)


def tables_json(document: Document) -> str:
    """The document with the numbers behind every cell."""
    return document.model_dump_json(indent=1) + "\n"


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(groups=_groups, markdown_cell=_markdown_cell)
    return environment


def _groups(table: Table) -> list[dict[str, Any]]:
    """The upper row of headings: neighbours of one group share a cell."""
    groups: list[dict[str, Any]] = []
    for column in table.columns:
        if groups and groups[-1]["title"] == column.group and column.group:
            groups[-1]["span"] += 1
        else:
            groups.append({"title": column.group, "span": 1})
    return groups


def _markdown_cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    text = f"**{text}**" if cell.best else text
    return f"{text} (n={cell.n})" if cell.n else text
