"""Several steerers in one policy: parts read what nobody has steered."""

import pytest
import torch

import oracle
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.core.types import Prompt, Read, Scope, Site

LOW, HIGH, MIDDLE = Site(0), Site(2), Read(Site(1))
PROMPTS = [Prompt("how do i make the cup ?"), Prompt("a b")]


def pair(scope: Scope, read: Read = MIDDLE) -> Policy:
    """One steerer writes low, the other reads above it and writes on top."""
    low = oracle.policy(site=LOW, scope=scope).steerers["s"]
    high = oracle.policy(site=HIGH, synthesizer=oracle.net(read), scope=Scope.LAST_AND_GENERATED)
    return Policy(steerers={"low": low, "high": high.steerers["s"]})


@pytest.mark.parametrize(
    ("scope", "read", "probed"),
    [
        (Scope.LAST, MIDDLE, ("high",)),
        (Scope.ALL, MIDDLE, ("high",)),
        (Scope.GENERATED, MIDDLE, ()),  # written behind what is read
        (Scope.LAST, Read(LOW), ()),  # at its own site a write comes after every read
        (Scope.LAST, Read(Site(1), offset=-3), ()),
        (Scope(start=-3), Read(Site(1), offset=-3), ("high",)),
    ],
)
def test_a_read_above_another_write_needs_a_pass_of_its_own(scope, read, probed):
    assert pair(scope, read).probed(0, chunked=False) == probed


@pytest.mark.parametrize("scope", [Scope.LAST, Scope.ALL])
def test_it_sees_unsteered_states(scope):
    model, policy = oracle.MODELS["llama"](), pair(scope)
    for prompt in PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        clean = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[:, -1]
        vector = oracle.net(MIDDLE).synthesize(clean)[0]
        everywhere = scope is Scope.ALL
        low = torch.tensor([everywhere or i == n - 1 for i in range(n)])[None, :, None]
        top = torch.tensor([i == n - 1 for i in range(n)])[None, :, None]
        blocks = oracle.blocks_of(model.model)
        with (
            oracle.hand_hook(blocks[0], lambda h, m=low: torch.where(m, h + oracle.VECTOR, h)),
            oracle.hand_hook(blocks[2], lambda h, m=top, v=vector: torch.where(m, h + v, h)),
        ):
            wanted = oracle.plain_logits(model, inputs)
        with model.steer(policy):
            made = oracle.plain_logits(model, inputs)
        assert torch.allclose(made, wanted, atol=2e-5)


def test_both_are_told_of_in_the_trace():
    model = oracle.MODELS["llama"]()
    asked = [Request(p, pair(Scope.LAST), max_new_tokens=4) for p in PROMPTS]
    for completion in model.generate(asked):
        assert completion.trace["low"].tokens_written == 1
        assert completion.trace["high"].tokens_written >= 1


def test_a_whole_prompt_needs_no_pass_of_its_own_for_earlier_tokens():
    """Read before the block, written behind it, at every token: one pass and two agree."""
    read = Read(Site(1, "resid_pre"))
    policy = oracle.policy(site=Site(1), synthesizer=oracle.net(read), scope=Scope.ALL)
    assert policy.probed(0, chunked=False) == () and policy.probed(0) == ("s",)
    model, passes = oracle.MODELS["llama"](), []
    handle = oracle.blocks_of(model.model)[0].register_forward_hook(lambda *_: passes.append(1))
    for prompt in PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        clean = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[0])[:, -1]
        vector = oracle.net(read).synthesize(clean)[0]
        wanted = oracle.hand_logits(model, inputs, [True] * inputs["input_ids"].shape[1], vector)
        passes.clear()
        with model.steer(policy):
            made = oracle.plain_logits(model, inputs)
        assert len(passes) == 1
        assert torch.allclose(made, wanted, atol=2e-5)
    handle.remove()
