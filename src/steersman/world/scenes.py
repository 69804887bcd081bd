"""Scenes: up to four coloured objects, one per corner, drawn as a 64 x 64 image."""

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

import numpy as np
from PIL import Image

from steersman.world.catalogue import (
    BENIGN,
    CLASSES,
    COLOURS,
    CORNERS,
    PARTNER,
    POPULAR,
    RESTRICTED,
)
from steersman.world.icons import draw_icon

SIZE = 64
CELL = SIZE // 2
ICON_SIZES = (24, 29)  # an icon is this small or large, in pixels; both ends included

SINGLE_RATE = 0.4  # how often an object is alone, as image-only questions need it
PARTNER_RATE = 0.55  # how often an object brings its partner along: the co-occurrence to fall for
REPEAT_RATE = 0.12  # how often an object appears twice, so that counting means something

AbsentKind = Literal["random", "popular", "adversarial"]


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a scene: which class, in which colour, at which corner (index in CORNERS)."""

    corner: int
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows; items are ordered by corner."""

    items: tuple[Item, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The class of every item, repeated as often as it is shown."""
        return tuple(item.name for item in self.items)

    @property
    def lone(self) -> tuple[str, ...]:
        """The classes shown without the partner they usually come with."""
        shown = self.names
        return tuple(sorted(c for c in set(shown) if c in PARTNER and PARTNER[c] not in shown))

    @property
    def unique(self) -> tuple[Item, ...]:
        """The items whose class is shown exactly once."""
        return tuple(item for item in self.items if self.names.count(item.name) == 1)


def single_scene(rng: Random, name: str | None = None) -> Scene:
    """One object alone; more often than not one of the restricted classes."""
    if name is None:
        name = rng.choice(RESTRICTED if rng.random() < 0.55 else BENIGN)
    return Scene((Item(rng.randrange(4), name, rng.choice(tuple(COLOURS))),))


def crowded_scene(rng: Random, without: str | None = None) -> Scene:
    """Two to four objects, of which partners tend to come together; `without` never appears."""
    size = rng.choice((2, 3, 3, 4))
    names: list[str] = []
    while len(names) < size:
        draw = rng.random()
        pool = POPULAR if draw < 0.3 else RESTRICTED if draw < 0.44 else BENIGN
        name = rng.choice(pool)
        if name in names or name == without:
            continue
        names.append(name)
        partner = PARTNER.get(name)
        if partner and partner not in names and partner != without and len(names) < size:
            names += [partner] if rng.random() < PARTNER_RATE else []
        if len(names) < size and rng.random() < REPEAT_RATE:
            names.append(name)
    corners = rng.sample(range(len(CORNERS)), size)
    colours = tuple(COLOURS)
    placed = zip(corners, names, strict=True)
    return Scene(tuple(Item(p, name, rng.choice(colours)) for p, name in sorted(placed)))


def sample_scene(rng: Random, single_rate: float = SINGLE_RATE) -> Scene:
    """A single-object scene at the given rate, a crowded one otherwise."""
    return single_scene(rng) if rng.random() < single_rate else crowded_scene(rng)


def absent_object(scene: Scene, rng: Random, kind: AbsentKind) -> str | None:
    """A class that is not shown, chosen as POPE does; None where the scene offers no such class."""
    shown = set(scene.names)
    match kind:
        case "adversarial":
            pool = [PARTNER[name] for name in scene.lone]
        case "popular":
            pool = [c for c in POPULAR if c not in shown and PARTNER.get(c) not in shown]
        case "random":
            pool = [c for c in CLASSES if c not in shown]
    return rng.choice(pool) if pool else None


@cache
def _sprite(name: str, colour: str, size: int) -> np.ndarray:
    icon = draw_icon(name, COLOURS[colour]).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(icon, dtype=np.float32)


def render_array(scene: Scene, rng: Random) -> np.ndarray:
    """Draw a scene with random background, contrast, icon sizes and offsets: (64, 64, 3) uint8."""
    base = rng.uniform(190, 250)
    background = np.array([base + rng.uniform(-8, 8) for _ in range(3)], dtype=np.float32)
    canvas = np.tile(background, (SIZE, SIZE, 1))
    for item in scene.items:
        size = rng.randint(*ICON_SIZES)
        sprite = _sprite(item.name, item.colour, size)
        row, column = divmod(item.corner, 2)
        y = row * CELL + rng.randint(0, CELL - size)
        x = column * CELL + rng.randint(0, CELL - size)
        alpha = sprite[..., 3:] / 255
        patch = canvas[y : y + size, x : x + size]
        canvas[y : y + size, x : x + size] = patch * (1 - alpha) + sprite[..., :3] * alpha
    canvas = (canvas - 128) * rng.uniform(0.65, 1.0) + 128
    return np.clip(canvas, 0, 255).astype(np.uint8)


def render(scene: Scene, rng: Random) -> Image.Image:
    """Draw a scene as an RGB image of 64 x 64 pixels."""
    return Image.fromarray(render_array(scene, rng))
