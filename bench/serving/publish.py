"""Writes the tables of docs/bench-serve.md and docs/serve-plan.md from docs/serve-bench.json.

    cp runs/bench/serve.json docs/serve-bench.json
    PYTHONPATH=bench python -m serving.publish

What stands between the comments `NAME:begin` and `NAME:end` of a page is replaced; no figure is
typed by hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.model import Traffic, replicas

from steersman.evals.records import Result, Results

DOCS = Path(__file__).parents[2] / "docs"
SCALES = {
    "ttft": 1000.0,
    "tpot": 1000.0,
    "seconds_per_token": 1000.0,
    "hits": 100.0,
    "client": 100.0,
}
SCALES |= dict.fromkeys(("seconds_per_prompt_token", "seconds_per_new_token"), 1e3)
SCALES |= {"seconds_per_request": 1e3}
TITLES = {
    "tokens_per_second": "Tokens per second, all clients together",
    "ttft": "Time to first token, ms",
    "tpot": "Time per output token, ms",
    "seconds_per_token_to_vanilla": "Time of a token (of a run, by its tokens), to vanilla vLLM's",
    "seconds_per_token_to_idle": "The same, relative to the idle plugin in the same process",
    "ttft_to_vanilla": "Time to first token, relative to vanilla vLLM",
    "tpot_to_vanilla": "Time per output token, relative to vanilla vLLM",
    "seconds_per_token_to_one": "Time of a token, relative to one policy at one strength",
    "ttft_to_idle": "Time to first token, relative to the idle plugin",
    "hits": "Prompt tokens that the prefix cache had, percent",
    "client": "Share of a core that the client took, percent: near 100, it is the client that is "
    "measured",
    "seconds_per_request": "Milliseconds per request",
    "seconds_per_prompt_token": "Milliseconds per prompt token",
    "seconds_per_new_token": "Milliseconds per new token",
}
STEPS = tuple(TITLES)[:8]
BLOCKS: Mapping[str, tuple[str, ...]] = {
    "prefix": ("hits", "ttft", "ttft_to_vanilla"),
    "costs": tuple(TITLES)[-3:],
    "http": (*STEPS[:3], "client", "seconds_per_token_to_vanilla", "seconds_per_token_to_idle"),
    "embedded": (*STEPS[:3], "client", "seconds_per_token_to_idle"),
}
MIXES: Sequence[tuple[str, Mapping[str, float]]] = (
    ("nobody is steered", {}),
    ("all have a static vector", {"static": 1.0}),
    ("half have L2S", {"l2s": 0.5}),
    ("all have FineSteer", {"finesteer": 1.0}),
    ("all have AutoSteer", {"autosteer": 1.0}),
    ("half have L2S that reads above (a probe pass)", {"l2s_probe": 0.5}),
)


def cell(row: Result | None) -> str:
    if row is None:
        return ""
    scale = SCALES.get(row.metric, 1.0)
    value, low, high = (f"{scale * n:.4g}" for n in (row.value, row.low, row.high))
    return f"{value} [{low}, {high}]"


def grid(results: Results, metric: str, splits: Sequence[str]) -> str:
    """Methods down, splits across; empty if there is none."""
    rows = [row for row in results.select(metric=metric) if row.split in splits]
    if not rows:
        return ""
    used = [split for split in splits if any(row.split == split for row in rows)]
    lines = [f"{TITLES[metric]}:\n", f"| | {' | '.join(used)} |", f"|:--|{'--:|' * len(used)}"]
    for method in dict.fromkeys(row.method for row in rows):
        found = {row.split: row for row in rows if row.method == method}
        lines.append(f"| {method} | {' | '.join(cell(found.get(s)) for s in used)} |")
    return "\n".join(lines) + "\n"


def part_of(split: str) -> str:
    """The part of the benchmark that a split is from."""
    return next((part for part in BLOCKS if f"-{part}" in split), "steps")


def conditions(meta: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    how = "eager" if meta["eager"] else "compiled"
    return (
        f"{meta['date']}: {meta['device']}, {meta['dtype']}, {how}, {versions}; "
        f"{meta['sittings']} sittings of {meta['rounds']} rounds.\n"
    )


def aims_table(meta: Mapping[str, Any], results: Results) -> str:
    """What the aims say."""
    lines = ["| | | at most | measured | |", "|:--|:--|--:|--:|:--|"]
    for aim in meta["aims"]:
        row = results.find("serve", aim["method"], aim["split"], aim["metric"])
        to = aim["metric"].rpartition("_to_")[2]
        limit = f"{'±' if to == 'one' else ''}{100 * aim['limit']:g}%"
        what = f"{aim['method']}, to {to}"
        lines.append(f"| {aim['split']} | {what} | {limit} | {cell(row)} | {aim['verdict']} |")
    return "\n".join(lines) + "\n"


def capacity(meta: Mapping[str, Any]) -> str:
    """Replicas for 1,000 requests a second."""
    lines: list[str] = []
    for split, found in meta["fits"].items():
        traffic = Traffic(1000, 200, 50, {}, 0.6)
        lines += [
            f"{split.removesuffix('-costs')}, {meta['device']}, {meta['dtype']}: replicas for "
            f"1,000 requests per second of 200 + 50 tokens at a load of 60%.\n",
            "| | replicas |\n|:--|--:|",
        ]
        for name, shares in MIXES:
            asked = Traffic(traffic.rate, traffic.prompt, traffic.new, shares, traffic.load)
            value, low, high = replicas(asked, found["rounds"])
            lines.append(f"| {name} | {value:,} [{low:,}, {high:,}] |")
        lines.append("")
    return "\n".join(lines)


def filled(page: str, name: str, content: str) -> str:
    """The page with `content` between the two comments.

    Raises:
        SystemExit: the page has no such comments.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in page or end not in page:
        raise SystemExit(f"The page has no {begin.strip()} with {end} behind it. Write both.")
    before, rest = page.split(begin)
    return f"{before}{begin}{content}{end}{rest.split(end)[1]}"


def main() -> None:
    results = Results.load(DOCS / "serve-bench.json")
    meta, page = results.meta, DOCS / "bench-serve.md"
    text = page.read_text()
    text = filled(text, "aims", f"{conditions(meta)}\n{aims_table(meta, results)}")
    for part in ("steps", *BLOCKS):
        splits = [s for s in results.unique("split") if part_of(s) == part]
        tables = [grid(results, metric, splits) for metric in BLOCKS.get(part, STEPS)]
        text = filled(text, part, "\n".join(t for t in tables if t))
    page.write_text(text)
    plan = DOCS / "serve-plan.md"
    if meta["fits"]:
        plan.write_text(filled(plan.read_text(), "capacity", capacity(meta)))


if __name__ == "__main__":
    main()
