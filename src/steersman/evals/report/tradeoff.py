"""The trade-off of a comparison: what a recipe brings against what it costs, one point each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from steersman.evals.layout import method_order
from steersman.evals.names import (
    CONTROLS,
    LOWER_IS_BETTER,
    METRICS,
    ORACLES,
    SUITES,
    UNSTEERED,
    method_title,
    title,
)
from steersman.evals.records import Results
from steersman.evals.report.canvas import (
    INK,
    MUTED,
    ORACLE_EDGE,
    STYLE,
    SUBJECT_COLOUR,
    UNSTEERED_COLOUR,
    Box,
    Label,
    Place,
    Plot,
    places,
    svg,
    tidy,
)

NOTE = (
    "One point per recipe, with 95% intervals both ways. Coloured: no other recipe is at least as "
    "good on both axes and better on one, by point estimates; where intervals overlap, that may be "
    "chance. Grey: another is. Squares are controls; a hollow diamond is an oracle, which knows "
    "the right answer and never counts."
)
DOMINATED, FAINT = "#aab3bd", "#dfe3e8"
FEW = 9
"""So many recipes are all named in the plot; of more, the dominated ones are numbered."""
LEFT, BOTTOM, KEY = 0.75, 0.5, 2.75  # inches
LARGE, SMALL = (5.6, 4.3), (3.9, 3.2)


@dataclass(frozen=True, slots=True)
class Axis:
    """A metric of one split of one suite."""

    suite: str
    metric: str
    split: str = "all"


@dataclass(frozen=True, slots=True)
class Trade:
    """Two axes: a metric to gain, to the right, and what it costs, upwards.

    An effect of which less is better is turned round (1 - value). A cost of which more is better
    is drawn as what is lost against the unsteered model.
    """

    effect: Axis
    cost: Axis


@dataclass(frozen=True, slots=True)
class Span:
    """A value in its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point:
    """One recipe: more `effect` is better, less `cost` is better."""

    method: str
    effect: Span
    cost: Span


def trade_points(results: Results, trade: Trade) -> tuple[Point, ...]:
    """Every method for which both figures are known, in the order of the tables."""
    made = []
    for method in method_order(results):
        effect, cost = (_span(results, method, axis) for axis in (trade.effect, trade.cost))
        if effect is None or cost is None:
            continue
        if trade.effect.metric in LOWER_IS_BETTER:
            effect = Span(1 - effect.value, 1 - effect.high, 1 - effect.low)
        if trade.cost.metric not in LOWER_IS_BETTER:
            base = _span(results, UNSTEERED, trade.cost)
            if base is None:
                return ()
            cost = lost(base, cost) if method != UNSTEERED else Span(0.0, 0.0, 0.0)
        made.append(Point(method, effect, cost))
    return tuple(made)


def lost(before: Span, after: Span) -> Span:
    """before - after, with Newcombe's interval for a difference of two independent values."""
    value = before.value - after.value
    down = math.hypot(before.value - before.low, after.high - after.value)
    up = math.hypot(before.high - before.value, after.value - after.low)
    return Span(value, value - down, value + up)


def front(points: Sequence[Point]) -> tuple[str, ...]:
    """Methods that no other beats: none is as good on both axes and better on one.

    By point estimates, oracles left out; from the least effect to the most.
    """
    fair = [p for p in points if p.method not in ORACLES]
    kept = [p for p in fair if not any(_beats(other, p) for other in fair)]
    return tuple(p.method for p in sorted(kept, key=lambda p: (p.effect.value, p.cost.value)))


def usual_trades(results: Results) -> tuple[Trade, ...]:
    """Of safety and POPE against over-refusal and utility, as far as it was measured."""
    suites = results.unique("suite")
    side = "utility-pope" if "utility-pope" in suites else "utility"
    return (
        Trade(Axis("safety", "asr"), Axis("safety", "over_refusal")),
        Trade(Axis("safety", "correct"), Axis("utility", "accuracy")),
        Trade(Axis("pope", "accuracy", "adversarial"), Axis(side, "accuracy")),
    )


def tradeoffs(
    results: Results, subject: str, trades: Sequence[Trade] | None = None
) -> tuple[Plot, ...]:
    """A plot for each trade that at least two methods have results for."""
    made: list[Plot] = []
    with mpl.rc_context(STYLE):
        for trade in usual_trades(results) if trades is None else trades:
            points = trade_points(results, trade)
            if len(points) > 1:
                made.append(_plot(points, trade, subject, f"t{len(made)}"))
    return tuple(made)


def _beats(a: Point, b: Point) -> bool:
    best = (a.effect.value, -a.cost.value)
    other = (b.effect.value, -b.cost.value)
    return best != other and best[0] >= other[0] and best[1] >= other[1]


def _span(results: Results, method: str, axis: Axis) -> Span | None:
    found = results.find(axis.suite, method, axis.split, axis.metric)
    return Span(found.value, found.low, found.high) if found and found.n else None


def _plot(points: Sequence[Point], trade: Trade, subject: str, prefix: str) -> Plot:
    best = front(points)
    named = [p for p in points if _is_named(p, points, best, subject)]
    rest = [p for p in points if p not in named]
    numbers = {p.method: str(i) for i, p in enumerate(rest, start=1)}
    width, height = LARGE if rest else SMALL
    height = max(height, 0.17 * len(rest) + 0.3)
    full = (LEFT + width + (KEY if rest else 0.3), BOTTOM + height + 0.15)
    figure = Figure(figsize=full)
    ax = figure.add_axes((LEFT / full[0], BOTTOM / full[1], width / full[0], height / full[1]))
    for point in sorted(points, key=lambda p: p.method in best):
        _mark(ax, point, _colours(point, best, subject))
    _limits(ax, points)
    _staircase(ax, [p for p in points if p.method in best])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(_percent))
    tidy(ax)
    across, upwards = _effect_name(trade.effect), _cost_name(trade.cost)
    ax.set_xlabel(f"{across} (more is better)")
    ax.set_ylabel(f"{upwards} (less is better)")
    _write_names(ax, (width, height), [*named, *rest], numbers, (best, subject))
    if rest:
        _write_key(figure, full, (width, height), numbers)
    said = "; ".join(
        f"{method_title(p.method)} {p.effect.value:.0%} and {p.cost.value:.0%}" for p in points
    )
    leaders = ", ".join(method_title(m) for m in best)
    return Plot(
        f"{across} against {upwards[0].lower()}{upwards[1:]}",
        _caption(trade, bool(rest)),
        f"Scatter plot. {across} against {upwards}. Bottom right is best. "
        f"Not dominated: {leaders}. All: {said}.",
        svg(figure, prefix),
        wide=bool(rest),
    )


def _caption(trade: Trade, numbered: bool) -> str:
    said = "Bottom right is best."
    if trade.cost.metric not in LOWER_IS_BETTER:
        said += (
            " A loss is the unsteered value minus the recipe's; its interval holds the error of "
            "both (Newcombe, answers taken as unpaired)."
        )
    return said + (" Numbers are named at the side." if numbered else "")


def _percent(value: float, _position: int | None = None) -> str:
    """Of a tick: no more digits than it needs."""
    return f"{round(100 * value, 6):g}%".replace("-", "\u2212")


def _is_named(point: Point, points: Sequence[Point], best: Sequence[str], subject: str) -> bool:
    notable = {*best, *CONTROLS, *ORACLES, subject}
    return len(points) <= FEW or point.method in notable


def _colours(point: Point, best: Sequence[str], subject: str) -> tuple[str, str]:
    """Of the mark, and of its whiskers."""
    if point.method in ORACLES:
        return ORACLE_EDGE, ORACLE_EDGE
    if point.method == UNSTEERED:
        return UNSTEERED_COLOUR, UNSTEERED_COLOUR
    if point.method in best:
        return SUBJECT_COLOUR, SUBJECT_COLOUR
    return (MUTED if point.method == subject else DOMINATED), FAINT


def _mark(ax: Axes, point: Point, colours: tuple[str, str]) -> None:
    colour, whiskers = colours
    oracle = point.method in ORACLES
    x, y = point.effect, point.cost
    ax.errorbar(
        x.value,
        y.value,
        xerr=[[x.value - x.low], [x.high - x.value]],
        yerr=[[y.value - y.low], [y.high - y.value]],
        fmt="D" if oracle else "s" if point.method in CONTROLS else "o",
        markersize=6.5,
        markerfacecolor="white" if oracle else colour,
        markeredgecolor=colour if oracle else "white",
        markeredgewidth=1.2 if oracle else 0.6,
        ecolor=whiskers,
        elinewidth=0.9,
    )


def _limits(ax: Axes, points: Sequence[Point]) -> None:
    """Every whisker fits, with room for names."""
    for axis, limit in (("effect", ax.set_xlim), ("cost", ax.set_ylim)):
        spans = [getattr(p, axis) for p in points]
        low, high = min(s.low for s in spans), max(s.high for s in spans)
        room = 0.09 * max(high - low, 0.02)
        limit(low - room, high + room)


def _staircase(ax: Axes, leaders: Sequence[Point]) -> None:
    """The border of what was reached."""
    ordered = sorted(leaders, key=lambda p: p.effect.value)
    if len(ordered) < 2:
        return
    xs, ys = [p.effect.value for p in ordered], [p.cost.value for p in ordered]
    ax.step(xs, ys, where="pre", color=SUBJECT_COLOUR, linewidth=1, alpha=0.35, zorder=1)


def _write_names(
    ax: Axes,
    size: tuple[float, float],
    points: Sequence[Point],
    numbers: dict[str, str],
    notable: tuple[Sequence[str], str],
) -> None:
    """Writes each name or number beside its mark, with a line where that is not near."""
    best, subject = notable
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()

    def across(value: float) -> float:
        return (value - left) / (right - left) * size[0]

    def up(value: float) -> float:
        return (value - bottom) / (top - bottom) * size[1]

    labels, marks, lines = [], [], []
    for p in points:
        x, y = across(p.effect.value), up(p.cost.value)
        text = numbers.get(p.method, method_title(p.method))
        labels.append(Label(text, x, y, 7.5 if p.method in numbers else 9))
        marks.append(Box(x - 0.06, y - 0.06, x + 0.06, y + 0.06))
        lines.append(Box(across(p.effect.low), y - 0.01, across(p.effect.high), y + 0.01))
        lines.append(Box(x - 0.01, up(p.cost.low), x + 0.01, up(p.cost.high)))
    placed = places(labels, width=size[0], height=size[1], points=marks, lines=lines)
    for p, label, place in zip(points, labels, placed, strict=True):
        strong = p.method in best or p.method in CONTROLS or p.method == subject
        _write(ax, size, label, place, colour=INK if strong else MUTED, bold=p.method == subject)


def _write(
    ax: Axes, size: tuple[float, float], label: Label, place: Place, *, colour: str, bold: bool
) -> None:
    box = place.box
    x = {"left": box.left + 0.03, "right": box.right - 0.03, "center": (box.left + box.right) / 2}[
        place.align
    ]
    ax.annotate(
        label.text,
        xy=(label.x / size[0], label.y / size[1]),
        xycoords="axes fraction",
        xytext=(x / size[0], (box.bottom + box.top) / 2 / size[1]),
        textcoords="axes fraction",
        ha=place.align,
        va="center",
        fontsize=label.size,
        fontweight="bold" if bold else "normal",
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
        arrowprops={"arrowstyle": "-", "color": DOMINATED, "linewidth": 0.6, "shrinkB": 4}
        if place.distance > 0.15
        else None,
    )


def _write_key(
    figure: Figure, full: tuple[float, float], size: tuple[float, float], numbers: dict[str, str]
) -> None:
    x = (LEFT + size[0] + 0.35) / full[0]
    for i, (method, number) in enumerate(numbers.items()):
        y = (BOTTOM + size[1] - 0.1 - 0.17 * i) / full[1]
        figure.text(x, y, number, fontsize=8, color=MUTED, ha="right", va="center")
        figure.text(x + 0.1 / full[0], y, method_title(method), fontsize=8, va="center")


def _effect_name(axis: Axis) -> str:
    if axis.suite == "safety" and axis.metric == "asr":
        return "Harmful requests not helped with" + _where(axis)
    name = _metric_name(axis)
    return f"1 − {name[0].lower()}{name[1:]}" if axis.metric in LOWER_IS_BETTER else name


def _cost_name(axis: Axis) -> str:
    name = _metric_name(axis)
    if axis.metric in LOWER_IS_BETTER:
        return name
    return f"Loss of {name if name[:2].isupper() else name[0].lower() + name[1:]}"


def _metric_name(axis: Axis) -> str:
    metric = title(axis.metric, METRICS)
    if axis.suite == "safety":
        return metric + _where(axis)
    suite = {"pope": "POPE", "utility-pope": "Utility"}.get(axis.suite, title(axis.suite, SUITES))
    return f"{suite} {metric.lower()}{_where(axis)}"


def _where(axis: Axis) -> str:
    return "" if axis.split == "all" else f" ({axis.split})"
