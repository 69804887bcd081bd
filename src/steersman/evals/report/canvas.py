"""What every plot of the page shares: colours, type, where names fit, and the SVG itself."""

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2733", "#5a6675", "#e3e7ec"
UNSTEERED_COLOUR, SUBJECT_COLOUR, BASELINE_COLOUR = "#98a2ae", "#0b7a75", "#8fb3cf"
ORACLE_EDGE, WARN = "#8a6d1f", "#b5482f"
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "steersman",
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "axes.titlesize": 10,
    "hatch.linewidth": 0.7,
}
LETTER, LINE = 0.0088, 0.0185  # inches per point of type: a letter's width, a line's height
PIXELS = 115  # of the page, per inch of a figure at its largest
Alignment = Literal["left", "right", "center"]


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


class Box(NamedTuple):
    """A rectangle, in inches from the lower left corner of the axes."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The share of this box that the other covers."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        if across <= 0 or up <= 0:
            return 0.0
        return across * up / ((self.right - self.left) * (self.top - self.bottom))

    def gap(self, x: float, y: float) -> float:
        """How far a point is from the nearest edge; 0 inside."""
        across = max(self.left - x, x - self.right, 0.0)
        return math.hypot(across, max(self.bottom - y, y - self.top, 0.0))


@dataclass(frozen=True, slots=True)
class Label:
    """A name that belongs to a point of the axes (in inches)."""

    text: str
    x: float
    y: float
    size: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name stands, and how far from its point."""

    box: Box
    align: Alignment
    distance: float


def places(
    labels: Sequence[Label],
    *,
    width: float,
    height: float,
    points: Sequence[Box],
    lines: Sequence[Box],
) -> list[Place]:
    """Puts each name, in this order, where it hides least.

    It avoids the edge of the axes, points and names, and rather avoids lines and distance.
    """  # fmt: skip
    hard = list(points)
    made = []
    for label in labels:
        scene = _Scene(width, height, tuple(hard), lines, (label.x, label.y), points)
        best = min(_around(label), key=scene.cost)
        hard.append(best.box)
        made.append(best)
    return made


def _around(label: Label) -> list[Place]:
    wide, high = label.size * LETTER * len(label.text), label.size * LINE
    pad = 0.03
    made = []
    for distance in (0.1, 0.2, 0.32, 0.46, 0.62, 0.8, 1.05, 1.3):
        for step in range(16):
            angle = math.tau * step / 16
            dx, dy = distance * math.cos(angle), distance * math.sin(angle)
            align: Alignment = "center" if abs(dx) < 0.02 else "left" if dx > 0 else "right"
            left = label.x + dx - wide * {"left": 0.0, "right": 1.0, "center": 0.5}[align]
            # beside the point the middle of the line is level with it, above it its lower edge is
            middle = label.y + dy + (high / 2) * math.sin(angle)
            box = Box(left - pad, middle - high / 2, left + wide + pad, middle + high / 2)
            made.append(Place(box, align, distance))
    return made


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is in the way of one name.

    Attributes:
        hard: what it should not hide; `lines` rather not.
        own: the point that it names, among `points`.
    """

    width: float
    height: float
    hard: Sequence[Box]
    lines: Sequence[Box]
    own: tuple[float, float]
    points: Sequence[Box]

    def cost(self, place: Place) -> float:
        """How bad a place is."""
        box = place.box
        outside = box.left < 0 or box.right > self.width or box.bottom < 0 or box.top > self.height
        hidden = sum(box.overlap(near) for near in self.hard)
        hits = sum(box.overlap(near) > 0 for near in self.hard)
        crossed = sum(box.overlap(line) > 0 for line in self.lines)
        gap = box.gap(*self.own)
        taken = sum(
            box.gap((p.left + p.right) / 2, (p.bottom + p.top) / 2) < gap for p in self.points
        )
        return (
            100 * outside + 20 * hidden + 4 * hits + 0.6 * taken + 0.06 * crossed + place.distance
        )


def tidy(ax: Axes, *, grid: Literal["x", "y", "both"] = "both") -> None:
    """No frame, no tick marks, a faint grid behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=0)
    ax.set_axisbelow(True)
    ax.grid(axis=grid, color=GRID, linewidth=0.8)


def svg(figure: Figure, prefix: str) -> str:
    """The SVG element alone: no prolog, no metadata, no name spaces, ids unique in the page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # text stays text in the page, where the reader's own fonts have what this one lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-").replace("xlink:href", "href")
    size = f"max-width: {PIXELS * figure.get_figwidth():.0f}px"
    return text.replace("<svg ", f'<svg aria-hidden="true" focusable="false" style="{size}" ', 1)
