from dataclasses import replace

import pytest
import torch

import oracle
import tiny
from steersman.core.errors import RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Site
from steersman.methods.head_training import HeadTraining
from steersman.methods.lm_steer import LMSteer
from steersman.synthesizers.linear_field import LowRankField
from toy import rows

SITE = Site(tiny.LAYERS - 1, "head_in")
PLAN = HeadTraining(epochs=4, learning_rate=1e-2, max_new_tokens=4)
EXAMPLES = [
    LMSteer(site=SITE, targets={"harmful": "no , the cup"}, head=PLAN),
    LMSteer(
        site=SITE,
        targets={"harmful": "no , the", "expert": "yes"},
        head=replace(PLAN, rank=4),
        strength=0.5,
    ),
]


@pytest.mark.parametrize("method", EXAMPLES, ids=["full", "low rank"])
def test_the_logits_are_those_of_the_edited_embedding(method):
    """The paper's form, E + strength * E W, on a model whose embedding is really replaced."""
    model = tiny.llama()
    steerer = method.fit(model, rows())
    field = steerer.synthesizer
    matrix = (
        torch.eye(tiny.WIDTH) + field.left @ field.right
        if isinstance(field, LowRankField)
        else field.matrix
    )
    inputs = oracle.inputs_of(model, Prompt("how do i make the bomb ?"))
    n = inputs["input_ids"].shape[1]
    head = model.model.get_output_embeddings().weight
    with model.steer(steerer):
        steered = oracle.plain_logits(model, inputs)
    with torch.no_grad():
        kept = head.clone()
        plain = oracle.plain_logits(model, inputs)
        head.copy_(kept + method.strength * kept @ matrix)
        by_hand = oracle.plain_logits(model, inputs)
        head.copy_(kept)
    assert torch.allclose(steered[:, n - 1], by_hand[:, n - 1], atol=1e-4)
    assert not torch.allclose(steered[:, n - 1], plain[:, n - 1], atol=1e-2)
    assert torch.equal(steered[:, : n - 1], plain[:, : n - 1])


def test_an_untrained_head_changes_no_greedy_answer():
    """W = I scales all logits by 1 + strength: a temperature."""
    model = tiny.llama()
    method = replace(EXAMPLES[0], head=replace(PLAN, epochs=1, learning_rate=1e-9))
    policy = Policy(steerers={"s": method.fit(model, rows())})
    prompts = [Prompt(r.prompt) for r in rows(6).rows]
    plain = model.generate([Request(p, max_new_tokens=6) for p in prompts])
    steered = model.generate([Request(p, policy, max_new_tokens=6) for p in prompts])
    assert [c.token_ids for c in plain] == [c.token_ids for c in steered]
    assert steered[0].trace["s"].relative_norm == pytest.approx(0.1, rel=1e-3)


def test_a_trained_head_says_the_target_to_everyone():
    model = tiny.llama()
    plan = HeadTraining(epochs=200, learning_rate=1e-2, retention=0.0, validation=0.0)
    method = replace(EXAMPLES[0], head=plan, strength=0.5)
    policy = Policy(steerers={"s": method.fit(model, rows())})
    requests = [Request(Prompt(r.prompt), policy, max_new_tokens=1) for r in rows(3).rows]
    assert [c.text for c in model.generate(requests)] == ["no"] * 3


def test_the_fit_tells_its_curve():
    log = FitLog()
    EXAMPLES[0].fit(tiny.llama(), rows(), log)
    assert [r["kind"] for r in log.records] == ["training"]


def test_another_layer_or_point_is_refused():
    method = replace(EXAMPLES[0], site=Site(0, "head_in"))
    with pytest.raises(RecipeError, match="head_in exists only after the last block"):
        method.fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match="LM-Steer writes the state before the output head"):
        replace(EXAMPLES[0], site=Site(1))
