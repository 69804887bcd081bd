"""docs/calling.md names a test for every way of calling, and each of them exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split(" | ")
    for line in (ROOT / "docs" / "calling.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| What |")
]


def names_in(folder: str) -> set[str]:
    files = (ROOT / folder).glob("test_*.py")
    return {name for f in files for name in re.findall(r"^def (test_\w+)", f.read_text(), re.M)}


def test_every_row_names_tests_that_exist():
    here, beside = names_in("tests/calling"), names_in("tests/backends")
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(row) == 3, row
        named = re.findall(r"`(test_\w+)`( \(tests/backends\))?", row[2])
        assert named, row
        for name, elsewhere in named:
            assert name in (beside if elsewhere else here), name
