"""Reading answers word by word, so that `snow` is not `no` and `i see no cup` is not a verdict."""

import re
from collections.abc import Iterable

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "\u00b4": "'"})
_GRAM = 3


def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case; hyphens and apostrophes stay inside words."""
    return tuple(_WORD.findall(text.translate(_APOSTROPHES).lower()))


def mentions(text: str, phrases: Iterable[str]) -> tuple[str, ...]:
    """Which of the phrases stand in the text as whole words, in the order of the phrases."""
    padded = f" {' '.join(words(text))} "
    return tuple(p for p in phrases if words(p) and f" {' '.join(words(p))} " in padded)


def repetition(text: str) -> float:
    """The share of three-word sequences that were there before; 0 for fluent short answers."""
    spoken = words(text)
    grams = [spoken[i : i + _GRAM] for i in range(len(spoken) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
