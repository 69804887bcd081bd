"""Writes the tables of docs/bench.md from docs/generate.json, docs/fit.json and docs/capture.json.

    python bench/generate.py --peers --json runs/bench/generate.json
    python tools/publish_bench.py runs/bench/generate.json

The suite of a file's rows says which block it fills; other blocks stay as they are. No figure in
the tables is typed by hand; tests compare them with what is stored in docs.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steersman.evals.records import Result, Results

ROOT = Path(__file__).parents[1]
TITLES: Mapping[str, Mapping[str, str]] = {
    "generate": {
        "tokens_per_second": "Tokens per second, all rows together",
        "ratio": "Time, relative to the unsteered model",
        "share": "Time inside steering's own code, relative to the rest of the run, percent",
        "ratio_to_one": "32 policies in a batch, relative to one",
        "added_memory": "Added memory, KiB",
    },
    "fit": {
        "speedup": "Time of the reference, relative to ours",
        "seconds": "Seconds",
        "seconds_reference": "Seconds of the reference",
        "loss": "Loss",
        "loss_reference": "Loss of the reference",
        "peak_memory": "Peak memory of the whole process, MiB",
        "peak_memory_reference": "Peak memory of the reference's process, MiB",
    },
    "capture": {
        "rows_per_second": "Contrast pairs per second",
        "ratio_to_floor": "Time, relative to the floor",
        "speedup_over_best_peer": "Time of the fastest other way, relative to ours",
        "ratio_to_first": "Time of reading again, relative to the first time",
        "peak_memory": "Peak memory, MiB",
        "peak_memory_4n": "Peak memory over four times the pairs, MiB",
        "memory_growth": "Growth of the peak, relative to the rows that came in addition",
    },
}
"""By suite, what is shown, and its title. A metric without a title is shown by its name."""
DIGITS = {
    "tokens_per_second": 1,
    "share": 2,
    "rows_per_second": 2,
    "ratio_to_first": 4,
    "seconds": 2,
    "speedup": 2,
}


def cell(row: Result | None) -> str:
    """One figure with its interval, as precise as it is worth."""
    if row is None:
        return ""
    metric = row.metric.removesuffix("_reference")
    if metric == "added_memory":
        return f"{row.value / 1024:.0f}"
    if metric.startswith("peak_memory"):
        return f"{row.value:.0f}"
    digits = DIGITS.get(metric, 3)
    shown = (100 * n if metric == "share" else n for n in (row.value, row.low, row.high))
    value, low, high = (f"{n:.{digits}f}" for n in shown)
    return value if row.n == 1 else f"{value} [{low}, {high}]"


def grid(results: Results, metric: str) -> str:
    """Methods down, splits across."""
    rows = Results(results.select(metric=metric))
    splits = rows.unique("split")
    lines = [f"| | {' | '.join(splits)} |", f"|:--|{'--:|' * len(splits)}"]
    for method in rows.unique("method"):
        found = {row.split: row for row in rows.select(method=method)}
        lines.append(f"| {method} | {' | '.join(cell(found.get(s)) for s in splits)} |")
    return "\n".join(lines) + "\n"


def conditions(meta: Mapping[str, Any]) -> str:
    """What it was measured on, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    what = [str(meta[key]) for key in ("shape", "dtype") if key in meta]
    what += [f"width {meta['d']}"] if "d" in meta else []
    blocks = ", compiled blocks" if meta.get("compiled") else ""
    rounds = f", {meta['rounds']} rounds" if "rounds" in meta else ""
    return (
        f"{meta['date']}: {', '.join(what)}{blocks}, {meta['device']}, {meta['threads']} threads, "
        f"{versions}{rounds}.\n"
    )


def notes(peers: Mapping[str, Any]) -> str:
    """What is known of each peer."""
    lines = [
        f"- {name}, with transformers {found['versions']['transformers']}: {note}."
        for found in peers.values()
        for name, note in found["notes"].items()
    ]
    return "\n".join(lines) + "\n" if lines else ""


def counted(results: Results) -> str:
    """How many pairs are behind the values, where that differs by method."""
    rows = Results(results.select(suite="capture", metric="rows_per_second"))
    told = [
        f"{method} {', '.join(f'{row.n} ({row.split})' for row in rows.select(method=method))}"
        for method in rows.unique("method")
    ]
    return f"Pairs behind a value: {'; '.join(told)}.\n" if told else ""


def suite_of(results: Results) -> str:
    """The block that the rows fill.

    Raises:
        SystemExit: rows of several suites, or of one that has no block.
    """
    found = results.unique("suite")
    if len(found) != 1 or found[0] not in TITLES:
        raise SystemExit(
            f"The rows are of {', '.join(found) or 'no suite'}; docs/bench.md has a block for rows "
            f"of one of {', '.join(TITLES)}."
        )
    return found[0]


def block(results: Results) -> str:
    """All that stands between the two comments of a suite."""
    titles = TITLES[suite_of(results)]
    metrics = results.unique("metric")
    ordered = [m for m in titles if m in metrics] + [m for m in metrics if m not in titles]
    meta = dict(results.meta)
    parts: Sequence[str] = [f"{titles.get(m, m)}:\n\n{grid(results, m)}" for m in ordered]
    told = [conditions(meta), *parts, counted(results), notes(meta.get("peers", {}))]
    return "\n".join(part for part in told if part).rstrip() + "\n"


def filled(page: str, content: str, suite: str = "generate") -> str:
    """The page with `content` between the two comments of the suite.

    Raises:
        SystemExit: the page has no such comments.
    """
    begin, end = f"<!-- {suite}:begin -->\n", f"<!-- {suite}:end -->"
    if begin not in page or end not in page:
        raise SystemExit(f"The page has no {begin.strip()} with {end} behind it. Write both.")
    before, rest = page.split(begin)
    return before + begin + content + end + rest.split(end)[1]


def main() -> None:
    page = ROOT / "docs/bench.md"
    for given in sys.argv[1:]:
        made = Results.load(given)
        made.save(ROOT / f"docs/{suite_of(made)}.json")
    text = page.read_text(encoding="utf-8")
    for suite in TITLES:
        stored = ROOT / f"docs/{suite}.json"
        if stored.exists():
            text = filled(text, block(Results.load(stored)), suite)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
