"""What `@part` accepts, and how names are found."""

from dataclasses import FrozenInstanceError, dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core import registry
from steersman.core.errors import PluginError, RecipeError
from steersman.core.part import Part, map_tensors, part
from steersman.core.roles import Operator, TokenGate
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Parts that a test makes are forgotten behind it."""
    registry.load_all()
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))


def gate(name: str, role: type = TokenGate) -> type:
    class Made(role):
        """g = 1."""

        def __call__(self, x, _state):
            return torch.ones(len(x.h))

    Made.__qualname__ = f"made.{name}"
    return Made


def test_a_registered_part_is_found_frozen_and_explained():
    made = part("mine")(gate("mine"))
    assert registry.resolve("gate", "mine") is made and registry.find("mine") == [made]
    assert "mine" in registry.names("gate") and made in registry.classes()
    with pytest.raises(FrozenInstanceError):
        made().reads = ()
    with pytest.raises(TypeError):
        StaticVector((Site(0),), torch.zeros(1, 2))  # fields are named


def test_a_part_cannot_be_extended():
    with pytest.raises(PluginError, match="Sharper extends the part AlwaysOpen. Parts are final"):

        class Sharper(AlwaysOpen):
            pass


def test_abstract_methods_may_not_be_left_open():
    class Lazy(Operator):
        """h <- h."""

    with pytest.raises(PluginError, match=r"'lazy' \(Lazy\) does not define: __call__"):
        part("lazy")(Lazy)
    assert "lazy" not in registry.names()


def test_what_is_no_part_is_refused():
    # The shape checks of the test session, where they are on, refuse it one step earlier.
    with pytest.raises((PluginError, TypeError), match="which is not a Part|Type-check"):
        part("dict")(dict)


def test_two_parts_of_one_role_cannot_have_one_name():
    part("mine")(gate("one"))
    with pytest.raises(PluginError, match="Two parts are called 'mine' in the role 'gate'"):
        part("mine")(gate("two"))
    part("mine")(gate("one"))  # the same class again, as when a module is reloaded


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match=r"no gate called 'allways'\. Did you mean 'always'\?"):
        registry.resolve("gate", "allways")
    with pytest.raises(RecipeError, match="Known: .*prober"):
        registry.resolve("gate", "zzz")
    with pytest.raises(RecipeError):
        registry.resolve("operator", "always")  # a name belongs to its role


def entry(name, load):
    return SimpleNamespace(name=name, value=f"{name}.parts", load=load)


def test_entry_points_are_imported_on_the_first_miss_and_only_once(monkeypatch):
    calls = []
    points = [entry("plugin", lambda: calls.append(part("plugged")(gate("plugged"))))]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group else [])
    monkeypatch.setattr(registry, "_loaded", False)
    assert registry.resolve("gate", "always") is AlwaysOpen and not calls
    assert registry.resolve("gate", "plugged") is calls[0]
    with pytest.raises(RecipeError):
        registry.resolve("gate", "unknown")
    assert len(calls) == 1


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    def broken():
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setattr(registry, "entry_points", lambda group: [entry("plugin", broken)])
    monkeypatch.setattr(registry, "_loaded", False)
    with pytest.raises(PluginError, match=r"plugin\.parts.*No module named 'x'.*uninstall"):
        registry.names()


@dataclass(frozen=True)
class Pair:
    first: Float[Tensor, "d"]  # noqa: F821
    second: int


def test_tensors_are_mapped_wherever_they_lie():
    """A tensor that stays behind on another device is found out on the first GPU."""

    @part("holder")
    class Holder(Part):
        """h <- h."""

        pair: Pair
        several: tuple[Tensor, ...]
        named: MappingProxyType

    x = torch.zeros(2)
    holder = Holder(pair=Pair(x, 1), several=(x, x), named=MappingProxyType({"a": x}))
    moved = holder.to("meta")
    found = [moved.pair.first, *moved.several, moved.named["a"]]
    assert [t.device.type for t in found] == ["meta"] * 4 and moved.pair.second == 1
    assert map_tensors(3, lambda t: t) == 3


STEERER = dict(gate=AlwaysOpen(), operator=Add(), sites=(Site(0),),
               synthesizer=StaticVector(sites=(Site(0),), vectors=torch.ones(1, 2)))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Steerer(**{**STEERER, "sites": ()}), "no sites"),
        (lambda: Steerer(**STEERER, strength=float("nan")), "strength of a steerer is nan"),
        (lambda: Policy(steerers={}), "no steerers"),
        (lambda: Policy(steerers={"a.b": Steerer(**STEERER)}), "without dots"),
        (lambda: Policy(steerers={"": Steerer(**STEERER)}), "cannot be called ''"),
        (lambda: Policy(steerers={"s": Steerer(**STEERER)}, max_relative_norm=-1.0), "above 0"),
        (lambda: Policy(steerers={"s": Steerer(**STEERER)}, max_relative_norm=0.0), "above 0"),
    ],
)
def test_compositions_that_could_not_act_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()
