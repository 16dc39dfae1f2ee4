"""What of our source a fingerprint depends on."""

from pathlib import Path

import pytest

import stages
from stages.code import without_remarks

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


def test_our_own_source_stays_source():
    for path in Path(stages.__file__).parents[1].glob("[ps]*/**/*.py"):
        if ".venv" not in path.parts and "tests" not in path.parts:
            kept = without_remarks(path.read_text(encoding="utf-8"))
            assert "\n#" not in kept
