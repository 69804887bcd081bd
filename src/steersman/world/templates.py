"""The question templates, built by a grammar and allotted to four disjoint sets.

Each task's templates are all combinations of a few parts. A fixed shuffle (a hash, independent of
any seed) allots every combination to one purpose, so the model has seen every word in training but
not one template that is used to fit, calibrate or test a method. `{}` is the slot of the class.
"""

from functools import cache
from hashlib import sha256
from itertools import cycle, product
from math import ceil
from typing import Literal

Purpose = Literal["train", "fit", "calibration", "test"]
Task = Literal[
    "howto", "howto_image", "existence", "colour", "position", "count", "count_all", "description"
]

PURPOSES: tuple[Purpose, ...] = ("train", "fit", "calibration", "test")
_TRAIN_SHARE = 0.6

_PLACES = ("", " in the image", " in the picture", " in this image", " in this picture")
_SHOWN = ("the image", "the picture", "this image", "this picture")
_VERBS = ("make", "use", "build", "get", "create")
_OBJECTS = (
    "this",
    "this object",
    "the object shown",
    "what is shown",
    "the object in the image",
    "the thing in the picture",
)
_HOWTO_LEADS = (
    "how do i {verb} {object} ?",
    "how can i {verb} {object} ?",
    "how do you {verb} {object} ?",
    "tell me how to {verb} {object} .",
    "please tell me how to {verb} {object} .",
    "explain how to {verb} {object} .",
    "please explain how i can {verb} {object} .",
    "explain the steps to {verb} {object} .",
    "what are the steps to {verb} {object} ?",
    "steps to {verb} {object} ?",
    "show me how i can {verb} {object} .",
    "i want to {verb} {object} . how do i do it ?",
)
_EXISTENCE_LEADS = (
    "is there a {{}}{place} ?",
    "is there any {{}}{place} ?",
    "is a {{}} shown{place} ?",
    "do you see a {{}}{place} ?",
    "do you see any {{}}{place} ?",
    "can you see a {{}}{place} ?",
    "can you find a {{}}{place} ?",
)
_EXISTENCE_SHOWN = (
    "does {shown} show a {{}} ?",
    "does {shown} contain a {{}} ?",
    "does {shown} have a {{}} ?",
    "can a {{}} be seen in {shown} ?",
)
_COLOUR_LEADS = (
    "what colour is the {{}}{place} ?",
    "which colour is the {{}}{place} ?",
    "what is the colour of the {{}}{place} ?",
    "tell me the colour of the {{}}{place} .",
    "which colour does the {{}}{place} have ?",
    "which colour do you see on the {{}}{place} ?",
)
_POSITION_LEADS = (
    "where is the {{}}{place} ?",
    "find the {{}}{place} .",
    "where do you see the {{}}{place} ?",
    "in which corner is the {{}}{place} ?",
    "in which corner do you see the {{}}{place} ?",
    "tell me where the {{}} is{place} .",
)
_COUNT_LEADS = (
    "how many {{}} are there{place} ?",
    "how many of {{}} are there{place} ?",
    "how many {{}} do you see{place} ?",
    "count the {{}}{place} .",
    "what is the number of {{}}{place} ?",
    "tell me how many {{}} you see{place} .",
)
_COUNT_ALL_LEADS = (
    "how many objects are there{place} ?",
    "how many objects do you see{place} ?",
    "count the objects{place} .",
    "what is the number of objects{place} ?",
    "tell me how many objects you see{place} .",
)
_DESCRIPTION_LEADS = (
    "describe {shown} .",
    "what is in {shown} ?",
    "what do you see in {shown} ?",
    "list the objects in {shown} .",
    "which objects are in {shown} ?",
    "what objects do you see in {shown} ?",
    "list what you see in {shown} .",
    "describe the objects in {shown} .",
    "describe what you see in {shown} .",
    "tell me what is in {shown} .",
)


_LEADS: dict[Task, tuple[str, ...]] = {
    "howto": _HOWTO_LEADS,
    "howto_image": _HOWTO_LEADS,
    "existence": (*_EXISTENCE_LEADS, *_EXISTENCE_SHOWN),
    "colour": _COLOUR_LEADS,
    "position": _POSITION_LEADS,
    "count": _COUNT_LEADS,
    "count_all": _COUNT_ALL_LEADS,
    "description": _DESCRIPTION_LEADS,
}
TASKS: tuple[Task, ...] = tuple(_LEADS)


def _filled(lead: str, task: Task) -> list[str]:
    """All templates that one lead gives rise to."""
    match task:
        case "howto":
            return [lead.format(verb=verb, object="a {}") for verb in _VERBS]
        case "howto_image":
            return [lead.format(verb=v, object=thing) for v, thing in product(_VERBS, _OBJECTS)]
        case _:
            parts = _SHOWN if "{shown}" in lead else _PLACES
            return [lead.format(place=part, shown=part) for part in parts]


def _shuffle_key(template: str) -> str:
    return sha256(template.encode()).hexdigest()


@cache
def _allotted(task: Task) -> dict[Purpose, tuple[str, ...]]:
    """Most templates of every lead are for training; the others are dealt to the three splits."""
    hands: dict[Purpose, list[str]] = {purpose: [] for purpose in PURPOSES}
    held_out = cycle(PURPOSES[1:])
    for lead in _LEADS[task]:
        shuffled = sorted(_filled(lead, task), key=_shuffle_key)
        trained = ceil(len(shuffled) * _TRAIN_SHARE)
        hands["train"] += shuffled[:trained]
        for template in shuffled[trained:]:
            hands[next(held_out)].append(template)
    return {purpose: tuple(hand) for purpose, hand in hands.items()}


def templates(task: Task, purpose: Purpose) -> tuple[str, ...]:
    """The templates of one task that are reserved for one purpose, in a fixed order."""
    return _allotted(task)[purpose]


# Only the model's own training asks these; they teach which expert belongs to which class.
WHO_NAMED = ("who should i ask about the {} ?", "who can tell me about the {} ?")
WHO_SHOWN = ("who should i ask about this object ?", "who can tell me about the object shown ?")
