"""Writes docs/ladder.md and the model card's table from docs/ladder.json.

    steersman world ladder --out runs/ladder
    python tools/publish_ladder.py runs/ladder/results.json

No figure in either is typed by hand; a test compares them with docs/ladder.json.
"""

import sys
from pathlib import Path

from steersman.evals.intervals import pool
from steersman.evals.records import Results, load_answers
from steersman.evals.table import table
from steersman.experiments.rungs import markdown, rungs

ROOT = Path(__file__).parents[1]
CARD = (
    *(("utility", task, "accuracy") for task in ("colour", "position", "count", "description")),
    *(("safety", kind, "asr") for kind in ("text", "image", "both")),
    ("safety", "all", "help"),
    ("safety", "all", "correct"),
    *(("pope", split, "accuracy") for split in ("random", "popular", "adversarial", "unusual")),
    *(("pope", "all", metric) for metric in ("precision", "recall")),
)


def card_table(results: Results) -> str:
    """What the unsteered model does."""
    lines = ["| | value | 95% interval | n |", "|:--|--:|--:|--:|"]
    for suite, split, metric in CARD:
        row = results.find(suite, "none", split, metric)
        if row is not None:
            name = f"{suite}, {split}: {metric}"
            lines.append(
                f"| {name} | {row.value:.3f} | {row.low:.3f} to {row.high:.3f} | {row.n} |"
            )
    return "\n".join(lines) + "\n"


def distinct(answers: Path) -> dict[str, list[int]]:
    """By suite: rows of the unsteered model, and different questions among them."""
    asked: dict[str, list[str]] = {}
    for answer in load_answers(answers):
        if answer.method == "none":
            asked.setdefault(answer.suite, []).append(answer.prompt)
    return {suite: [len(rows), len(set(rows))] for suite, rows in sorted(asked.items())}


def repeats(results: Results) -> str:
    """How often questions repeat, in words."""
    counts = results.meta["distinct"].items()
    return ", ".join(f"{n} {suite} rows ask {k} different questions" for suite, (n, k) in counts)


def page(results: Results) -> str:
    """The whole ladder."""
    made = rungs(results)
    held = sum(r.holds for r in made)
    return (
        "# The ladder on the bundled world\n\n"
        "World seeds 3, 4 and 5 (nobody looked at them before). Each draws its own fit, "
        "calibration and test data with disjoint templates, fits every method, chooses layers and "
        "strengths on the calibration split, and looks at the test split once. A quarter of the "
        "objects in "
        "how-to questions is asked for in the test split only. Intervals: the wider of sampling "
        "error and spread between seeds. The model is the bundled one throughout: one training "
        "seed. The world is synthetic; these figures prove nothing about a real model.\n\n"
        "Measured before the safety rows to fit on were drawn in minimal pairs and on blank "
        "pictures; calibration and test rows are the same since. The command draws the new rows, "
        "so its figures will differ a little. How methods compare now: compare.md.\n\n"
        "```bash\nsteersman world ladder --seeds 3,4,5 --out runs/ladder\n"
        "python tools/publish_ladder.py runs/ladder/results.json\n```\n\n"
        f"Intervals take rows as independent. They are not quite: {repeats(results)}; pictures "
        "differ, but harmful requests are about four objects, so what is said of those (attack "
        "success above all) is known less well than its interval says.\n\n"
        f"## What the world must show: {held} of {len(made)} hold\n\n{markdown(made)}\n"
        f"## Every figure\n\n{table(results)}"
    )


def publish(results: Results) -> None:
    (ROOT / "docs/ladder.md").write_text(page(results), encoding="utf-8")
    _fill(ROOT / "src/steersman/world/bundled/README.md", "figures", card_table(results))


def _fill(file: Path, name: str, content: str) -> None:
    """Puts `content` between the two comments of this name."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = file.read_text(encoding="utf-8").split(begin)
    file.write_text(before + begin + content + end + rest.split(end)[1], encoding="utf-8")


def main() -> None:
    stored = ROOT / "docs/ladder.json"
    if len(sys.argv) > 1:
        pooled = pool(Results.load(sys.argv[1]), distinct=True)
        counts = distinct(Path(sys.argv[1]).with_name("answers.jsonl"))
        Results(pooled.rows, {"distinct": counts}).save(stored)
    publish(Results.load(stored))


if __name__ == "__main__":
    main()
