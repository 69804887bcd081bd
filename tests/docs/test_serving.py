"""The page about serving names every code with which something is refused."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = re.compile(r'"(E_[A-Z_]+)"')


def test_every_code_is_on_the_page():
    sources = (ROOT / "src/steersman").rglob("*.py")
    codes = {code for path in sources for code in CODE.findall(path.read_text(encoding="utf-8"))}
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    assert len(codes) > 20
    assert sorted(code for code in codes if f"`{code}`" not in page) == []
