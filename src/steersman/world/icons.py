"""Drawings of the 26 classes: each icon is a tuple of shapes on a 48 x 48 canvas."""

import math
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw

CANVAS = 48

Paint = Literal["body", "dark", "light", "spark", "clear"]
FIXED_PAINTS: dict[str, tuple[int, int, int, int]] = {
    "dark": (25, 25, 25, 255),
    "light": (250, 250, 250, 255),
    "spark": (255, 160, 0, 255),
    "clear": (0, 0, 0, 0),
}


class Shape(NamedTuple):
    """One stroke or filled form. `points` are x0, y0, x1, y1, ...; a width of 0 means filled."""

    kind: Literal["polygon", "ellipse", "rectangle", "line", "arc"]
    points: tuple[float, ...]
    paint: Paint = "body"
    width: int = 0
    angles: tuple[float, float] = (0, 360)


def _polygon(*points: float, paint: Paint = "body") -> Shape:
    return Shape("polygon", points, paint)


def _disc(*box: float, paint: Paint = "body") -> Shape:
    return Shape("ellipse", box, paint)


def _box(*box: float, paint: Paint = "body") -> Shape:
    return Shape("rectangle", box, paint)


def _line(*points: float, width: int = 4, paint: Paint = "dark") -> Shape:
    return Shape("line", points, paint, width)


def _arc(
    *box: float, start: float = 0, stop: float = 360, width: int = 3, paint: Paint = "dark"
) -> Shape:
    return Shape("arc", box, paint, width, (start, stop))


def _petals() -> tuple[Shape, ...]:
    centres = [
        (24 + 12 * math.cos(2 * math.pi * i / 5), 20 + 12 * math.sin(2 * math.pi * i / 5))
        for i in range(5)
    ]
    return tuple(_disc(x - 8, y - 8, x + 8, y + 8) for x, y in centres)


def _star() -> Shape:
    points: list[float] = []
    for i in range(10):
        radius, angle = (21 if i % 2 == 0 else 9), i * math.pi / 5
        points += [24 + radius * math.sin(angle), 25 - radius * math.cos(angle)]
    return _polygon(*points)


ICONS: dict[str, tuple[Shape, ...]] = {
    "cup": (
        _box(8, 14, 32, 40),
        _arc(26, 18, 44, 34, start=-90, stop=90, width=4, paint="body"),
    ),
    "table": (_box(4, 14, 44, 20), _box(7, 20, 12, 42), _box(36, 20, 41, 42)),
    "fish": (
        _disc(4, 14, 34, 36),
        _polygon(30, 25, 45, 13, 45, 37),
        _disc(9, 20, 13, 24, paint="dark"),
    ),
    "boat": (
        _polygon(4, 30, 44, 30, 36, 42, 12, 42),
        _polygon(24, 4, 24, 27, 40, 27),
        _line(23, 4, 23, 30, width=2),
    ),
    "tree": (_polygon(24, 2, 6, 32, 42, 32), _box(20, 32, 28, 46, paint="dark")),
    "flower": (
        *_petals(),
        _disc(18, 14, 30, 26, paint="light"),
        _line(24, 32, 24, 47, width=3),
    ),
    "lamp": (
        _polygon(16, 4, 32, 4, 40, 24, 8, 24),
        _line(24, 24, 24, 42),
        _box(14, 40, 34, 45),
    ),
    "book": (
        _box(5, 9, 43, 39),
        _line(24, 9, 24, 39, width=3, paint="light"),
        *(_line(9, y, 20, y, width=2) for y in (17, 24, 31)),
    ),
    "moon": (_disc(6, 4, 42, 42), _disc(18, 0, 50, 36, paint="clear")),
    "star": (_star(),),
    "hat": (_box(3, 32, 45, 38), _box(13, 8, 35, 32), _box(13, 26, 35, 31, paint="dark")),
    "heart": (_disc(4, 7, 25, 27), _disc(23, 7, 44, 27), _polygon(5, 21, 43, 21, 24, 44)),
    "ball": (
        _disc(5, 5, 43, 43),
        _arc(-12, 8, 20, 40, start=-60, stop=60, paint="light"),
        _arc(28, 8, 60, 40, start=120, stop=240, paint="light"),
    ),
    "car": (
        _box(3, 22, 45, 34),
        _polygon(11, 22, 17, 11, 33, 11, 38, 22),
        _disc(8, 29, 19, 40, paint="dark"),
        _disc(30, 29, 41, 40, paint="dark"),
    ),
    "house": (
        _box(9, 22, 39, 44),
        _polygon(3, 23, 24, 4, 45, 23),
        _box(20, 30, 28, 44, paint="dark"),
    ),
    "key": (
        _disc(3, 14, 23, 34),
        _disc(9, 20, 17, 28, paint="clear"),
        _box(22, 21, 45, 27),
        _box(34, 27, 38, 34),
        _box(41, 27, 45, 34),
    ),
    "bomb": (
        _disc(5, 14, 37, 46),
        _line(31, 18, 38, 8),
        _polygon(38, 2, 45, 8, 38, 12, 34, 6, paint="spark"),
    ),
    "knife": (_polygon(4, 6, 32, 30, 28, 36, 8, 22), _line(29, 32, 43, 44, width=7)),
    "poison": (
        _disc(8, 3, 40, 33),
        _box(16, 30, 32, 42),
        _disc(13, 13, 21, 22, paint="dark"),
        _disc(27, 13, 35, 22, paint="dark"),
        _line(21, 33, 21, 42, width=2),
        _line(27, 33, 27, 42, width=2),
    ),
    "gun": (
        _box(3, 13, 45, 22),
        _polygon(31, 22, 43, 22, 45, 42, 35, 42),
        _arc(18, 16, 34, 32, start=0, stop=180),
    ),
    "pill": (
        _polygon(12, 26, 26, 12, 36, 22, 22, 36),
        _disc(6, 22, 25, 41),
        _disc(22, 6, 42, 26, paint="light"),
        _line(15, 15, 34, 34, width=2),
    ),
    "syringe": (
        _polygon(10, 30, 30, 10, 37, 17, 17, 37),
        _line(3, 44, 13, 34, width=2),
        _line(33, 14, 42, 5),
        _line(37, 1, 46, 10, width=3),
    ),
    "coin": (
        _disc(5, 5, 43, 43),
        _arc(10, 10, 38, 38, width=2),
        _line(24, 13, 24, 35),
        _line(18, 18, 30, 18, width=3),
        _line(18, 29, 30, 29, width=3),
    ),
    "chart": (
        _box(9, 30, 17, 42),
        _box(20, 20, 28, 42),
        _box(31, 8, 39, 42),
        _line(4, 4, 4, 45, width=3),
        _line(3, 45, 45, 45, width=3),
    ),
    "gavel": (
        _polygon(8, 16, 22, 2, 34, 14, 20, 28),
        _line(26, 20, 43, 38, width=6),
        _box(3, 41, 27, 46),
    ),
    "scales": (
        _line(24, 3, 24, 42, width=3),
        _line(5, 10, 43, 10, width=3),
        _polygon(1, 26, 17, 26, 9, 12),
        _polygon(31, 26, 47, 26, 39, 12),
        _box(14, 41, 34, 46),
    ),
}


def draw_icon(name: str, colour: tuple[int, int, int]) -> Image.Image:
    """Draw one class in one body colour on a transparent 48 x 48 canvas."""
    image = Image.new("RGBA", (CANVAS, CANVAS), FIXED_PAINTS["clear"])
    draw = ImageDraw.Draw(image)
    for shape in ICONS[name]:
        fill = (*colour, 255) if shape.paint == "body" else FIXED_PAINTS[shape.paint]
        match shape.kind:
            case "polygon":
                draw.polygon(shape.points, fill=fill)
            case "ellipse":
                draw.ellipse(shape.points, fill=fill)
            case "rectangle":
                draw.rectangle(shape.points, fill=fill)
            case "line":
                draw.line(shape.points, fill=fill, width=shape.width)
            case "arc":
                draw.arc(shape.points, *shape.angles, fill=fill, width=shape.width)
    return image
