"""Bars with interval whiskers, one panel per split."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from steersman.evals.layout import method_order
from steersman.evals.names import (
    LOWER_IS_BETTER,
    METRICS,
    ORACLES,
    SPLITS,
    SUITES,
    UNSTEERED,
    method_title,
    title,
)
from steersman.evals.records import Result, Results
from steersman.evals.report.canvas import (
    BASELINE_COLOUR,
    GRID,
    INK,
    MUTED,
    ORACLE_EDGE,
    STYLE,
    SUBJECT_COLOUR,
    UNSTEERED_COLOUR,
    Plot,
    svg,
)

BARS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("safety", "correct", ("text", "image", "both", "all")),
    ("safety", "asr", ("text", "image", "both", "all")),
    ("pope", "accuracy", ("random", "popular", "adversarial", "unusual")),
    ("utility", "accuracy", ("colour", "position", "count", "description")),
)


def plots(results: Results, subject: str) -> tuple[Plot, ...]:
    """Every plot for which there are results of at least two methods."""
    made: list[Plot] = []
    with mpl.rc_context(STYLE):
        for suite, metric, splits in BARS:
            made += _bars(results, suite, metric, splits, subject=subject, prefix=f"p{len(made)}")
    return tuple(made)


def _bars(
    results: Results, suite: str, metric: str, splits: Sequence[str], *, subject: str, prefix: str
) -> list[Plot]:
    rows = Results(results.select(suite=suite, metric=metric))
    present = [s for s in splits if rows.select(split=s)]
    methods = method_order(rows)
    if len(methods) < 2 or not present:
        return []
    figure = Figure(figsize=(9.2, 0.75 + 0.34 * len(methods)), layout="constrained")
    axes = figure.subplots(1, len(present), sharey=True, squeeze=False)[0]
    said = []
    for ax, split in zip(axes, present, strict=True):
        for y, method in enumerate(methods):
            if result := rows.find(suite, method, split, metric):
                _bar(ax, y, result, subject)
                said.append(_said(result))
        _percent_axis(ax)
        ax.set_title(title(split, SPLITS), loc="left", color=INK)
        ax.set_yticks(range(len(methods)), [method_title(m) for m in methods])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(methods) - 0.4, -0.6)
        ax.grid(axis="x", color=GRID, linewidth=0.8)
    better = "lower" if metric in LOWER_IS_BETTER else "higher"
    name = f"{title(suite, SUITES)}: {title(metric, METRICS).lower()}"
    return [
        Plot(
            name,
            f"{better.capitalize()} is better. Whiskers are 95% intervals.",
            f"Bar chart. {name}, {better} is better. {'; '.join(said)}.",
            svg(figure, prefix),
            wide=True,
        )
    ]


def _bar(ax: Axes, y: int, result: Result, subject: str) -> None:
    if result.n == 0:
        ax.text(0.02, y, "not defined", va="center", color=MUTED, fontsize=8)
        return
    oracle = result.method in ORACLES
    ax.barh(
        y,
        result.value,
        height=0.62,
        color="white" if oracle else _colour(result.method, subject),
        edgecolor=ORACLE_EDGE if oracle else "none",
        hatch="////" if oracle else None,
    )
    errors = [[result.value - result.low], [result.high - result.value]]
    ax.errorbar(result.value, y, xerr=errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    ax.text(1.07, y, f"{result.value:.0%}", va="center", fontsize=9, color=INK)


def _colour(method: str, subject: str) -> str:
    if method == UNSTEERED:
        return UNSTEERED_COLOUR
    return SUBJECT_COLOUR if method == subject else BASELINE_COLOUR


def _percent_axis(ax: Axes) -> None:
    ax.set_xlim(0, 1.32)
    ax.set_xticks([0, 0.5, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.tick_params(axis="x", length=0)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)


def _said(result: Result) -> str:
    split = "" if result.split == "all" else f" ({result.split})"
    if result.n == 0:
        return f"{method_title(result.method)}{split} not defined"
    return (
        f"{method_title(result.method)}{split} {result.value:.0%}, "
        f"interval {result.low:.0%} to {result.high:.0%}"
    )
