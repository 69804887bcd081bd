"""Properties that every registered method must have, on a tiny model and a handful of rows."""

from dataclasses import fields, replace

import pytest

import examples
import tiny
from steersman.core.errors import RecipeError
from steersman.core.io import Artifact, load_artifact, save_artifact
from steersman.core.recipe import parse_recipe
from steersman.core.requests import Request
from steersman.core.steerer import Policy, RequestMethod
from steersman.core.tree import Decoder, encode
from steersman.core.types import Prompt, Site
from steersman.methods.contrast import ContrastRule
from steersman.selectors.layers import Layers
from toy import questions, rows

METHODS = examples.by_role("method")
each_method = pytest.mark.parametrize("method", METHODS, ids=examples.label)


def data_for(method):
    rule = next((v for v in vars(method).values() if isinstance(v, ContrastRule)), None)
    return questions() if rule is not None and "object" in rule.behaviours else rows()


def policy_of(method, model):
    return Policy(steerers={"s": method.fit(model, data_for(method))})


@each_method
def test_the_docstring_has_a_formula_or_names_what_is_composed(method):
    assert any(sign in type(method).__doc__ for sign in ("=", "<-", "gate"))


@each_method
def test_the_same_data_and_seed_give_the_same_artifact(method):
    model = tiny.llama()
    hashes = {Artifact(policy_of(method, model), model.spec).content_hash() for _ in range(2)}
    assert len(hashes) == 1


@each_method
def test_a_fitted_policy_survives_the_disk_and_steers_the_same(method, tmp_path):
    model = tiny.llama()
    policy = policy_of(method, model)
    save_artifact(Artifact(policy, model.spec), tmp_path / "p")
    loaded = load_artifact(tmp_path / "p", model.spec).policy
    data = data_for(method)
    vectors = [{} for _ in data.rows]
    if isinstance(method, RequestMethod):
        vectors = [{"s": v} for v in method.vectors(model, data, data.rows)]
    prompts = [Prompt(r.prompt) for r in data.rows[:6]]
    first, second = (
        [
            (c.token_ids, c.trace)
            for c in model.generate(
                [
                    Request(q, p, vectors=v, max_new_tokens=4)
                    for q, v in zip(prompts, vectors, strict=False)
                ]
            )
        ]
        for p in (policy, loaded)
    )
    assert first == second


@each_method
def test_strength_zero_gives_the_unsteered_answers(method):
    model = tiny.llama()
    policy = policy_of(method, model)
    prompts = [Prompt(r.prompt) for r in data_for(method).rows[:4]]
    plain = model.generate([Request(q, max_new_tokens=5) for q in prompts])
    still = model.generate([Request(q, policy, 0.0, max_new_tokens=5) for q in prompts])
    assert [c.token_ids for c in plain] == [c.token_ids for c in still]


@each_method
def test_a_layer_that_the_model_lacks_is_refused_before_anything_runs(method):
    with pytest.raises(RecipeError, match="layer"):
        beyond(method).fit(tiny.llama(), data_for(method))


def beyond(method):
    """The method at a layer that the tiny model lacks."""
    wrong = {"site": Site(40), "layers": Layers(layers=(40,))}
    names = {f.name for f in fields(method)}
    for name, value in wrong.items():
        if name in names:
            return replace(method, **{name: value})
    return replace(method, method=beyond(method.method))


@each_method
def test_a_recipe_is_the_method_and_back(method):
    table = encode(method, {})
    again = Decoder("recipe").decode(type(method).__mro__[1], table)
    assert encode(again, {}) == table


@each_method
def test_a_typo_in_a_recipe_names_the_nearest_field(method):
    with pytest.raises(RecipeError, match="unknown field"):
        parse_recipe(f'method = "{method.part_name}"\nsitte = 3\n', "recipe.toml")
