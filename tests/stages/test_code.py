"""What of our source a fingerprint depends on."""

import tokenize
from io import StringIO
from pathlib import Path
from tokenize import COMMENT, DEDENT, INDENT, NEWLINE, NL, STRING

import pytest

from stages.code import PACKAGES, without_remarks

ROOT = Path(__file__).parents[2]

SOURCE = '''"""About it."""

LIST = [1, 2]  # two


class Thing:
    """A thing.

    And more of it.
    """

    # here it begins
    def double(self, value):
        """Twice."""
        return "# no remark" + """
            # nor this""" * value

    def one(self): "Short."
'''


@pytest.mark.parametrize(("old", "new"), [
    ("About it.", "About something."), ("  # two", ""), ("    # here it begins\n", ""), ("# here", "# where"),
    ("    And more of it.\n", ""), ('        """Twice."""\n', ""),
])
def test_remarks_do_not_count(old, new):
    assert old in SOURCE
    assert without_remarks(SOURCE.replace(old, new)) == without_remarks(SOURCE)


@pytest.mark.parametrize(("old", "new"), [
    ("[1, 2]", "[1, 3]"), ("# no remark", "# a remark"), ("# nor this", "# nor that"), ("double", "twice"),
    ("* value", "* 2"),
])
def test_all_else_does(old, new):
    assert old in SOURCE
    assert without_remarks(SOURCE.replace(old, new)) != without_remarks(SOURCE)


def test_a_form_feed_is_no_end_of_a_line():
    assert without_remarks("a = 1\n\x0c\nb = 2  # two\n") == "a = 1\n\x0c\nb = 2\n"


def tokens(source):
    """[(kind, text)] of code, without comments, empty lines, and lines (and bodies) of nothing but a string."""
    begins, found = (NEWLINE, INDENT, DEDENT), []
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type not in (COMMENT, NL):
            found.append((token.type, "" if token.type == NEWLINE else token.string))
        before, last = [kind for kind, _ in found[-3:-2]], [kind for kind, _ in found[-2:]]
        if last == [INDENT, DEDENT] or (last == [STRING, NEWLINE] and (not before or before[0] in begins)):
            del found[-2:]
    return found


def test_our_own_source_stays_source():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    for path in files:
        source = path.read_text(encoding="utf-8")
        assert tokens(without_remarks(source)) == tokens(source), path
