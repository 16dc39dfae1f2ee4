from html.parser import HTMLParser

import pytest

from pipeline.report.document import Cell, Column, Document, Picture, Section, Table
from pipeline.report.page import render_html, render_markdown, tables_json

VOID = {"meta", "img", "source", "link", "br"}


class Reader(HTMLParser):
    """Collects what the checks look at, and fails on tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def document():
    table = Table(
        key="table-3",
        title="Table 3",
        caption="Ours | theirs <here>",
        columns=[
            Column(title="Student", numeric=False), Column(title="alone", group="Ours"),
            Column(title="taught", group="Ours"),
        ],
        rows=[
            [Cell(text="a|b <script>"), Cell(text="41.0 ± 1.4", value=41.0, std=1.4, n=2),
             Cell(text="45.5", value=45.5, best=True)],
        ],
        notes=["Run `pipeline distill --student <x>`."],
    )
    picture = Picture(light="figures/a.png", dark="figures/a-dark.png", alt='a "quoted" [image]', caption="An image")
    return Document(
        title="Title", subtitle="Scale", summary=["Distillation helped.", "Use `dvc repro`."],
        facts=[("Data", "demo")],
        sections=[
            Section(key="paper", title="Paper", tables=[table]),
            Section(key="pictures", title="Pictures", text=["Look."], pictures=[picture]),
        ],
    )  # fmt: skip


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader.tags


def test_the_page_nests_and_its_links_lead_somewhere(document):
    tags = read(render_html(document))
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for tag, attrs in tags if tag == "a" and attrs["href"].startswith("#")]
    assert set(targets) == {"summary", "paper", "pictures"} <= set(ids)
    labels = [attrs["aria-labelledby"] for _, attrs in tags if "aria-labelledby" in attrs]
    assert set(labels) <= set(ids)


def test_the_page_needs_nothing_from_elsewhere(document):
    html = render_html(document)
    assert "http" not in html
    assert not [tag for tag, _ in read(html) if tag in ("script", "link", "iframe")]


def test_every_picture_is_described_and_has_its_dark_twin(document):
    tags = read(render_html(document))
    assert [attrs["alt"] for tag, attrs in tags if tag == "img"] == ['a "quoted" [image]']
    sources = [attrs for tag, attrs in tags if tag == "source"]
    assert sources == [{"srcset": "figures/a-dark.png", "media": "(prefers-color-scheme: dark)"}]


def test_text_is_escaped_and_commands_are_code(document):
    html = render_html(document)
    assert "a|b &lt;script&gt;" in html
    assert "<code>pipeline distill --student &lt;x&gt;</code>" in html


def test_headings_span_their_groups_and_the_best_is_marked(document):
    tags = read(render_html(document))
    assert [attrs["colspan"] for tag, attrs in tags if tag == "th" and "colspan" in attrs] == ["2"]
    assert sum(attrs.get("class") == "number best" for tag, attrs in tags if tag == "td") == 1
    assert "41.0 ± 1.4<small>n=2</small>" in render_html(document)


def test_markdown_has_the_same_content(document):
    text = render_markdown(document)
    assert "| Student | Ours: alone | Ours: taught |\n|---|---:|---:|\n" in text
    assert "| a\\|b <script> | 41.0 ± 1.4 (n=2) | **45.5** |" in text
    assert '![a "quoted" (image)](figures/a.png)' in text
    assert "- Use `dvc repro`." in text


def test_the_numbers_survive_as_json(document):
    assert Document.model_validate_json(tables_json(document)) == document
