"""What a newcomer gives instead of what is needed is told at once, with the cure."""

from pathlib import Path

import pytest
import torch

import oracle
import tiny
from steersman import (
    CachedModel,
    HFModel,
    Policy,
    Prompt,
    Request,
    Scope,
    Span,
    Steerer,
    fit_policy,
    load,
)
from steersman.core.errors import ArtifactError, ModelError, NotSteeredError, RecipeError
from steersman.core.fit_check import check_width
from steersman.core.io import Artifact, load_artifact
from steersman.core.types import Read, Site
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.static import StaticVector

ASK = Prompt("how do i")


def wide(point="resid_post") -> Policy:
    return oracle.policy(torch.ones(2 * tiny.WIDTH), Site(1, point))


def test_a_policy_of_another_width_is_refused_before_anything_runs():
    model = oracle.MODELS["llama"]()
    for call in (
        lambda: model.generate([Request(ASK, wide())]),
        lambda: model.steer(wide()).__enter__(),
    ):
        with pytest.raises(RecipeError, match="'s' does not fit a model whose states are 32 wide"):
            call()


def test_every_kind_of_part_is_tried():
    net = oracle.policy(synthesizer=oracle.net(Read(oracle.SITE)))
    check_width(net, tiny.WIDTH)
    field = oracle.policy(synthesizer=LinearField(matrix=torch.eye(8)))
    gate = oracle.gate_between(Read(oracle.SITE), oracle.VECTOR, -oracle.VECTOR)
    check_width(field, 8)
    for policy in (net, field, oracle.policy(gate=gate)):
        with pytest.raises(RecipeError, match="does not fit"):
            check_width(policy, 24)


def test_heads_may_be_wider_than_the_model():
    check_width(wide("attn_heads"), tiny.WIDTH)


def test_spans_do_not_keep_a_policy_from_being_tried():
    check_width(oracle.policy(scope=Scope(start=-1, outside=(Span(5, 6),))), tiny.WIDTH)


MODEL = tiny.llama
ARTIFACT = Artifact(oracle.policy(), MODEL().spec)
STEERER = Steerer(
    sites=(Site(1),),
    gate=AlwaysOpen(),
    synthesizer=StaticVector(sites=(Site(1),), vectors=oracle.VECTOR[None]),
    operator=Add(),
)
WRONG = {
    "an artifact to steer": (lambda: MODEL().steer(ARTIFACT).__enter__(), "artifact.policy"),
    "an artifact asked": (lambda: Request(ASK, ARTIFACT), "artifact.policy"),
    "a path to steer": (lambda: MODEL().steer("policy").__enter__(), "load_artifact"),
    "a steerer asked": (lambda: Request(ASK, STEERER), "Wrap it"),
    "a text asked": (lambda: Request("how do i"), "Prompt"),
    "a strength in words": (lambda: Request(ASK, strength="2"), "finite number"),
    "a file as image": (lambda: Prompt("a", images=("a.png",)), "Image.open"),
    "one image alone": (lambda: Prompt("a", images=tiny.picture()), "tuple of PIL images"),
    "one request alone": (lambda: MODEL().generate(Request(ASK)), r"generate\(\[request\]\)"),
    "a scope's name": (lambda: Scope("generated"), "Scope.named"),
    "an unknown modality": (lambda: Scope(modality="txt"), "any, text or image"),
    "a marker's text": (lambda: Span("<think>", "</think>"), "convert_tokens_to_ids"),
    "a span alone": (lambda: Scope(outside=Span(1, 2)), "give Spans"),
    "threads": (lambda: MODEL().steer(oracle.policy(), threads=True).__enter__(), '"own" or "all"'),
    "no processor": (lambda: HFModel(MODEL().model, None), "AutoTokenizer"),
    "a store's path": (lambda: CachedModel(MODEL(), "rows"), r"RowStore\('rows'\)"),
    "a model's name to a cache": (lambda: CachedModel("llama"), "steersman.load"),
    "a text captured": (lambda: MODEL().capture(["how"], [Site(1)]), "Prompt"),
    "one prompt captured": (lambda: MODEL().capture(ASK, [Site(1)]), r"\[prompt\]"),
    "a layer captured": (lambda: MODEL().capture([ASK], [1]), "Site"),
    "a text from a cache": (lambda: CachedModel(MODEL()).capture(["how"], [Site(1)]), "Prompt"),
    "a model's name": (lambda: HFModel("llama", tiny.tokenizer()), "steersman.load"),
    "a recipe's path": (lambda: fit_policy(MODEL(), "recipe.toml", {}), "read_recipe"),
    "a folder that is no model": (lambda: load(Path("/nowhere/at/all")), "There is no model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_was_given_and_what_to_write_is_told(name):
    call, cure = WRONG[name]
    with pytest.raises((RecipeError, ModelError), match=cure):
        call()


def test_a_model_given_for_its_spec_is_told(tmp_path):
    with pytest.raises(ArtifactError, match="model.spec"):
        load_artifact(tmp_path, MODEL())


def test_a_with_for_all_threads_that_is_left_too_early_is_an_error():
    with (
        pytest.raises(NotSteeredError, match="join the thread"),
        MODEL().steer(oracle.policy(), threads="all"),
    ):
        pass
