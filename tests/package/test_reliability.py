"""The promises of docs/reliability.md are numbered, and the tests that docs name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    for file, name in NAME.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        assert (ROOT / file).is_file(), file
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text("utf-8"), re.M), f"{file}::{name}"


def test_each_of_the_28_promises_has_its_tests() -> None:
    table = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split("## Promises")[1].split("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip() for row in rows] == [str(number) for number in range(1, 29)]
    for _, promise, tests in rows:
        assert promise.endswith("."), promise
        named = NAME.findall(tests)
        assert named and len(tests.split(", ")) == len(set(named)), promise
