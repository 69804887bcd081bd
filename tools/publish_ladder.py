"""Writes docs/ladder.md and the README's table from docs/ladder.json.

    steersman world ladder --out runs/ladder
    python tools/publish_ladder.py runs/ladder/results.json

No figure in either is typed by hand; a test compares them with docs/ladder.json.
"""

import sys
from pathlib import Path

from steersman.evals.intervals import pool
from steersman.evals.names import method_title
from steersman.evals.records import Results
from steersman.evals.table import table
from steersman.experiments.rungs import markdown, rungs

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- ladder:begin -->\n", "<!-- ladder:end -->"
COLUMNS = (
    ("safety", "all", "asr", "attack success ↓"),
    ("safety", "all", "over_refusal", "over-refusal ↓"),
    ("safety", "all", "correct", "right behaviour ↑"),
    ("pope", "adversarial", "accuracy", "POPE adversarial ↑"),
    ("pope", "all", "f1", "POPE F1 ↑"),
    ("utility", "all", "accuracy", "utility ↑"),
)
METHODS = ("none", "prompt", "random", "mean", "mean-ba", "l2s", "l2s-gated", "p2s")


def readme_table(results: Results) -> str:
    """A few columns, values with their intervals."""
    lines = ["| | " + " | ".join(c[3] for c in COLUMNS) + " |", "|:--|" + "--:|" * len(COLUMNS)]
    for method in METHODS:
        cells = []
        for suite, split, metric, _ in COLUMNS:
            row = results.find(suite, method, split, metric)
            cells.append(f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" if row else "")
        name = method_title(method) + (" (oracle)" if method == "p2s" else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    sizes = [results.find(*key[:1], "none", *key[1:3]) for key in COLUMNS]
    n = {key[0]: row.n for key, row in zip(COLUMNS, sizes, strict=True) if row}
    counts = ", ".join(f"{suite} n {count}" for suite, count in n.items())
    return "\n".join([*lines, "", f"Three seeds of data and fitting; 95% intervals; {counts}.", ""])


def page(results: Results) -> str:
    """The whole ladder."""
    made = rungs(results)
    held = sum(r.holds for r in made)
    return (
        "# The ladder on the bundled world\n\n"
        "Three seeds: each draws its own fit, calibration and test data (disjoint templates), "
        "fits every method, chooses layers and strengths on the calibration split, and looks at "
        "the test split once. Intervals: the wider of sampling error and spread between seeds. "
        "The world is synthetic; these figures prove nothing about a real model.\n\n"
        "```bash\nsteersman world ladder --seeds 0,1,2 --out runs/ladder\n"
        "python tools/publish_ladder.py runs/ladder/results.json\n```\n\n"
        f"## What the world must show: {held} of {len(made)} hold\n\n{markdown(made)}\n"
        f"## Every figure\n\n{table(results)}"
    )


def publish(results: Results) -> None:
    (ROOT / "docs/ladder.md").write_text(page(results), encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    readme.write_text(before + BEGIN + readme_table(results) + END + rest.split(END)[1])


def main() -> None:
    stored = ROOT / "docs/ladder.json"
    if len(sys.argv) > 1:
        pool(Results.load(sys.argv[1]), distinct=True).save(stored)
    publish(Results.load(stored))


if __name__ == "__main__":
    main()
