"""Fits the steerers of recipes, each setting once; another strength only scales."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import NamedTuple, NoReturn, TypeVar

from torch import Tensor

from steersman.core.fitlog import FitLog
from steersman.core.recipe import Recipe
from steersman.core.roles import Model
from steersman.core.steerer import Method, Policy, RequestMethod, Steerer
from steersman.core.tree import encode
from steersman.core.types import ModelSpec
from steersman.data.rows import Dataset, Row
from steersman.methods.fit import Records, teachers

T = TypeVar("T")


class Fitted(NamedTuple):
    """A policy, and by steerer what its fit told."""

    policy: Policy
    records: dict[str, Records]


class _Fit(NamedTuple):
    steerer: Steerer
    records: Records


@dataclass
class Fitter:
    """Fits the steerers of recipes on given rows, each setting once.

    Attributes:
        data: by suite, or the only data set.
        seed: of every method, whatever its recipe says; None leaves the recipe's.
        fitted_at: by recipe and steerer, the strength that it is fitted at (a method may train at
            it); another strength scales the steerer that this fit gave.
    """

    model: Model
    data: Dataset | Mapping[str, Dataset]
    seed: int | None = None
    fitted_at: dict[str, dict[str, float]] = field(default_factory=dict)
    kept: dict[str, _Fit] = field(default_factory=dict)

    def begin(self, recipe: Recipe) -> None:
        """Notes the strengths that the recipe was written with, before they are searched."""
        found = {name: strength_of(plan.method) for name, plan in recipe.steerers.items()}
        self.fitted_at[recipe.name] = {name: s for name, s in found.items() if s}

    def policy(self, recipe: Recipe) -> Fitted:
        """The recipe's policy."""
        taught, steerers, records = teachers(recipe, self.data), {}, {}
        written = self.fitted_at.get(recipe.name, {})
        for name, plan in recipe.steerers.items():
            fit = self._scaled(self._seeded(plan.method), taught[name], written.get(name))
            steerers[name], records[name] = fit
        policy = Policy(steerers=steerers, max_relative_norm=recipe.max_relative_norm)
        return Fitted(policy, records)

    def vectors(self, recipe: Recipe, rows: Sequence[Row]) -> list[dict[str, Tensor]] | None:
        """One table of vectors for each row, where a method brings them with the requests."""
        taught = teachers(recipe, self.data)
        made: dict[str, Tensor] = {}
        for name, plan in recipe.steerers.items():
            method = self._seeded(plan.method)
            if isinstance(method, RequestMethod):
                made[name] = method.vectors(self.model, taught[name], rows)
        return [{n: v[i] for n, v in made.items()} for i in range(len(rows))] if made else None

    def _seeded(self, method: Method[object]) -> Method[object]:
        return method if self.seed is None else seeded(method, self.seed)

    def _scaled(self, method: Method[object], data: Dataset, written: float | None) -> _Fit:
        """The fit at the strength that was written, scaled to the method's.

        A method that does more with its strength than hand it on is fitted again.
        """
        strength = strength_of(method)
        if strength is None or written is None or strength == written:
            return self._fit(method, data)
        fit = self._fit(_with_strength(method, written), data)
        if math.isclose(fit.steerer.strength, written):
            return fit._replace(steerer=replace(fit.steerer, strength=strength))
        return self._fit(method, data)

    def _fit(self, method: Method[object], data: Dataset) -> _Fit:
        key = json.dumps([encode(method, {}), data.hash])
        if key not in self.kept:
            log = FitLog()
            self.kept[key] = _Fit(method.fit(self.model, data, log), log.records)
        return self.kept[key]


def seeded(value: T, seed: int) -> T:
    """The same method with every field that is called `seed` set, at any depth."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        f.name: seed if f.name == "seed" else seeded(getattr(value, f.name), seed)
        for f in fields(value)
    }
    return replace(value, **changed)


def strength_of(method: Method[object]) -> float | None:
    """The strength of a method, or of the method that it wraps."""
    value: object = method
    for name in strength_path(method):
        value = getattr(value, name)
    return value if isinstance(value, float) else None


def check_layers(recipe: Recipe, data: Dataset | Mapping[str, Dataset], spec: ModelSpec) -> None:
    """Begins every fit that a search may ask for and stops where the model would run.

    Raises:
        RecipeError: this model, or these rows, cannot be used.
        DataError: likewise.
    """
    taught = teachers(recipe, data)
    candidates = [recipe]
    for path, values in recipe.search.items():
        if path.rpartition(".")[2] != "strength":
            candidates += [recipe.override(path, value) for value in values]
    seen: set[str] = set()
    for candidate in candidates:
        for name, plan in candidate.steerers.items():
            key = json.dumps([name, encode(plan.method, {})])
            if key not in seen:
                seen.add(key)
                try:
                    plan.method.fit(_Unrun(spec), taught[name])
                except _Asked:
                    continue


class _Asked(Exception):
    """The method came as far as to run the model."""


class _Unrun:
    """A model that only says what it is."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def capture(self, *_: object, **__: object) -> NoReturn:
        raise _Asked

    complete = answer_states = logits = capture


def strength_path(method: Method[object]) -> tuple[str, ...]:
    """Where the strength is: ("strength",), or behind wrapping methods; empty if nowhere."""
    own = vars(method)
    if "strength" in own:
        return ("strength",)
    inner = own.get("method")
    below = strength_path(inner) if isinstance(inner, Method) else ()
    return ("method", *below) if below else ()


def _with_strength(method: Method[object], strength: float) -> Method[object]:
    assert is_dataclass(method)
    if "strength" in vars(method):
        return replace(method, strength=strength)
    inner = vars(method)["method"]
    return replace(method, method=_with_strength(inner, strength))
