"""Plots as inline SVG: bars with interval whiskers, and the trade-off of effect against harm."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
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

INK, MUTED, GRID = "#1c2733", "#5a6675", "#e3e7ec"
UNSTEERED_COLOUR, SUBJECT_COLOUR, BASELINE_COLOUR = "#98a2ae", "#0b7a75", "#8fb3cf"
ORACLE_EDGE = "#8a6d1f"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "steersman",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.7,
}
BARS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("safety", "correct", ("text", "image", "both", "all")),
    ("safety", "asr", ("text", "image", "both", "all")),
    ("pope", "accuracy", ("random", "popular", "adversarial", "unusual")),
    ("utility", "accuracy", ("colour", "position", "count", "description")),
)
# (suite, metric, split) of what is bought (upwards) and of what it costs (to the right)
Axis = tuple[str, str, str]
Box = tuple[float, float, float, float]  # left, bottom, right, top
Alignment = Literal["left", "right", "center"]
ALIGNMENTS: tuple[Alignment, ...] = ("left", "right", "center")
TRADES: tuple[tuple[Axis, Axis], ...] = (
    (("safety", "asr", "all"), ("safety", "over_refusal", "all")),
    (("pope", "accuracy", "adversarial"), ("utility-pope", "accuracy", "all")),
)


class Place(NamedTuple):
    """Where a name stands beside its point, in fractions of the axes."""

    box: Box
    anchor: tuple[float, float]
    align: Alignment
    far: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture.

    Attributes:
        alt: what it shows, in words and numbers.
        wide: takes the whole width of the page.
    """

    title: str
    caption: str
    alt: str
    svg: str
    wide: bool


def plots(results: Results, subject: str) -> tuple[Plot, ...]:
    """Every plot for which there are results of at least two methods."""
    made: list[Plot] = []
    with mpl.rc_context(STYLE):
        for suite, metric, splits in BARS:
            made += _bars(results, suite, metric, splits, subject=subject, prefix=f"p{len(made)}")
        for effect, cost in TRADES:
            made += _trade(results, effect, cost, subject, f"p{len(made)}")
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
            _svg(figure, prefix),
            wide=True,
        )
    ]


def _trade(results: Results, effect: Axis, cost: Axis, subject: str, prefix: str) -> list[Plot]:
    points = []
    for method in method_order(results):
        y = results.find(effect[0], method, effect[2], effect[1])
        x = results.find(cost[0], method, cost[2], cost[1])
        if x and y and x.n and y.n:
            points.append((x, y))
    if len(points) < 2:
        return []
    figure = Figure(figsize=(4.6, 3.7), layout="constrained")
    ax = figure.subplots()
    for x, y in points:
        colour = _colour(x.method, subject)
        edge = ORACLE_EDGE if x.method in ORACLES else colour
        ax.errorbar(
            x.value,
            y.value,
            xerr=[[x.value - x.low], [x.high - x.value]],
            yerr=[[y.value - y.low], [y.high - y.value]],
            fmt="D" if x.method in ORACLES else "o",
            markersize=7,
            markerfacecolor="white" if x.method in ORACLES else colour,
            color=edge,
            elinewidth=1,
            alpha=0.95,
        )
    ax.set_xlim(*_span([x for x, _ in points]))
    ax.set_ylim(*_span([y for _, y in points]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=0)
    ax.set_axisbelow(True)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_xlabel(_axis_name(cost))
    ax.set_ylabel(_axis_name(effect))
    _name_points(ax, points, subject)
    across, upwards = _axis_name(cost), _axis_name(effect)
    said = "; ".join(f"{_said(y)}, {across} {x.value:.0%}" for x, y in points)
    right, top = cost[1] not in LOWER_IS_BETTER, effect[1] not in LOWER_IS_BETTER
    corner = f"{'Top' if top else 'Bottom'} {'right' if right else 'left'}"
    return [
        Plot(
            f"{upwards} against {across.lower()}",
            f"{corner} is best. Whiskers are 95% intervals.",
            f"Scatter plot. {upwards} against {across}. {corner} is best. {said}.",
            _svg(figure, prefix),
            wide=False,
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


def _span(results: Sequence[Result]) -> tuple[float, float]:
    """Limits of an axis that holds every whisker, with room for names."""
    low, high = min(r.low for r in results), max(r.high for r in results)
    room = 0.12 * max(high - low, 0.1)
    return low - room, high + room


def _name_points(ax: Axes, points: Sequence[tuple[Result, Result]], subject: str) -> None:
    """Writes each name at the best place around its point, with a line where that is not near."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()

    def box(x: tuple[float, float], y: tuple[float, float], room: float) -> Box:
        a, b = ((v - left) / (right - left) for v in x)
        c, d = ((v - bottom) / (top - bottom) for v in y)
        return (a - room, c - room, b + room, d + room)

    dots = [box((x.value, x.value), (y.value, y.value), 0.022) for x, y in points]
    across = [box((x.low, x.high), (y.value, y.value), 0.004) for x, y in points]
    upwards = [box((x.value, x.value), (y.low, y.high), 0.004) for x, y in points]
    for dot, (result, other) in zip(list(dots), points, strict=True):
        name = method_title(result.method)
        place = _place(dot, 0.0185 * len(name), hard=dots, soft=[*across, *upwards])
        dots.append(place.box)
        ax.annotate(
            name,
            xy=(result.value, other.value),
            xytext=place.anchor,
            textcoords="axes fraction",
            ha=place.align,
            va="center",
            fontsize=9,
            fontweight="bold" if result.method == subject else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6} if place.far else None,
        )


def _place(dot: Box, width: float, *, hard: Sequence[Box], soft: Sequence[Box]) -> Place:
    """Where a name collides least: not with names and points, and rather not with whiskers."""
    x, y = (dot[0] + dot[2]) / 2, (dot[1] + dot[3]) / 2
    best, least = None, float("inf")
    for step, align in product(range(-5, 6), ALIGNMENTS):
        if align == "center" and step == 0:
            continue
        anchor = x + {"left": 0.03, "right": -0.03, "center": 0.0}[align]
        start = anchor - width * {"left": 0.0, "right": 1.0, "center": 0.5}[align]
        middle = y + 0.055 * step
        box = (start, middle - 0.026, start + width, middle + 0.026)
        outside = box[0] < 0 or box[2] > 1.04 or box[1] < 0 or box[3] > 1
        hits = sum(_overlap(box, near) for near in hard)
        cost = 100 * outside + 10 * hits + sum(_overlap(box, near) for near in soft)
        cost += 0.8 * abs(step)
        if cost < least:
            far = abs(step) > 1
            best, least = Place(box, (anchor, middle), align, far), cost
    assert best is not None
    return best


def _overlap(a: Box, b: Box) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])


def _axis_name(axis: Axis) -> str:
    suite, metric, split = axis
    where = "" if split == "all" else f" ({split})"
    if suite == "safety":
        return title(metric, METRICS) + where
    name = {"pope": "POPE"}.get(suite, title(suite, SUITES))
    return f"{name} {title(metric, METRICS).lower()}{where}"


def _said(result: Result) -> str:
    split = "" if result.split == "all" else f" ({result.split})"
    if result.n == 0:
        return f"{method_title(result.method)}{split} not defined"
    return (
        f"{method_title(result.method)}{split} {result.value:.0%}, "
        f"interval {result.low:.0%} to {result.high:.0%}"
    )


def _svg(figure: Figure, prefix: str) -> str:
    """The SVG element alone: no prolog, no metadata, no name spaces, ids unique in the page."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-").replace("xlink:href", "href")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
