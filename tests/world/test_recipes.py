"""The recipes of the static baselines for the bundled world."""

from importlib.resources import files

import pytest

from steersman.core.recipe import read_recipe
from steersman.core.types import ModelSpec, Scope, Site
from steersman.methods.ablation import Ablation
from steersman.methods.iti import ITI

FOLDER = files("steersman.world") / "recipes"
STATIC = ("caa", "repe", "act_add", "iti", "ablation", "angular", "clamp")


def method_of(name):
    (steerer,) = read_recipe(FOLDER / f"{name}.toml").steerers.values()
    return steerer.method


@pytest.mark.parametrize("name", STATIC)
def test_a_recipe_is_called_what_its_method_is(name):
    assert read_recipe(FOLDER / f"{name}.toml").name == method_of(name).part_name == name


@pytest.mark.parametrize("name", [n for n in STATIC if n not in ("act_add", "ablation")])
def test_baselines_of_the_contrasts_teach_both_behaviours_at_the_token_that_decides(name):
    method = method_of(name)
    assert list(method.contrasts.behaviours) == ["harmful", "expert"]
    assert method.contrasts == method_of("safety").contrasts
    assert method.scope == Scope.LAST


def test_heads_and_layers_are_those_of_the_bundled_model():
    spec = ModelSpec("bundled", "Idefics3", 192, 6, num_heads=6)
    iti, ablation = method_of("iti"), method_of("ablation")
    assert isinstance(iti, ITI) and len(iti._sites(spec)) == 6
    assert isinstance(ablation, Ablation) and ablation.site == Site(4)


RECIPES = sorted(path.stem for path in FOLDER.iterdir() if path.name.endswith(".toml"))


def test_recipes_can_be_told_apart_and_say_which_rows_teach_them():
    read = [read_recipe(FOLDER / f"{name}.toml") for name in RECIPES]
    names = [recipe.name for recipe in read]
    assert len(set(names)) == len(names) > 25
    for recipe in read:
        taught = {suite for plan in recipe.steerers.values() for suite in plan.data}
        assert taught and taught <= {"safety", "pope", "utility"}
        assert set(recipe.hold_out) <= taught


def test_the_two_systems_and_their_ungated_forms_are_there():
    assert {"autosteer", "lm_steer", "finesteer", "mose", "composed"} <= set(RECIPES)
    refuse = method_of("autosteer")
    assert refuse.targets == method_of("lm_steer").targets and refuse.site.point == "head_in"
    assert method_of("finesteer").method.contrasts == method_of("mose").contrasts
