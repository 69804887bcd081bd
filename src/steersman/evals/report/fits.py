"""How a policy was fitted: a plot or a table for each record, with what it says in a sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from steersman.core.tree import Plain
from steersman.evals.fit_records import (
    Entry,
    ExpertUsage,
    GateQuality,
    GateScores,
    LayerScores,
    Other,
    Training,
    bracket,
    plain,
    short,
)
from steersman.evals.fit_records import Figure as Measured
from steersman.evals.intervals import rate
from steersman.evals.report.canvas import (
    BASELINE_COLOUR,
    GRID,
    INK,
    MUTED,
    STYLE,
    SUBJECT_COLOUR,
    WARN,
    Plot,
    svg,
    tidy,
)

BINS = 40


@dataclass(frozen=True, slots=True)
class Sheet:
    """A small table.

    Attributes:
        rows: each as long as `head`; the first entry names the row, a line break begins what is
            printed smaller below.
        words: holds words, not figures.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One record, drawn."""

    title: str
    sentence: str
    plots: tuple[Plot, ...] = ()
    sheets: tuple[Sheet, ...] = ()


def steps(entries: Sequence[Entry], prefix: str) -> tuple[Step, ...]:
    """Every record, in order.

    Args:
        prefix: begins the ids of the pictures; another one for each call in a page.
    """
    with mpl.rc_context(STYLE):
        return tuple(_step(entry, f"{prefix}-{i}") for i, entry in enumerate(entries))


def _step(entry: Entry, prefix: str) -> Step:
    record = entry.record
    plots: tuple[Plot, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    match record:
        case LayerScores():
            plots = (_layers(record, prefix),)
        case GateScores():
            plots = (_histograms(record, prefix),) if any(record.groups.values()) else ()
        case GateQuality():
            plots = (_reliability(record, prefix),) if record.reliability else ()
            sheets = (_quality(record),)
        case ExpertUsage():
            plots = (_experts(record, prefix),)
        case Training():
            plots = (_losses(record, prefix),) if record.train else ()
        case Other():
            sheets = (_values(record.kind, record.values),)
    if entry.more:
        sheets += (_values("More values", entry.more),)
    said = f"Record of the kind {record.kind}." if isinstance(record, Other) else record.said
    if isinstance(record, Other) and record.problem:
        said = f"{said} It was {record.problem}"
    return Step(record.title, f"{said[0].upper()}{said[1:]}", plots, sheets)


def _layers(record: LayerScores, prefix: str) -> Plot:
    figure, ax = _canvas(9.0, 3.2)
    order = np.argsort(record.layers)
    layers, value, low, high = (
        np.array(v)[order] for v in (record.layers, record.value, record.low, record.high)
    )
    low, high = np.minimum(low, value), np.maximum(high, value)
    ax.plot(layers, value, color=BASELINE_COLOUR, linewidth=1.2, zorder=2)
    for layer, v, a, b in zip(layers, value, low, high, strict=True):
        colour = {record.chosen: SUBJECT_COLOUR, record.runner_up: INK}.get(int(layer), "#7fa3bf")
        ax.plot((layer, layer), (a, b), color=colour, linewidth=1.3, zorder=3)
        ax.plot(layer, v, "o", color=colour, markersize=6 if colour != "#7fa3bf" else 4.5, zorder=4)
    reach = float(high.max() - low.min()) or 1.0
    ax.set_ylim(low.min() - 0.08 * reach, high.max() + 0.22 * reach)
    ax.set_xlim(layers.min() - 0.6, layers.max() + 0.6)
    _name_layer(ax, record, record.chosen, "chosen", SUBJECT_COLOUR)
    if record.runner_up in record.layers:
        _name_layer(ax, record, record.runner_up, "next", INK)
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True, steps=[1, 2, 4, 5, 10]))
    tidy(ax, grid="y")
    ax.set_xlabel(f"Layer ({record.point})")
    ax.set_ylabel(record.score)
    said = "; ".join(
        f"layer {layer} {plain(v)} {bracket(a, b)}"
        for layer, v, a, b in zip(layers, value, low, high, strict=True)
    )
    caption = (
        "Whiskers are 95% intervals of each layer. Differences between layers are judged on the "
        "same pairs, so they can be clear where whiskers overlap."
    )
    alt = f"Line chart of {record.score} by layer. Layer {record.chosen} is {record.lead}. {said}."
    return Plot(record.title, caption, alt, svg(figure, prefix), wide=True)


def _name_layer(ax: Axes, record: LayerScores, layer: int, word: str, colour: str) -> None:
    """Names a point above its whisker; of two neighbours, each on its own side."""
    other = record.runner_up if layer == record.chosen else record.chosen
    near = other is not None and abs(other - layer) < 0.14 * len(record.layers)
    side = "center" if not near or other is None else "right" if layer < other else "left"
    ax.annotate(
        word if near else f"{word}: {layer}",
        (layer, record.high[record.layers.index(layer)]),
        xytext=({"center": 0, "right": 3, "left": -3}[side], 4),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=9,
        color=colour,
        fontweight="bold" if word == "chosen" else "normal",
    )


def _histograms(record: GateScores, prefix: str) -> Plot:
    groups = {name: values for name, values in record.groups.items() if values}
    every = np.concatenate([np.array(values) for values in groups.values()])
    low, high = min(every.min(), record.threshold), max(every.max(), record.threshold)
    if record.score == "probability" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    step = float((high - low) or 1.0) / BINS
    bins = np.arange(np.floor((low - record.threshold) / step), BINS + 2)
    edges = record.threshold + step * bins  # the threshold is an edge
    edges = edges[: int(np.searchsorted(edges, high, side="right")) + 1]
    figure = Figure(figsize=(9.0, 0.6 + 0.62 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for ax, (name, values) in zip(axes, groups.items(), strict=True):
        counts, _ = np.histogram(values, edges)
        colours = np.where(bins[: len(counts)] >= 0, SUBJECT_COLOUR, BASELINE_COLOUR)
        seen = np.where(counts > 0, np.maximum(counts, 0.05 * counts.max()), 0)
        ax.bar(edges[:-1], seen, np.diff(edges), align="edge", color=colours, linewidth=0)
        ax.axvline(record.threshold, color=WARN, linewidth=1.2)
        ax.set_yticks([])
        ax.set_ylim(0, 1.12 * max(counts.max(), 1))
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(length=0)
        ax.set_ylabel(
            f"{name}\nn {len(values)}", rotation=0, ha="right", va="center", color=INK, fontsize=9
        )
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].set_xlabel(record.score)
    counted = "; ".join(
        f"{name} {sum(v > record.threshold for v in values)} of {len(values)} above"
        for name, values in groups.items()
    )
    caption = (
        "Held-out rows by group, each to its own height, and single rows high enough to be seen. "
        f"The line is the threshold {plain(record.threshold)}."
    )
    alt = f"Histograms of {record.score}. {caption} {counted}."
    return Plot(record.title, caption, alt, svg(figure, prefix), wide=True)


def _quality(record: GateQuality) -> Sheet:
    names = tuple(dict.fromkeys(row.name for row in record.rows))
    groups = tuple(dict.fromkeys(row.group for row in record.rows))
    found = {(row.group, row.name): row for row in record.rows}
    rows = tuple((group, *(_cell(found.get((group, name))) for name in names)) for group in groups)
    ece = "" if record.ece is None else f" Expected calibration error {plain(record.ece)}."
    caption = f"At the threshold {plain(record.threshold)}, 95% intervals.{ece}"
    return Sheet(caption, ("Rows", *names), rows)


def _cell(row: Measured | None) -> str:
    if row is None or row.n == 0:
        return "–"
    return f"{plain(row.value)}\n{bracket(row.low, row.high)}\nn {row.n}"


def _reliability(record: GateQuality, prefix: str) -> Plot:
    figure, ax = _canvas(4.2, 3.5)
    bins = [b for b in record.reliability if b.n]
    ax.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for b in bins:
        _, low, high, _ = rate(min(b.rate, 1.0) * b.n, b.n)
        ax.plot((b.p, b.p), (low, high), color=SUBJECT_COLOUR, linewidth=1.2)
    largest = max((b.n for b in bins), default=1)
    sizes = [14 + 90 * b.n / largest for b in bins]
    ax.scatter(
        [b.p for b in bins], [b.rate for b in bins], sizes, SUBJECT_COLOUR, zorder=3, clip_on=False
    )
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(-0.03, 1.03)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    tidy(ax)
    ax.set_xlabel("Probability that the gate gives")
    ax.set_ylabel("Rows that have the behaviour")
    caption = (
        "On the dashed line a probability means what it says. Larger dots hold more rows; "
        "whiskers are 95% intervals."
    )
    said = "; ".join(f"at {b.p:.0%} {b.rate:.0%} of {b.n}" for b in bins)
    alt = f"Reliability curve. {caption} {said}."
    return Plot(f"Gate {record.gate}: reliability", caption, alt, svg(figure, prefix), wide=False)


def _experts(record: ExpertUsage, prefix: str) -> Plot:
    panels = [p for p, there in ((_usage, record.usage), (_tried, record.scores)) if there]
    panels = panels or [_sizes]
    height = max(2.6, 1.0 + 0.36 * len(record.usage))
    figure = Figure(figsize=(9.0 if len(panels) > 1 else 6.0, height), layout="constrained")
    ratios = [max(2.0, 0.55 * record.experts), 2.0][: len(panels)]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=ratios)[0]
    for ax, panel in zip(axes, panels, strict=True):
        panel(ax, record)
    said = "; ".join(
        f"{name} {', '.join(plain(s) for s in shares)}" for name, shares in record.usage.items()
    )
    caption = (
        "Left: how much each behaviour uses each expert; n is the size of its cluster. Right: the "
        "Calinski-Harabasz index of each number of clusters tried (higher is better)."
        if len(panels) > 1
        else "How much each behaviour uses each expert; n is the size of its cluster."
        if record.usage
        else "What is known of the experts."
    )
    alt = f"{record.said}. {caption} Usage: {said or 'not recorded'}."
    return Plot(record.title, caption, alt, svg(figure, prefix), wide=True)


def _usage(ax: Axes, record: ExpertUsage) -> None:
    names = list(record.usage)
    shares = np.array([record.usage[name] for name in names])
    top = max(float(shares.max()), 1e-9)
    ramp = LinearSegmentedColormap.from_list("usage", ("#f4f7f9", SUBJECT_COLOUR))
    ax.pcolormesh(shares, cmap=ramp, vmin=0, vmax=top, edgecolors="white", linewidth=2)
    if record.experts <= 12:
        for (row, column), share in np.ndenumerate(shares):
            dark = share > 0.6 * top
            text = f"{share:.0%}" if shares.min() >= 0 and top <= 1 else plain(float(share))
            ax.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9,
                color="white" if dark else INK,
            )  # fmt: skip
    sizes = record.sizes
    ticks = [f"{i}\nn {n}" if record.experts <= 12 else str(i) for i, n in enumerate(sizes)]
    ax.set_xticks(np.arange(record.experts) + 0.5, ticks)
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.invert_yaxis()
    _bare(ax)
    ax.set_xlabel("Expert")


def _tried(ax: Axes, record: ExpertUsage) -> None:
    scores = sorted((int(k), v) for k, v in record.scores.items())
    ks, values = [str(k) for k, _ in scores], [v for _, v in scores]
    colours = [SUBJECT_COLOUR if k == record.experts else BASELINE_COLOUR for k, _ in scores]
    ax.bar(ks, values, width=0.6, color=colours)
    tidy(ax, grid="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("Number of clusters")
    ax.set_ylabel("Calinski-Harabasz")


def _sizes(ax: Axes, record: ExpertUsage) -> None:
    ax.bar([str(i) for i in range(record.experts)], record.sizes, width=0.6, color=SUBJECT_COLOUR)
    tidy(ax, grid="y")
    ax.set_xlabel("Expert")
    ax.set_ylabel("Rows of its cluster")


def _losses(record: Training, prefix: str) -> Plot:
    figure, ax = _canvas(5.4, 3.0)
    curves = {"train": (record.train, BASELINE_COLOUR)}
    if record.validation:
        curves["validation"] = (record.validation, SUBJECT_COLOUR)
    for name, (losses, colour) in curves.items():
        marker = "o" if len(losses) == 1 else None
        ax.plot(range(len(losses)), losses, color=colour, linewidth=1.6, label=name, marker=marker)
    losses = record.validation or record.train
    every = [v for values, _ in curves.values() for v in values]
    if min(every) > 0 and max(every) > 30 * min(every):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(which="minor", length=0)
    if record.kept is not None and 0 <= record.kept < len(losses):
        ax.axvline(record.kept, color=GRID, linewidth=1.4, zorder=1)
        ax.plot(record.kept, losses[record.kept], "o", color=INK, markersize=5, label="kept")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.legend(frameon=False, fontsize=9)
    tidy(ax, grid="y")
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Loss")
    caption = "Loss by epoch (from 0); the dot is the epoch that was kept."
    if record.kept is None:
        caption = "Loss by epoch (from 0); the last one was kept."
    return Plot(record.title, caption, f"Line chart. {record.said}.", svg(figure, prefix), False)


def _values(caption: str, values: Mapping[str, Plain]) -> Sheet:
    return Sheet(caption, ("Name", "Value"), tuple((k, short(v)) for k, v in values.items()), True)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _bare(ax: Axes) -> None:
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
