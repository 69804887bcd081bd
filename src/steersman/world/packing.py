"""Lessons as tensors: several turns share one image, each blind to the others."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from steersman.world.build import (
    BOS,
    END,
    FENCE,
    GLOBAL,
    GRID,
    IMAGE,
    IMAGE_TOKENS,
    PAD,
    encode,
    vocabulary,
)
from steersman.world.catalogue import CLASSES, COLOURS, CORNERS
from steersman.world.language import GUARD_SENTENCES, SYSTEM_SENTENCE
from steersman.world.lessons import Turn, drill_turns, sample_turn
from steersman.world.scenes import SINGLE_RATE, Scene, render_array, sample_scene

IGNORE = -100
BLOCKED = -1e9
SYSTEM_RATE = 0.08  # how often a row has a system message; half of those hold a guard sentence
DRILL_SINGLE_RATE = 0.15
IMAGE_BLOCK = [FENCE, GLOBAL, *[IMAGE] * IMAGE_TOKENS, FENCE]

_HEAD, _PICTURE, _PADDING = 0, -1, -2  # segments other than turns, which count from 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of one step. Each tensor's first axis is the image; `mask` is additive."""

    ids: Tensor  # (b, s)
    labels: Tensor  # (b, s)
    mask: Tensor  # (b, 1, s, s)
    positions: Tensor  # (b, s)
    pixels: Tensor  # (b, 1, 3, h, w)
    answer_of: Tensor  # (b, s) turn whose answer a token belongs to, from 1; 0 elsewhere
    ask_ends: Tensor  # (b, k) index of the last prompt token of every turn


@dataclass(slots=True)
class _Row:
    """One image's tokens while they are collected."""

    ids: list[int]
    labels: list[int]
    segments: list[int]
    positions: list[int]
    answers: list[int]
    ask_ends: list[int]
    blind: list[bool]


def draw_scenes(
    rng: Random, number: int, single_rate: float = SINGLE_RATE
) -> tuple[list[Scene], Tensor]:
    """Fresh scenes and their normalised pixels, (b, 1, 3, h, w)."""
    scenes = [sample_scene(rng, single_rate) for _ in range(number)]
    images = np.stack([render_array(scene, rng) for scene in scenes])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return scenes, pixels[:, None]


def _mixed_row(scene: Scene, rng: Random, turns: int) -> _Row:
    """Several lessons about one scene, sometimes below a system message."""
    head, guarded = [BOS], False
    if rng.random() < SYSTEM_RATE:
        guarded = rng.random() < 0.5
        sentence = rng.choice(GUARD_SENTENCES) if guarded else SYSTEM_SENTENCE
        head += [*encode("system :"), *encode(sentence), END]
    head += encode("user :")
    return _packed(head, [sample_turn(scene, rng, guarded=guarded) for _ in range(turns)])


def _packed(head: list[int], turns: list[Turn]) -> _Row:
    shared = len(head) + len(IMAGE_BLOCK)
    row = _Row(
        ids=head + IMAGE_BLOCK,
        labels=[IGNORE] * shared,
        segments=[_HEAD] * len(head) + [_PICTURE] * len(IMAGE_BLOCK),
        positions=list(range(shared)),
        answers=[0] * shared,
        ask_ends=[],
        blind=[False],
    )
    for k, turn in enumerate(turns, start=1):
        ask = [*encode(turn.question), END, *encode("assistant :")]
        answer = [*encode(turn.answer), *([END] if turn.ends else [])]
        start = shared if turn.sees_image else len(head)
        length = len(ask) + len(answer)
        row.ask_ends.append(len(row.ids) + len(ask) - 1)
        row.ids += ask + answer
        row.labels += [IGNORE] * (len(ask) + turn.free) + answer[turn.free :]
        row.segments += [k] * length
        row.positions += range(start, start + length)
        row.answers += [0] * len(ask) + [k] * len(answer)
        row.blind.append(not turn.sees_image)
    return row


def mixture_batch(rng: Random, images: int, turns: int) -> Batch:
    """Fresh scenes with several turns each, packed behind one copy of the image."""
    scenes, pixels = draw_scenes(rng, images)
    return _stacked([_mixed_row(scene, rng, turns) for scene in scenes], pixels)


def drill_batch(rng: Random, images: int, turns: int) -> Batch:
    """Fresh scenes, mostly crowded, with many short existence questions each."""
    scenes, pixels = draw_scenes(rng, images, single_rate=DRILL_SINGLE_RATE)
    head = encode("<bos> user :")
    rows = [_packed([*head], drill_turns(scene, rng, turns)) for scene in scenes]
    return _stacked(rows, pixels)


def _stacked(rows: list[_Row], pixels: Tensor) -> Batch:
    longest = max(len(row.ids) for row in rows)
    length = (longest + 7) // 8 * 8

    def padded(lists: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    segments = padded([row.segments for row in rows], _PADDING)
    blind = torch.tensor([row.blind for row in rows])  # (b, 1 + k)
    sees = ~blind.gather(1, segments.clamp(min=0))[:, :, None]  # (b, s, 1)
    query, key = segments[:, :, None], segments[:, None, :]
    visible = (query == key) | (key == _HEAD) | ((key == _PICTURE) & sees)
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape).masked_fill(~visible, BLOCKED)[:, None]
    return Batch(
        ids=padded([row.ids for row in rows], PAD),
        labels=padded([row.labels for row in rows], IGNORE),
        mask=mask,
        positions=padded([row.positions for row in rows], 0),
        pixels=pixels,
        answer_of=padded([row.answers for row in rows], 0),
        ask_ends=torch.tensor([row.ask_ends for row in rows]),
    )


_PREFIX = 3 + len(IMAGE_BLOCK)
_LOOKUPS = len(CLASSES) + len(CORNERS)  # queries of one word
_WHERE = 6  # queries of two words: "where X"


def _grounding_layout() -> tuple[Tensor, Tensor]:
    """Additive mask (s, s) and positions (s,) that all grounding rows share."""
    pairs = _WHERE + 1  # and one "this object"
    segments = [_HEAD] * _PREFIX + list(range(1, _LOOKUPS + 1))
    segments += [_LOOKUPS + 1 + i // 2 for i in range(2 * pairs)]
    positions = [*range(_PREFIX), *[_PREFIX] * _LOOKUPS, *[_PREFIX, _PREFIX + 1] * pairs]
    segment = torch.tensor(segments)
    visible = (segment[:, None] == segment[None]) | (segment[None] == _HEAD)
    visible &= torch.ones(len(segment), len(segment), dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape).masked_fill(~visible, BLOCKED)
    return mask, torch.tensor(positions)


def _grounding_row(scene: Scene, rng: Random) -> tuple[list[int], list[int]]:
    """One short query per class, corner and place, each with a one-word answer."""
    word = vocabulary()
    unique = {item.name: item for item in scene.unique}
    at = {item.corner: item for item in scene.items}
    classes = rng.sample(CLASSES, len(CLASSES))
    corners = rng.sample(range(len(CORNERS)), len(CORNERS))
    shown = sorted(set(scene.names))
    rng.shuffle(shown)
    sought = (shown + [c for c in classes if c not in shown])[:_WHERE]

    def answer(name: str, value: str) -> int:
        if name in unique:
            return word[value]
        return IGNORE if name in scene.names else word["no"]

    ids = [*encode("<bos> user :"), *IMAGE_BLOCK]
    labels = [IGNORE] * len(ids)
    for name in classes:
        ids.append(word[name])
        labels.append(answer(name, unique[name].colour if name in unique else ""))
    for corner in corners:
        ids.append(word[CORNERS[corner]])
        labels.append(word[at[corner].name] if corner in at else word["nothing"])
    for name in sought:
        ids += [word["where"], word[name]]
        corner = CORNERS[unique[name].corner] if name in unique else ""
        labels += [IGNORE, answer(name, corner)]
    ids += [word["this"], word["object"]]
    labels += [IGNORE, word[scene.names[0]] if len(scene.items) == 1 else IGNORE]
    return ids, labels


def grounding_batch(rng: Random, images: int) -> Batch:
    """Fresh scenes, each with one short query per class; labels sit on the query's last token."""
    scenes, pixels = draw_scenes(rng, images)
    rows = [_grounding_row(scene, rng) for scene in scenes]
    mask, positions = _grounding_layout()
    ids = torch.tensor([row[0] for row in rows])
    return Batch(
        ids=ids,
        labels=torch.tensor([row[1] for row in rows]),
        mask=mask.expand(images, 1, -1, -1),
        positions=positions.expand(images, -1),
        pixels=pixels,
        answer_of=torch.zeros_like(ids),
        ask_ends=torch.zeros(images, 0, dtype=torch.long),
    )


def vision_targets(scenes: list[Scene]) -> Tensor:
    """What each image token shows, (b, IMAGE_TOKENS, 3): class, colour (0: nothing) and corner."""
    classes = {name: i + 1 for i, name in enumerate(CLASSES)}
    colours = {name: i + 1 for i, name in enumerate(COLOURS)}
    half = GRID // 2
    targets = torch.zeros(len(scenes), GRID, GRID, 3, dtype=torch.long)
    for corner in range(len(CORNERS)):
        row, column = divmod(corner, 2)
        targets[:, row * half : (row + 1) * half, column * half : (column + 1) * half, 2] = corner
    for b, scene in enumerate(scenes):
        for item in scene.items:
            row, column = divmod(item.corner, 2)
            cell = targets[b, row * half : (row + 1) * half, column * half : (column + 1) * half]
            cell[..., 0] = classes[item.name]
            cell[..., 1] = colours[item.colour]
    return targets.flatten(1, 2)
