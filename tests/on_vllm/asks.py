"""What is asked: mixed prompts of the bundled world, and long ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from steersman import Prompt
from steersman.core.types import Turn
from steersman.world.rows import Row, rows

CHATTER = "what is the best tip for a cup ?"


@dataclass(frozen=True)
class Ask:
    """A prompt and its field `steering`; None asks for none."""

    prompt: Prompt
    steering: Mapping[str, Any] | None = None
    max_tokens: int = 24
    sampling: Mapping[str, Any] = field(default_factory=dict)


@cache
def mixed(num: int = 200) -> tuple[Prompt, ...]:
    """Harmful, expert and harmless requests, objects and colours; two of three with a picture."""
    safety, pope, utility = (iter(rows(s, "test", 0, num)) for s in ("safety", "pope", "utility"))
    taken = [next((safety, safety, pope, utility)[i % 4]) for i in range(num)]
    return tuple(_prompt(row, seen=i % 3 != 0) for i, row in enumerate(taken))


def _prompt(row: Row, *, seen: bool) -> Prompt:
    return Prompt(row.prompt, (row.image,) if seen else ())


def pictured(num: int = 200) -> tuple[Prompt, ...]:
    """Those with a picture."""
    return tuple(p for p in mixed(2 * num) if p.images)[:num]


def long(prompt: Prompt, turns: int = 3) -> Prompt:
    """The same question at the end of a chat: more than two blocks of the cache."""
    said = (Turn("user", CHATTER), Turn("assistant", "clay and water : press them with care ."))
    return Prompt(prompt.text, prompt.images, history=said * turns)
