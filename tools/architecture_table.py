"""Writes the tables of docs/architectures.md from the architectures that the tests build.

    python tools/architecture_table.py

A test compares the page with what this makes.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from architectures.architecture import POINTS, Architecture  # noqa: E402
from architectures.text import REFUSED, TEXT, Refused  # noqa: E402
from architectures.vision import VISION  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
TABLES = ("text", "vision", "refused")


def supported(architectures: Sequence[Architecture]) -> str:
    """One row per architecture, by name."""
    lines = ["| architecture | class in transformers | points | read once | notes |"]
    lines += ["|:--|:--|:--|:--|:--|"]
    for a in sorted(architectures, key=lambda a: a.name.lower()):
        cells = (f"`{a.model_class}`", _points(a.points), _shared(a.shares), _shown(a.notes))
        lines.append(f"| {a.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def refused(architectures: Sequence[Refused]) -> str:
    """One row per architecture that is refused, and why."""
    lines = ["| architecture | class in transformers | what is refused | why |"]
    lines += ["|:--|:--|:--|:--|"]
    for r in architectures:
        what = "the model" if r.at_load else "every site in a block"
        what = what if r.error else "nothing, but its rows run one at a time"
        lines.append(f"| {r.name} | `{r.model_class}` | {what} | {_shown(r.why)} |")
    return "\n".join(lines) + "\n"


def _points(points: Sequence[str]) -> str:
    missing = [p for p in POINTS if p not in points]
    if not missing:
        return "all"
    if len(missing) == 1:
        return f"all but `{missing[0]}`"
    return ", ".join(f"`{p}`" for p in POINTS if p in points)


def _shared(kinds: Sequence[str]) -> str:
    names = {"header": "images and system prompt", "completions": "prompt"}
    return " and ".join(shown for kind, shown in names.items() if kind in kinds) or "nothing"


def _shown(text: str) -> str:
    return text.replace("|", "\\|")


def filled(text: str) -> str:
    """The page with the tables of today."""
    made = {"text": supported(TEXT), "vision": supported(VISION), "refused": refused(REFUSED)}
    for name in TABLES:
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        text = before + begin + made[name] + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
