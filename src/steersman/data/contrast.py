"""Contrasts: how a behaviour turns one row into two prompts that differ in it alone.

The texts of a contrast may hold `{prompt}`, `{answer}`, `{wrong}` and `{label.NAME}`; write `{{`
and `}}` for braces.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.types import Prompt
from steersman.data.prompts import to_prompt
from steersman.data.rows import Row

PLACEHOLDERS = ("answer", "label.NAME", "prompt", "wrong")
NO_FLIPS: Mapping[str, str] = MappingProxyType({})

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_LABEL = "label."


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What is said on either side of a behaviour.

    Attributes:
        suffix: put behind the row's prompt as it is, without a space.
        positive: beginning of the answer that shows the behaviour.
        negative: beginning of the answer that does not.
        system: replaces the row's system prompt.

    Raises:
        RecipeError: an empty or equal completion, an unknown placeholder or a lone brace.
    """

    positive: str
    negative: str
    suffix: str = ""
    system: str | None = None

    def __post_init__(self) -> None:
        for key in fields(self):
            template = getattr(self, key.name)
            if template is not None:
                _fill(template, key.name, _known)
        for name, template in (("positive", self.positive), ("negative", self.negative)):
            if not template.strip():
                raise RecipeError(f"The {name} completion of a contrast is empty. Write one.")
        if self.positive == self.negative:
            raise RecipeError(
                f"Both completions of a contrast are {self.positive!r}. Write two that differ."
            )


def pair(
    row: Row,
    contrast: Contrast,
    *,
    close_turn: bool = False,
    wrong: Mapping[str, str] = NO_FLIPS,
) -> tuple[Prompt, Prompt]:
    """The row with the positive and with the negative completion.

    A row that brings its own completions is taken as it is: they answer its prompt, so the
    contrast's suffix and system prompt, which belong to the contrast's words, are not used.

    Args:
        close_turn: render each completion as a finished turn.
        wrong: the wrong answer by right answer, for `{wrong}`; upper and lower case follow the
            row's answer.

    Raises:
        DataError: the row lacks something that the contrast asks for, or its image is unreadable.
    """
    if row.positive is not None and row.negative is not None:
        own = to_prompt(row)
        return (
            replace(own, completion=row.positive, close_turn=close_turn),
            replace(own, completion=row.negative, close_turn=close_turn),
        )
    values = _Values(row, wrong)
    prompt = to_prompt(row, suffix=_fill(contrast.suffix, "suffix", values))
    if contrast.system is not None:
        prompt = replace(prompt, system=_fill(contrast.system, "system", values))
    positive = _fill(contrast.positive, "positive", values)
    negative = _fill(contrast.negative, "negative", values)
    if positive == negative or not positive.strip() or not negative.strip():
        raise DataError(
            f"Row {row.id!r}: its completions come out as {positive!r} and {negative!r}; they "
            "must differ and not be empty. Correct the row's answer and labels."
        )
    return (
        replace(prompt, completion=positive, close_turn=close_turn),
        replace(prompt, completion=negative, close_turn=close_turn),
    )


def forced(row: Row, completion: str, *, close_turn: bool = False) -> Prompt:
    """The row made to say a completion, or its own positive one where it brings that.

    Args:
        completion: may hold the placeholders of a contrast, but not `{wrong}`.
        close_turn: render it as a finished turn.

    Raises:
        DataError: the row lacks something that the completion asks for.
    """
    text = row.positive or _fill(completion, "completion", _Values(row, NO_FLIPS))
    return replace(to_prompt(row), completion=text, close_turn=close_turn)


def check_completion(completion: str, name: str) -> None:
    """Refuses a completion that no row can have.

    Raises:
        RecipeError: it is empty, or has an unknown placeholder or a lone brace.
    """
    if not completion.strip():
        raise RecipeError(f"The {name} is empty. Write what is to be said.")
    _fill(completion, name, _known)


@dataclass(frozen=True, slots=True)
class _Values:
    """What stands for each placeholder in one row."""

    row: Row
    wrong: Mapping[str, str]

    def __call__(self, name: str, where: str) -> str:
        if name == "prompt":
            return self.row.prompt
        if name in ("answer", "wrong"):
            return self._answer(name, where)
        return self._label(name.removeprefix(_LABEL), where)

    def _answer(self, name: str, where: str) -> str:
        answer = self.row.answer
        if answer is None:
            raise DataError(
                f"Row {self.row.id!r} has no answer, but the contrast's {where} needs "
                f"{{{name}}}. Add the answer to the row."
            )
        if name == "answer":
            return answer
        flips = {key.casefold(): value for key, value in self.wrong.items()}
        if answer.casefold() not in flips:
            raise DataError(
                f"Row {self.row.id!r}: there is no wrong answer for {answer!r}."
                f"{nearest(answer, self.wrong)} Correct the answer, or add it to the recipe's "
                "wrong answers."
            )
        return _same_case(flips[answer.casefold()], answer)

    def _label(self, name: str, where: str) -> str:
        value = self.row.labels.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            have = "no" if value is None else "no text or number as its"
            raise DataError(
                f"Row {self.row.id!r} has {have} label {name!r}, but the contrast's {where} needs "
                f"it.{nearest(name, self.row.labels)} Add it to the row's labels."
            )
        return str(value)


def _known(name: str, where: str) -> str:
    """Stands for every row when a recipe is read: only the placeholder's name is checked."""
    if name in ("answer", "prompt", "wrong") or (name.startswith(_LABEL) and name != _LABEL):
        return ""
    raise RecipeError(
        f"The contrast's {where} has the unknown placeholder {{{name}}}."
        f"{nearest(name, PLACEHOLDERS)} Write {{{{ and }}}} for braces."
    )


def _fill(template: str, where: str, value: Callable[[str, str], str]) -> str:
    """The template with its placeholders replaced, once: braces in a value stay as they are."""

    def one(match: re.Match[str]) -> str:
        token = match.group()
        if token in ("{{", "}}"):
            return token[0]
        if match.group(1) is None:
            raise RecipeError(
                f"The contrast's {where} has a lone {token!r} in {template!r}. Write it twice for "
                "a brace, or complete the placeholder."
            )
        return value(match.group(1), where)

    return _TOKEN.sub(one, template)


def _same_case(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
