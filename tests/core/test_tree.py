"""Strict reading of part trees and recipes: whatever does not fit is named, with the nearest."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import ArtifactError, RecipeError
from steersman.core.recipe import parse_recipe, read_recipe
from steersman.core.roles import ContextGate, Gate, LayerSelector, Operator
from steersman.core.steerer import Steerer
from steersman.core.tree import Decoder, encode
from steersman.core.types import Scope, Site


@dataclass(frozen=True)
class Inner:
    site: Site
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    """A field of every kind that recipes and artifacts have."""

    kind: Literal["hard", "soft"]
    inner: Inner
    sites: tuple[Site, ...] = ()
    pair: tuple[int, str] = (1, "a")
    scope: Scope = Scope.ALL
    limit: float | None = None
    named: dict[str, Inner] = field(default_factory=dict)
    weights: Float[Tensor, " d"] | None = None
    gate: Gate | None = None
    sure: bool = False


GOOD = {"kind": "hard", "inner": {"site": {"layer": 3}}}


def read(table, hint=Outer, **settings):
    return Decoder("recipe.toml", **settings).decode(hint, table)


def test_everything_is_read_by_its_type():
    made = read(
        {
            **GOOD,
            "sites": [{"layer": 1, "point": "attn_out"}],
            "pair": [2, "b"],
            "scope": "last",
            "limit": 2,
            "named": {"x": {"site": {"layer": 0}, "share": 1}},
            "gate": {"part": "always"},
            "sure": True,
        }
    )
    assert made.inner == Inner(Site(3)) and made.sites == (Site(1, "attn_out"),)
    assert made.pair == (2, "b") and made.scope is Scope.LAST and made.limit == 2.0
    assert made.named == {"x": Inner(Site(0), 1.0)} and isinstance(made.named["x"].share, float)
    assert made.gate.part_name == "always" and made.sure is True
    assert read({**GOOD, "scope": {"start": -2}}).scope == Scope(start=-2)


def test_what_was_written_reads_back():
    tensors = {}
    first = read({**GOOD, "weights": {"tensor": "w"}}, tensors={"w": torch.ones(2)})
    table = encode(first, tensors)
    assert table["weights"] == {"tensor": "weights"} and list(tensors) == ["weights"]
    again = read(table, tensors=tensors)
    assert torch.equal(again.weights, first.weights) and again.inner == first.inner


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"knd": "hard"}, r"knd: unknown field\. Did you mean 'kind'\?"),
        ({"inner": {"site": {"layer": 1}, "shar": 1}}, r"inner\.shar: unknown.*'share'"),
        ({"inner": {"share": 0.1}}, r"inner\.site: this field of Inner is missing"),
        ({"inner": 3}, "inner: a table is needed, not 3"),
        ({"inner": {"site": {"layer": "3"}}}, r"inner\.site\.layer: '3' is a str.*needs a int"),
        ({"inner": {"site": {"layer": 3.0}}}, r"layer: 3\.0 is a float"),
        ({"inner": {"site": {"layer": True}}}, "layer: True is a bool"),
        ({"kind": "hart"}, r"kind: 'hart' is not possible here\. Did you mean 'hard'\?"),
        ({"kind": ["hard"]}, "is not possible here"),
        ({"sites": {"layer": 1}}, "sites: a list is needed"),
        ({"sites": [{"layer": 1}, {"laier": 1}]}, r"sites\.1\.laier: unknown field"),
        ({"pair": [1]}, "pair: 2 entries are needed, not 1"),
        ({"pair": ["a", 1]}, r"pair\.0: 'a' is a str"),
        ({"scope": "lastt"}, "scope: There is no scope 'lastt'"),
        ({"scope": {"stat": 1}}, r"scope\.stat: unknown field.*'start'"),
        ({"limit": "two"}, "limit: 'two' is a str; this field needs a float"),
        ({"limit": float("nan")}, "limit: nan is not a finite number"),
        ({"named": {"x": {}}}, r"named\.x\.site: this field of Inner is missing"),
        ({"weights": [1.0]}, "weights: a stored tensor is needed"),
        ({"weights": {"tensor": "other"}}, "weights: a stored tensor is needed"),
        ({"gate": {"part": "allways"}}, "gate: There is no gate called 'allways'.*'always'"),
        ({"gate": {}}, 'gate: a gate is needed: write part = "name"'),
        ({"gate": {"part": "add"}}, "no gate called 'add'"),
        ({"gate": {"part": "always", "x": 1}}, r"gate\.x: unknown field"),
        ({"sure": 1}, "sure: 1 is a int; this field needs a bool"),
    ],
)
def test_what_does_not_fit_names_source_path_and_cure(change, message):
    with pytest.raises(RecipeError, match=f"recipe.toml: .*{message}"):
        read({**GOOD, **change})
    with pytest.raises(ArtifactError, match=message):
        read({**GOOD, **change}, error=ArtifactError)


def test_a_missing_field_is_named():
    with pytest.raises(RecipeError, match="kind: this field of Outer is missing"):
        read({"inner": GOOD["inner"]})


def test_what_a_part_itself_refuses_is_placed_too():
    """An artifact's reader is told which file and which field, not only that 1.5 is too much."""
    table = {"part": "fractional_depth", "start": 0.9, "stop": 0.1}
    with pytest.raises(ArtifactError, match="recipe.toml: top level: start 0.9 and stop 0.1"):
        read(table, LayerSelector, error=ArtifactError)


def test_a_part_of_the_role_may_still_be_the_wrong_kind():
    with pytest.raises(RecipeError, match="a ContextGate is needed here, and 'always' is none"):
        read({"part": "always"}, ContextGate)
    assert read({"part": "add"}, Operator).part_name == "add"
    with pytest.raises(RecipeError, match="sites: this field of Steerer is missing"):
        read({}, Steerer)


def test_two_tensors_cannot_share_a_path():
    with pytest.raises(RecipeError, match=r"Two tensors would be stored as a\.b"):
        encode({"a": {"b": torch.ones(1)}, "a.b": torch.zeros(1)}, {})


L2S = """
method = "l2s"
strength = 1.5

[site]
layer = 14

[context.site]
layer = 30

[contrasts.behaviours.harm]
positive = "no"
negative = "yes"

[net]
epochs = 3
"""


def test_a_recipe_is_the_methods_fields():
    recipe = parse_recipe(L2S + "", "r.toml")
    assert recipe.name == "l2s" and recipe.max_relative_norm is None
    assert recipe.method.site == Site(14) and recipe.method.strength == 1.5
    assert recipe.method.net.epochs == 3
    assert recipe.table["site"] == {"layer": 14}


def test_settings_from_the_command_line_replace_fields():
    recipe = parse_recipe(
        L2S,
        "r.toml",
        [
            "site.layer=2", "strength = 2", "net.hidden=7", "context.offset=-2", "name=mine",
            "max_relative_norm=1.5", 'contrasts.behaviours.harm.suffix=" now"', "scope=all",
        ],
    )  # fmt: skip
    method = recipe.method
    assert (method.site, method.strength, method.net.hidden) == (Site(2), 2.0, 7)
    assert method.context.offset == -2 and method.scope is Scope.ALL
    assert (recipe.name, recipe.max_relative_norm) == ("mine", 1.5)
    assert method.contrasts.behaviours["harm"].suffix == " now"
    assert recipe.table["net"] == {"epochs": 3, "hidden": 7}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("site.layer", "'site.layer' is no override. Write path.to.field=value"),
        ("=3", "is no override"),
        ("site.layr=3", r"site\.layr: unknown field.*'layer'"),
        ("strength.x=3", "x is not inside a table"),
        ("strength.x.y=3", "is not inside a table"),
        ("strength=strong", "strength: 'strong' is a str; this field needs a float"),
        ("strength=nan", "not a finite number"),
        ("method=l3s", "no method called 'l3s'.*'l2s'"),
        ("max_relative_norm=0", "max_relative_norm is 0"),
        ("name=a.b", "cannot be called 'a.b'"),
        ("site=3", "site: a table is needed"),
    ],
)
def test_bad_overrides_are_refused(override, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(L2S, "r.toml", [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"method = ", "r.toml is not valid TOML"),
        (b"name = 'x'", r"r.toml: which method\? Write method ="),
        (b"method = 3", "which method"),
        (b"method = 'l2s'\n\xff", "r.toml is not a text in UTF-8"),
        (b"method = 'l2s'\nstrenght = 1", r"r.toml: strenght: unknown field.*'strength'"),
    ],
)
def test_a_recipe_file_that_cannot_be_used_is_named(tmp_path, content, message):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.toml")


def test_a_missing_recipe_is_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RecipeError, match="There is no recipe at .*Give a TOML file"):
            read_recipe(path)
    (tmp_path / "r.toml").write_text(L2S)
    assert read_recipe(tmp_path / "r.toml", ["net.epochs=1"]).method.net.epochs == 1
