"""`@part`: turns a class into a named, frozen, final piece of a policy."""

import inspect
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import ClassVar, TypeVar, dataclass_transform

import torch
from torch import Tensor

from steersman.core import registry
from steersman.core.errors import PluginError

T = TypeVar("T")
P = TypeVar("P", bound="Part")


class Part(ABC):  # noqa: B024  (its roles have the abstract methods)
    """Frozen data with pure functions. Abstract or final: a registered part is never subclassed.

    Fields hold tensors, scalars, plain frozen dataclasses and other parts; never a module, a
    model or anything mutable. What changes while a model runs lives in the state that the
    part's functions take and return.
    """

    role: ClassVar[str] = "part"
    part_name: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        for base in cls.__mro__[1:]:
            if base.__dict__.get("part_name"):
                raise PluginError(
                    f"{cls.__name__} extends the part {base.__name__}. Parts are final: hold one "
                    "in a field instead."
                )

    def to(self: P, device: torch.device | str) -> P:
        """The same part with every tensor on `device`."""
        return map_tensors(self, lambda t: t.to(device))


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True)
def part(name: str) -> Callable[[type[P]], type[P]]:
    """Registers a class as the part `name` of the role it implements.

    Raises:
        PluginError: the class is no `Part`, leaves an abstract method open, or the name is taken.
    """

    def decorate(cls: type[P]) -> type[P]:
        if not issubclass(cls, Part):
            raise PluginError(f"@part({name!r}) is on {cls.__name__}, which is not a Part.")
        made = dataclass(frozen=True, eq=False, kw_only=True)(cls)
        if inspect.isabstract(made):
            missing = ", ".join(sorted(made.__abstractmethods__))
            raise PluginError(f"The part {name!r} ({cls.__name__}) does not define: {missing}.")
        made.part_name = name
        registry.add(made.role, name, made)
        return made

    return decorate


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """Rebuilds a tree of parts, frozen dataclasses, tuples and mappings with its tensors mapped."""
    if isinstance(value, Tensor):
        return function(value)  # type: ignore[return-value]  # T is Tensor here
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map_tensors(v, function) for v in value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return type(value)(*(map_tensors(v, function) for v in value))
    if isinstance(value, Mapping):
        return {k: map_tensors(v, function) for k, v in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: map_tensors(getattr(value, f.name), function) for f in fields(value)}
        return replace(value, **changed)
    return value
