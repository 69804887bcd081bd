"""Writes the table of docs/bench.md from docs/generate.json.

    python bench/generate.py --peers --json runs/bench/generate.json
    python tools/publish_bench.py runs/bench/generate.json

No figure in the table is typed by hand; a test compares it with docs/generate.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steersman.evals.records import Result, Results

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- generate:begin -->\n", "<!-- generate:end -->"


def cell(row: Result | None) -> str:
    """One figure with its interval, as precise as it is worth."""
    if row is None:
        return ""
    if row.metric == "added_memory":
        return f"{row.value / 1024:.0f}"
    digits = {"tokens_per_second": 1, "share": 2}.get(row.metric, 3)
    shown = (100 * n if row.metric == "share" else n for n in (row.value, row.low, row.high))
    value, low, high = (f"{n:.{digits}f}" for n in shown)
    return f"{value} [{low}, {high}]"


def grid(results: Results, metric: str) -> str:
    """Methods down, batches across."""
    rows = Results(results.select(metric=metric))
    splits = rows.unique("split")
    lines = [f"| | {' | '.join(splits)} |", f"|:--|{'--:|' * len(splits)}"]
    for method in rows.unique("method"):
        cells = (cell(rows.find("generate", method, split, metric)) for split in splits)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def conditions(meta: dict[str, Any]) -> str:
    """What it was measured on, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    blocks = ", compiled blocks" if meta["compiled"] else ""
    return (
        f"{meta['date']}: {meta['shape']}{blocks}, {meta['device']}, {meta['threads']} threads, "
        f"{versions}, {meta['rounds']} rounds.\n"
    )


def notes(peers: dict[str, Any]) -> str:
    """What is known of each peer."""
    lines = [
        f"- {name}, with transformers {found['versions']['transformers']}: {note}."
        for found in peers.values()
        for name, note in found["notes"].items()
    ]
    return "\n".join(lines) + "\n" if lines else ""


def block(results: Results) -> str:
    """All that stands between the two comments."""
    titles = {
        "tokens_per_second": "Tokens per second, all rows together",
        "ratio": "Time, relative to the unsteered model",
        "share": "Time inside steering's own code, relative to the rest of the run, percent",
        "ratio_to_one": "32 policies in a batch, relative to one",
        "added_memory": "Added memory, KiB",
    }
    meta = dict(results.meta)
    parts: Sequence[str] = [
        f"{title}:\n\n{grid(results, metric)}"
        for metric, title in titles.items()
        if results.select(metric=metric)
    ]
    return "\n".join([conditions(meta), *parts, notes(meta["peers"])]).rstrip() + "\n"


def filled(page: str, content: str) -> str:
    """The page with `content` between its two comments."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + content + END + rest.split(END)[1]


def main() -> None:
    stored, page = ROOT / "docs/generate.json", ROOT / "docs/bench.md"
    if len(sys.argv) > 1:
        Results.load(sys.argv[1]).save(stored)
    text = filled(page.read_text(encoding="utf-8"), block(Results.load(stored)))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
