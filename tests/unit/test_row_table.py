# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/rows.md names, for every row of the series, exactly the tests that show it and modules that exist."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROWS = [f"{number:02}" for number in range(1, 32) if number != 8]  # the series has no item 08 of its own


def table() -> dict[str, list[str]]:
    """row -> its cells."""
    lines = (REPOSITORY / "docs" / "rows.md").read_text().splitlines()
    return {line[2:4]: line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d\d \|", line)}


def shown_by() -> dict[str, set[str]]:
    """row -> the files that hold a test named after it."""
    found: dict[str, set[str]] = {}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for name in re.findall(r"^ *(?:async )?def test_row_((?:\d\d_)+)", path.read_text(), re.MULTILINE):
            for row in name.strip("_").split("_"):
                found.setdefault(row, set()).add(str(path.relative_to(REPOSITORY)))
    return found


def test_every_row_is_there_once_and_in_order() -> None:
    assert [*table()] == ROWS
    assert all(len(cells) == 4 and all(cells) for cells in table().values())


def test_each_row_names_exactly_the_tests_that_show_it() -> None:
    named = {row: set(cells[2].split(", ")) for row, cells in table().items()}
    assert named == shown_by()


def test_each_row_names_modules_that_exist() -> None:
    missing = [
        f"{row}: {name}"
        for row, cells in table().items()
        for name in cells[3].split(", ")
        if not (REPOSITORY / name).is_file()
    ]
    assert missing == []
