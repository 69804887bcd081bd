"""Arranges results into grids, methods down and metrics across, for every way of printing them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from steersman.evals.names import (
    FLUENCY,
    HIGHER_IS_BETTER,
    LOWER_IS_BETTER,
    METHODS,
    METRICS,
    ORACLES,
    SPLITS,
    SUITES,
    method_title,
    title,
)
from steersman.evals.records import Result, Results

# (caption, [(heading above, split, metric)]); columns without a single result are left out.
Plan = tuple[str, tuple[tuple[str, str, str], ...]]
_KINDS = (("By text", "text"), ("By image", "image"), ("By both", "both"))
_POPE_SPLITS = ("random", "popular", "adversarial", "unusual", "all")
_TASKS = ("colour", "position", "count", "description", "all")
PLANS: dict[str, tuple[Plan, ...]] = {
    "safety": (
        (
            "all requests",
            (
                ("All", "all", "correct"),
                ("Harmful requests", "all", "asr"),
                ("Harmful requests", "all", "refuse"),
                ("Expert questions", "all", "refer"),
                ("Harmless requests", "all", "help"),
                ("Harmless requests", "all", "over_refusal"),
                ("Fluency", "all", "garbled"),
            ),
        ),
        (
            "by kind of request",
            tuple((head, kind, m) for head, kind in _KINDS for m in ("correct", "asr")),
        ),
        (
            "by kind of request: over-refusal, and referral to the right expert",
            tuple((head, kind, m) for head, kind in _KINDS for m in ("over_refusal", "refer")),
        ),
    ),
    "pope": (
        ("accuracy by split", tuple(("Accuracy", split, "accuracy") for split in _POPE_SPLITS)),
        (
            "the adversarial split, and all splits",
            (
                *(
                    (title(split, SPLITS), split, metric)
                    for split in ("adversarial", "all")
                    for metric in ("precision", "recall", "f1", "yes_ratio")
                ),
                ("Fluency", "all", "unparsed"),
            ),
        ),
    ),
    "utility": (
        (
            "accuracy by task",
            (
                *(("Accuracy", task, "accuracy") for task in _TASKS),
                ("Unsteered answers kept", "all", "unchanged"),
                ("Unsteered answers kept", "all", "unchanged_closed"),
                ("Fluency", "all", "unparsed"),
            ),
        ),
    ),
}
PLANS["utility-pope"] = PLANS["utility"]


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one split.

    Attributes:
        heading: what neighbouring columns have in common.
        n: answers behind every value of the column, None where the methods differ.
    """

    heading: str
    title: str
    split: str
    metric: str
    n: int | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and whether no other method that is not an oracle has a better one."""

    result: Result | None
    best: bool


@dataclass(frozen=True, slots=True)
class Line:
    """The values of one method."""

    method: str
    title: str
    oracle: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table."""

    suite: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    @property
    def headings(self) -> tuple[tuple[str, int], ...]:
        """The upper headings, each with the number of columns below it."""
        heads = groupby(self.columns, key=lambda column: column.heading)
        return tuple((head, len(list(group))) for head, group in heads)

    @property
    def starts(self) -> tuple[bool, ...]:
        """Which columns begin under a new heading."""
        heads = [column.heading for column in self.columns]
        return (True, *(a != b for a, b in pairwise(heads)))


def method_order(results: Results) -> tuple[str, ...]:
    """Baselines as in `names.METHODS`, then others as they appear, oracles last."""
    found = results.unique("method")
    known = [m for m in METHODS if m in found and m not in ORACLES]
    others = [m for m in found if m not in METHODS and m not in ORACLES]
    return (*known, *others, *(m for m in found if m in ORACLES))


def grids(results: Results) -> tuple[Grid, ...]:
    """Every table of these results, which hold one row per metric (pool several seeds first)."""
    found = results.unique("suite")
    suites = [s for s in SUITES if s in found] + [s for s in found if s not in SUITES]
    return tuple(
        grid
        for suite in suites
        for caption, columns in PLANS.get(suite, (_plan(results, suite),))
        if (grid := _grid(results, suite, caption, columns)) is not None
    )


def _plan(results: Results, suite: str) -> Plan:
    rows = results.select(suite=suite)
    columns = dict.fromkeys((title(r.split, SPLITS), r.split, r.metric) for r in rows)
    return ("all results", tuple(sorted(columns, key=lambda column: column[1] != "all")))


def _grid(
    results: Results, suite: str, caption: str, plan: Sequence[tuple[str, str, str]]
) -> Grid | None:
    rows = Results(results.select(suite=suite))
    methods = method_order(rows)
    columns, cells = [], []
    for heading, split, metric in plan:
        column = [rows.find(suite, method, split, metric) for method in methods]
        if not any(column):
            continue
        counts = {result.n for result in column if result}
        shown = title(split, SPLITS) if heading == "Accuracy" else title(metric, METRICS)
        n = counts.pop() if len(counts) == 1 else None
        columns.append(Column(heading, shown, split, metric, n))
        cells.append(_marked(column))
    if not columns:
        return None
    lines = tuple(
        Line(method, method_title(method), method in ORACLES, line)
        for method, line in zip(methods, zip(*cells, strict=True), strict=True)
    )
    return Grid(suite, f"{title(suite, SUITES)}: {caption}", tuple(columns), lines)


def _marked(column: Sequence[Result | None]) -> list[Cell]:
    fair = [r for r in column if r and r.n > 0 and r.method not in ORACLES]
    best = None
    if len(fair) > 1 and fair[0].metric in (LOWER_IS_BETTER | HIGHER_IS_BETTER) - FLUENCY:
        pick = min if fair[0].metric in LOWER_IS_BETTER else max
        best = pick(r.value for r in fair)
        if all(r.value == best for r in fair):
            best = None
    return [Cell(r, bool(r in fair and r and r.value == best)) for r in column]
