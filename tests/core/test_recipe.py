"""Recipes in both forms: what is read, what is refused, and what an override changes."""

import pytest

from steersman.core.errors import RecipeError
from steersman.core.recipe import parse_recipe
from steersman.core.types import Site

CONTRAST = """
[{path}contrasts.behaviours.harmful]
positive = "no"
negative = "yes"
"""
MEAN = 'method = "mean"\nsite = { layer = 1 }\n'
ONE = MEAN + CONTRAST.format(path="")
TWO = (
    'name = "both"\nmax_relative_norm = 2.0\n'
    f'[steerers.safety]\n{MEAN}data = "safety"\n{CONTRAST.format(path="steerers.safety.")}'
    f"[steerers.object]\n{MEAN}{CONTRAST.format(path='steerers.object.')}"
)


def test_one_method_is_one_steerer_of_its_name():
    recipe = parse_recipe(f'name = "calm"\ndata = "safety"\n{ONE}', "r.toml")
    assert recipe.name == "calm" and list(recipe.steerers) == ["calm"]
    assert recipe.method is recipe.steerers["calm"].method
    assert recipe.steerers["calm"].data == ("safety",)
    assert list(parse_recipe(ONE, "r.toml").steerers) == ["mean"]


def test_several_steerers_keep_their_order_and_their_data():
    recipe = parse_recipe(TWO, "r.toml")
    assert recipe.name == "both" and recipe.max_relative_norm == 2
    assert list(recipe.steerers) == ["safety", "object"]
    assert [s.data for s in recipe.steerers.values()] == [("safety",), ()]
    assert parse_recipe(TWO.replace('name = "both"', ""), "r").name == "safety+object"
    with pytest.raises(RecipeError, match=r"r.toml has the steerers safety, object"):
        _ = recipe.method


def test_a_wrapped_method_is_written_with_its_part():
    text = 'part = "gated"\n[method]\npart = "mean"\nsite = { layer = 1 }\n'
    recipe = parse_recipe(text + CONTRAST.format(path="method."), "r")
    assert recipe.name == "gated" and vars(recipe.method)["method"].site == Site(1)


def test_an_override_changes_one_value_and_the_table():
    recipe = parse_recipe(TWO, "r.toml")
    changed = recipe.override("steerers.object.site.layer", 0)
    sites = [vars(s.method)["site"].layer for s in changed.steerers.values()]
    assert sites == [1, 0] and changed.table["steerers"]["object"]["site"] == {"layer": 0}
    assert vars(recipe.steerers["object"].method)["site"].layer == 1
    single = parse_recipe(ONE, "r").override("strength", 2)
    assert vars(single.method)["strength"] == 2.0
    with pytest.raises(RecipeError, match="strenght: unknown field. Did you mean 'strength'"):
        recipe.override("steerers.safety.strenght", 1)


@pytest.mark.parametrize("written", ['"site.layer" = [0, 1]', "site.layer = [0, 1]"])
def test_a_search_holds_paths_in_the_order_written(written):
    recipe = parse_recipe(f"{ONE}\n[search]\n{written}\nstrength = [0.5, 1]\n", "r")
    assert dict(recipe.search) == {"site.layer": (0, 1), "strength": (0.5, 1)}
    assert list(recipe.search) == ["site.layer", "strength"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{ONE}\n[search]\nstrenght = [1]", "search: strenght = 1.*Did you mean 'strength'"),
        (f"{ONE}\n[search]\nstrength = [1, 'much']", "strength = 'much'.*needs a float"),
        (f"{ONE}\n[search]\nstrength = 1", r"search.strength: a list of values.*not 1"),
        (f"{ONE}\n[search]\nstrength = []", "a list of values"),
        (f"{ONE}\n[search]\nstrength = [1.0, 0.0]", "search.strength: a strength of 0 is the"),
        (f"{ONE}\n[search]\ndata = ['a', 'b']", "search.data: this cannot be searched"),
        (f"{ONE}\n[search]\nname = ['a']", "search.name: this cannot be searched"),
        (f"search = 3\n{ONE}", "search: a table of paths"),
        (f"{MEAN}{TWO}", "method: unknown key beside steerers.*own table"),
        ("nam = 'x'\n[steerers.a]\nmethod = 'mean'", "nam: unknown key.*Did you mean 'name'"),
        ("[steerers]", r"write \[steerers.safety\]"),
        ("[steerers]\na = 3", "steerers.a: a table is needed, not 3"),
        ("[steerers.a]\nsite = {}", "r.toml: steerers.a: which method"),
        (
            "[steerers.a]\nmethod = 'mean'\ndata = 3",
            "steerers.a.data: the name of a suite, or a list.*not 3",
        ),
        ("[steerers.a]\nmethod = 'men'", "steerers.a: There is no method.*Did you mean 'mean'"),
        ("[steerers.'a.b']\nmethod = 'mean'", "steerers.a.b"),
        (f"data = 3\n{ONE}", "data: the name of a suite, or a list"),
    ],
)
def test_what_cannot_be_read_is_told(text, says):
    with pytest.raises(RecipeError, match=f"(?s){says}"):
        parse_recipe(text, "r.toml")


def test_several_suites_may_teach_one_steerer():
    recipe = parse_recipe(f'data = ["safety", "utility"]\n{ONE}', "r.toml")
    assert recipe.steerers["mean"].data == ("safety", "utility")


def test_what_is_held_out_while_searching_is_named_by_suite():
    recipe = parse_recipe(f'{ONE}\n[hold_out]\nsafety = "object"', "r.toml")
    assert recipe.hold_out == {"safety": "object"}
    with pytest.raises(RecipeError, match="hold_out.safety: 3 is a int"):
        parse_recipe(f"{ONE}\n[hold_out]\nsafety = 3", "r.toml")
