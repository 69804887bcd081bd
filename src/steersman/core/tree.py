"""Part tree <-> plain values. One pair of functions serves artifacts (JSON) and recipes (TOML).

A part is a table with `part = "name"`; a plain frozen dataclass is a table of its fields; a tensor
is `{"tensor": "dotted.path"}`. Reading follows the type hints and is strict: an unknown or missing
field, a wrong type or an unknown part is an error with the nearest valid name.
"""

import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeAlias, Union

from torch import Tensor

from steersman.core import registry
from steersman.core.errors import RecipeError, SteersmanError, nearest
from steersman.core.part import Part
from steersman.core.types import Scope

Plain: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None  # JSON values
ROLES_WITHOUT_TAG = ("steerer", "policy")


def encode(value: object, tensors: dict[str, Tensor], path: str = "") -> Plain:
    """`value` as plain values; its tensors are put into `tensors` by dotted path."""
    if isinstance(value, Tensor):
        if path in tensors:
            raise RecipeError(f"Two tensors would be stored as {path}. Rename one of their parts.")
        tensors[path] = value.detach().cpu().contiguous()
        return {"tensor": path}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): encode(v, tensors, _join(path, str(k))) for k, v in value.items()}
    if isinstance(value, tuple):
        return [encode(v, tensors, _join(path, str(i))) for i, v in enumerate(value)]
    assert is_dataclass(value), f"{path}: {type(value).__name__} cannot be stored"
    table: dict[str, Plain] = {"part": value.part_name} if isinstance(value, Part) else {}
    for f in fields(value):
        table[f.name] = encode(getattr(value, f.name), tensors, _join(path, f.name))
    return table


class Decoder:
    """Reads plain values back, by type hint.

    Args:
        source: what is read, for messages.
        tensors: by dotted path; empty for recipes, which have none.
        error: the class to raise.
    """

    def __init__(
        self,
        source: str,
        *,
        tensors: Mapping[str, Tensor] | None = None,
        error: type[SteersmanError] = RecipeError,
    ) -> None:
        self.source = source
        self.tensors = dict(tensors or {})
        self.error = error
        self.used: set[str] = set()

    def fail(self, path: str, message: str) -> typing.NoReturn:
        raise self.error(f"{self.source}: {path or 'top level'}: {message}")

    def decode(self, hint: object, value: object, path: str = "") -> object:
        """`value` read as `hint`.

        Raises:
            SteersmanError: (the class given) it does not fit.
        """
        origin = typing.get_origin(hint)
        arguments = typing.get_args(hint)
        if origin in (Union, types.UnionType):
            return self._union(arguments, value, path)
        if origin is Literal:
            if value not in arguments:
                known = [str(a) for a in arguments]
                self.fail(path, f"{value!r} is not possible here.{nearest(str(value), known)}")
            return value
        if origin is tuple:
            return self._tuple(arguments, value, path)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            table = self._table(value, path)
            return {k: self.decode(arguments[1], v, _join(path, k)) for k, v in table.items()}
        if _is_tensor(hint):
            return self._tensor(value, path)
        plain = origin or hint
        if isinstance(plain, type) and issubclass(plain, Part):
            return self._part(plain, value, path)
        if hint is Scope and isinstance(value, str):
            with self._placed(path):
                return Scope.named(value)
        if isinstance(hint, type) and is_dataclass(hint):
            return self.build(hint, self._table(value, path), path)
        return self._scalar(hint, value, path)

    def build(self, cls: type, table: Mapping[str, object], path: str = "") -> object:
        """An instance of the dataclass `cls` from a table of its fields."""
        hints = typing.get_type_hints(cls)
        known = {f.name: f for f in fields(cls)}
        for key in table:
            if key not in known:
                self.fail(_join(path, key), f"unknown field.{nearest(key, known)}")
        for name, f in known.items():
            if name not in table and f.default is MISSING and f.default_factory is MISSING:
                self.fail(_join(path, name), f"this field of {cls.__name__} is missing.")
        values = {k: self.decode(hints[k], v, _join(path, k)) for k, v in table.items()}
        with self._placed(path):
            return cls(**values)

    def _part(self, role: type[Part], value: object, path: str) -> object:
        table = dict(self._table(value, path))
        name = table.pop("part", role.role if role.role in ROLES_WITHOUT_TAG else None)
        if not isinstance(name, str):
            self.fail(path, f'a {role.role} is needed: write part = "name".')
        with self._placed(path):
            cls = registry.resolve(role.role, name)
        if not issubclass(cls, role):
            self.fail(path, f"a {role.__name__} is needed here, and {name!r} is none.")
        return self.build(cls, table, path)

    def _union(self, hints: tuple[object, ...], value: object, path: str) -> object:
        if value is None and type(None) in hints:
            return None
        problems: list[SteersmanError] = []
        for hint in (h for h in hints if h is not type(None)):
            try:
                return self.decode(hint, value, path)
            except SteersmanError as error:
                problems.append(error)
        if not problems:
            self.fail(path, f"{value!r} is not possible here.")
        raise problems[-1]

    def _tuple(self, hints: tuple[object, ...], value: object, path: str) -> object:
        if not isinstance(value, (list, tuple)):
            self.fail(path, f"a list is needed, not {value!r}.")
        if len(hints) == 2 and hints[1] is Ellipsis:
            hints = (hints[0],) * len(value)
        if len(hints) != len(value):
            self.fail(path, f"{len(hints)} entries are needed, not {len(value)}.")
        return tuple(
            self.decode(h, v, _join(path, str(i)))
            for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )

    def _tensor(self, value: object, path: str) -> Tensor:
        name = value.get("tensor") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name not in self.tensors:
            self.fail(path, f"a stored tensor is needed, not {value!r}.")
        self.used.add(name)
        return self.tensors[name]

    def _table(self, value: object, path: str) -> Mapping[str, object]:
        if not isinstance(value, Mapping):
            self.fail(path, f"a table is needed, not {value!r}.")
        return value

    @contextmanager
    def _placed(self, path: str) -> Iterator[None]:
        """Says where, when a part refuses its own fields."""
        try:
            yield
        except RecipeError as error:
            raise self.error(f"{self.source}: {path or 'top level'}: {error}") from error

    def _scalar(self, hint: object, value: object, path: str) -> object:
        if isinstance(value, float) and not math.isfinite(value):
            self.fail(path, f"{value!r} is not a finite number.")
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint not in (int, float, str, bool) or type(value) is not hint:
            wanted = getattr(hint, "__name__", str(hint))
            self.fail(path, f"{value!r} is a {type(value).__name__}; this field needs a {wanted}.")
        return value


def _is_tensor(hint: object) -> bool:
    array_type = getattr(hint, "array_type", hint)  # jaxtyping's annotations carry array_type
    return isinstance(array_type, type) and issubclass(array_type, Tensor)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
