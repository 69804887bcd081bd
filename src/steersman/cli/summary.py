"""A few columns per suite, for a terminal; the whole is in results.json and the report."""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from steersman.evals.layout import method_order
from steersman.evals.names import METRICS, SUITES, method_title, title
from steersman.evals.records import Result, Results
from steersman.evals.table import number

COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "safety": (
        ("all", "asr"),
        ("all", "refer"),
        ("all", "help"),
        ("all", "over_refusal"),
        ("all", "correct"),
        ("all", "garbled"),
    ),
    "pope": (
        ("all", "accuracy"),
        ("adversarial", "accuracy"),
        ("unusual", "accuracy"),
        ("all", "f1"),
    ),
    "utility": (("all", "accuracy"), ("all", "unchanged"), ("all", "unchanged_closed")),
    "utility-pope": (("all", "accuracy"),),
}  # fmt: skip

KINDS = tuple((kind, m) for kind in ("text", "image", "both") for m in ("correct", "asr"))
"""The safety suite by the kind of threat."""
SHORT = {
    "refer": "Right referral",
    "asr": "Attack success",
    "correct": "Correct",
    "unchanged": "Unchanged",
    "unchanged_closed": "Unchanged, closed",
}


def summaries(results: Results) -> list[Table]:
    """One narrow table per suite; pool several seeds first."""
    return [_summary(results, str(suite)) for suite in results.unique("suite")]


def by_kind(results: Results) -> list[Table]:
    """The safety suite once more, by the kind of threat; nothing where it was not measured."""
    mine = Results(results.select(suite="safety"))
    return [_summary(results, "safety", KINDS)] if mine.rows else []


def _summary(
    results: Results, suite: str, wanted: Sequence[tuple[str, str]] | None = None
) -> Table:
    mine = Results(results.select(suite=suite))
    columns = wanted or COLUMNS.get(suite, [("all", str(m)) for m in mine.unique("metric")[:4]])
    columns = [c for c in columns if _worth_showing(mine, *c)]
    n = max((row.n for row in mine.rows if row.split == "all"), default=0)
    table = Table(
        title=f"{title(suite, SUITES)} (n {n}, 95% intervals)", title_justify="left", box=SIMPLE
    )
    table.add_column("", no_wrap=True)
    for split, metric in columns:
        heading = SHORT.get(metric, title(metric, METRICS))
        table.add_column(heading if split == "all" else f"{heading}, {split}", justify="right")
    for method in method_order(mine):
        cells = []
        for split, metric in columns:
            row = mine.find(suite, method, split, metric)
            cells.append(_cell(row))
        table.add_row(method_title(method), *cells)
    return table


def _worth_showing(results: Results, split: str, metric: str) -> bool:
    """Whether there are figures; garbled answers take a column only where there are some."""
    rows = results.select(split=split, metric=metric)
    return bool(rows) and (metric != "garbled" or max(row.value for row in rows) >= 0.01)


def _cell(row: Result | None) -> Text:
    if row is None or row.n == 0:
        return Text("–", justify="right")
    low, high = (f"{bound:.2f}".removeprefix("0") for bound in (row.low, row.high))
    bounds = f"\n{low}–{high}"
    return Text.assemble(number(row), (bounds, "dim"), justify="right")
