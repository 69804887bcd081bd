"""Writes the README's table of methods and parts from the registry.

    python tools/method_table.py

The leading part of a module is told by the module's first line, others by their own; a test
compares the README with what this makes.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

from steersman.core import registry

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods:begin -->\n", "<!-- methods:end -->"
METHODS: dict[str, str] = {"method": "method", "gate_method": "method of a gate"}
PARTS: dict[str, str] = {
    "gate": "gate (WHEN)",
    "synthesizer": "synthesizer (WHAT)",
    "operator": "operator (HOW)",
    "selector": "selector (WHERE)",
    "layer_score": "layer score",
}
NOTES = {"p2s": " (oracle)", "random": " (control)"}


def tables() -> str:
    """One row per part of this package: methods in sight, what they are made of folded away."""
    registry.load_all()
    own = [cls for cls in registry.classes() if cls.__module__.startswith("steersman.")]
    return (
        f"{_table(METHODS, own)}\n<details>\n<summary>The parts that methods are made of</summary>"
        f"\n\n{_table(PARTS, own)}\n</details>\n"
    )


def _table(roles: Mapping[str, str], own: list[type]) -> str:
    lines = ["| | name | what it does | paper |", "|:--|:--|:--|:--|"]
    for role, title in roles.items():
        for i, cls in enumerate(c for c in own if c.role == role):
            name = f"`{cls.part_name}`{NOTES.get(cls.part_name, '')}"
            head = f"**{title}**" if i == 0 else ""
            lines.append(f"| {head} | {name} | {_shown(said(cls, own))} | {paper(cls, own)} |")
    return "\n".join(lines) + "\n"


def said(cls: type, own: list[type]) -> str:
    """What a part is, in one line."""
    if not _leads(cls, own):
        return _first_line(cls)
    line = re.split(r"\s{2,}", _module_doc(cls).splitlines()[0])[0]
    line = re.sub(r"^[\w-]+: ", "", line)
    return re.sub(r"^[a-z](?! [+*=])", lambda first: first[0].upper(), line)


def paper(cls: type, own: list[type]) -> str:
    """A link to the first paper that a part names, or that its module names for its leader."""
    doc = inspect.getdoc(cls) or ""
    found = re.search(
        r"arXiv:(\d{4}\.\d{4,5})", doc + (_module_doc(cls) if _leads(cls, own) else "")
    )
    return f"[{found[1]}](https://arxiv.org/abs/{found[1]})" if found else ""


def _leads(cls: type, own: list[type]) -> bool:
    """Whether a module is about this part: its only one, or its only method."""
    beside = [other for other in own if other.__module__ == cls.__module__]
    methods = [other for other in beside if other.role in ("method", "gate_method")]
    return [cls] in (beside, methods)


def _module_doc(cls: type) -> str:
    module = inspect.getmodule(cls)
    return (inspect.getdoc(module) if module else None) or ""


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n", 1)[0]


def _shown(text: str) -> str:
    """Formulas as code, words as they are."""
    if " = " in text or " * " in text:
        return "`" + text.replace("`", "").replace("|", "\\|") + "`"
    return re.sub(r"([\\*_|<>\[\]])", r"\\\1", text)


def filled(text: str) -> str:
    """The README with the table of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END, 1)[1]


def main() -> None:
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
