"""Writes docs/compare.md and the README's table from docs/compare.json.

    steersman compare --world 11,12,13 --out runs/compare
    python tools/publish_compare.py runs/compare/results.json

No figure is typed by hand; a test compares the page with docs/compare.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from steersman.evals.intervals import pool
from steersman.evals.layout import method_order
from steersman.evals.names import ORACLES, method_title
from steersman.evals.records import Result, Results
from steersman.evals.table import table
from steersman.experiments.goals import goals
from steersman.experiments.rungs import markdown

ROOT = Path(__file__).parents[1]
KINDS = ("text", "image", "both")
SAFETY = (
    *(("safety", kind, "asr", f"attack success, {kind} ↓") for kind in KINDS),
    ("safety", "all", "over_refusal", "over-refusal ↓"),
    ("safety", "all", "refer", "right referral ↑"),
    ("safety", "all", "correct", "right behaviour ↑"),
    ("utility", "all", "accuracy", "utility ↑"),
    ("utility", "all", "unchanged", "utility answers unchanged ↑"),
)
POPE = (
    ("pope", "adversarial", "accuracy", "adversarial ↑"),
    ("pope", "all", "accuracy", "all ↑"),
    ("pope", "all", "f1", "F1 ↑"),
    ("pope", "all", "yes_ratio", "yes ratio"),
    ("utility", "all", "accuracy", "utility ↑"),
)
README = (
    *(("safety", kind, "asr", f"attack success, {kind} ↓") for kind in KINDS),
    ("safety", "all", "over_refusal", "over-refusal ↓"),
    ("safety", "all", "refer", "right referral ↑"),
    ("safety", "all", "correct", "right behaviour ↑"),
    ("pope", "adversarial", "accuracy", "POPE adversarial ↑"),
    ("utility", "all", "accuracy", "utility ↑"),
)
SHOWN = (
    *("none", "prompt", "random", "caa", "cast", "alphasteer", "lm_steer", "autosteer", "mose"),
    *("finesteer", "l2s", "composed", "p2s"),
)
HEAD = """# The field side by side on the bundled world

World seeds {seeds}: nobody looked at them while methods, recipes and search spaces were made. Each
draws its own fit, calibration and test data with disjoint templates and fits every recipe; what a
recipe's `[search]` leaves open is chosen on the calibration split (or, where the recipe has
`[hold_out]`, on calibration rows about objects that were left out of fitting); the test split is
looked at once. A quarter of the objects in how-to questions is asked for in the test split only.
Intervals: the wider of sampling error and spread between seeds; they take rows as independent,
which questions about the same few objects are not. The model is the bundled one throughout: one
training seed. The world is synthetic and made to be steerable: these figures compare methods here
and prove nothing about any real model.

```bash
steersman compare --world {listed} --out runs/compare
python tools/publish_compare.py runs/compare/results.json
```

The recipes are in `src/steersman/world/recipes`; each says what its paper leaves open.
"""


def brief(
    results: Results, columns: tuple[tuple[str, str, str, str], ...], methods: Sequence[str]
) -> str:
    """One line for each method, values with their intervals."""
    lines = ["| | " + " | ".join(c[3] for c in columns) + " |", "|:--|" + "--:|" * len(columns)]
    for method in methods:
        cells = [_cell(results.find(s, method, split, m)) for s, split, m, _ in columns]
        name = method_title(method) + (" (oracle)" if method in ORACLES else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = {s: _n(results, s) for s in dict.fromkeys(c[0] for c in columns)}
    said = ", ".join(f"{name} n {n}" for name, n in counts.items())
    return "\n".join([*lines, "", f"95% intervals; {said} for each method.", ""])


def measured(results: Results, suite: str) -> tuple[str, ...]:
    """The methods that were measured on a suite, in the order of tables."""
    return method_order(Results(results.select(suite=suite)))


def _cell(row: Result | None) -> str:
    if row is None or row.n == 0:
        return ""
    return f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


def _n(results: Results, suite: str) -> int:
    return max((row.n for row in results.select(suite=suite)), default=0)


def page(results: Results) -> str:
    """The whole comparison."""
    seeds = [str(seed) for seed in results.meta["seeds"]]
    made = goals(results)
    held = sum(goal.holds for goal in made)
    head = HEAD.format(
        seeds=" and ".join((", ".join(seeds[:-1]), seeds[-1])), listed=",".join(seeds)
    )
    notes = ROOT / "docs/compare-notes.md"
    return (
        f"{head}\n## Safety\n\n{brief(results, SAFETY, measured(results, 'safety'))}\n"
        f"## Hallucination\n\n{brief(results, POPE, measured(results, 'pope'))}\n"
        f"## What was to be reached: {held} of {len(made)} hold\n\n{markdown(made)}\n"
        "Judged by the point estimates.\n\n"
        f"{notes.read_text(encoding='utf-8') if notes.is_file() else ''}"
        f"## Every figure\n\n{table(results)}"
    )


def main() -> None:
    stored = ROOT / "docs/compare.json"
    if len(sys.argv) > 1:
        whole = Results.load(sys.argv[1])
        pooled = pool(whole, distinct=True)
        Results(pooled.rows, {"seeds": list(whole.unique("seed"))}).save(stored)
    results = Results.load(stored)
    (ROOT / "docs/compare.md").write_text(page(results), encoding="utf-8")
    _fill(ROOT / "README.md", brief(results, README, SHOWN))


def _fill(file: Path, content: str) -> None:
    """Puts `content` between the two comments."""
    begin, end = "<!-- compare:begin -->\n", "<!-- compare:end -->"
    before, rest = file.read_text(encoding="utf-8").split(begin)
    file.write_text(before + begin + content + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
