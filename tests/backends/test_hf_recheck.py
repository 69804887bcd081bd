"""A gate that looks again while the answer is written, against the model's own states by hand."""

import pytest
import torch

import oracle
import tiny
from steersman.core.errors import ModelError
from steersman.core.requests import Request
from steersman.core.types import Read, Scope, Site
from steersman.gates.recheck import Recheck
from steersman.synthesizers.linear_field import LinearField

HEAD = Site(tiny.LAYERS - 1, "head_in")
EVERY, NUM = 3, 6
SCALE = LinearField(matrix=torch.eye(tiny.WIDTH))  # a temperature: no greedy answer changes


def answered(model, prompt):
    """The unsteered answer, and the state of every token at block 1 while it is said."""
    inputs = oracle.inputs_of(model, prompt)
    tokens, _ = oracle.cached(model, inputs, NUM)
    whole = oracle.extended(inputs, tokens)
    n = inputs["input_ids"].shape[1]
    return tokens, whole, n, oracle.hand_state(model, whole, oracle.blocks_of(model.model)[1])[0]


def recheck(h, n, *, opens):
    """Open by the prompt's last token and closed by the first re-read one, or the reverse."""
    prompt, later = h[n - 1], h[n - 1 + EVERY]
    read = Read(Site(1))
    first, second = (prompt, later) if opens else (later, prompt)
    return Recheck(inner=oracle.gate_between(read, first, second), every=EVERY)


@pytest.mark.parametrize("template", [tiny.TEMPLATE, tiny.ODD_TEMPLATE], ids=["plain", "odd"])
@pytest.mark.parametrize("opens", [True, False], ids=["closes", "re-opens"])
def test_a_gate_changes_its_mind_in_the_middle_of_an_answer(template, opens):
    model = tiny.llama(seed=10, template=template)
    prompt = oracle.PROMPTS[0]
    tokens, _, n, h = answered(model, prompt)
    gate = recheck(h, n, opens=opens)
    policy = oracle.policy(site=HEAD, gate=gate, synthesizer=SCALE)
    made = model.generate([Request(prompt, policy, max_new_tokens=NUM)])[0]
    assert list(made.token_ids) == tokens[0].tolist()
    assert made.trace["s"].tokens_in_scope == NUM
    assert made.trace["s"].gate == pytest.approx(0.5) and made.trace["s"].tokens_written == EVERY


@pytest.mark.parametrize("opens", [True, False], ids=["closes", "re-opens"])
def test_the_logits_are_edited_where_the_gate_is_open_and_nowhere_else(opens):
    model = oracle.MODELS["llama"]()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    _, whole, n, h = answered(model, oracle.PROMPTS[0])
    policy = oracle.policy(site=HEAD, gate=recheck(h, n, opens=opens), synthesizer=SCALE)
    plain = oracle.plain_logits(model, whole)[0, n - 1 : -1]
    with model.steer(policy):
        _, logits = oracle.cached(model, inputs, NUM)
    opened = torch.tensor([opens] * EVERY + [not opens] * EVERY)
    assert torch.allclose(logits[0], torch.where(opened[:, None], 2 * plain, plain), atol=2e-5)
    assert torch.equal(opened, (logits[0] - plain).abs().amax(1) > 1e-2)


def test_requests_of_a_batch_are_rechecked_apart():
    """Prompts of several lengths reach their checks in the same pass; none sees another's."""
    model = oracle.MODELS["llama"]()
    _, _, n, h = answered(model, oracle.PROMPTS[0])
    policy = oracle.policy(
        site=HEAD, gate=recheck(h, n, opens=True), synthesizer=SCALE, scope=Scope.GENERATED
    )
    requests = [Request(p, policy, max_new_tokens=8) for p in oracle.PROMPTS]
    alone = [model.generate([r])[0] for r in requests]
    for order in ([0, 1, 2], [2, 0, 1]):
        together = model.generate([requests[i] for i in order])
        for i, made in zip(order, together, strict=True):
            assert made.token_ids == alone[i].token_ids
            assert made.trace["s"].gate == pytest.approx(alone[i].trace["s"].gate)
    assert len({round(c.trace["s"].gate, 3) for c in alone}) > 1


def test_a_gate_that_reads_behind_its_site_goes_by_the_tokens_before():
    """Probed on the prompt; the check of token k - 1 comes too late for it and counts from k on."""
    model = oracle.MODELS["llama"]()
    _, _, n, h = answered(model, oracle.PROMPTS[0])
    states = h[n - 1], h[n - 1 + EVERY]
    gate = Recheck(inner=oracle.gate_between(Read(Site(1)), *states), every=EVERY)
    tiny_push = torch.full((tiny.WIDTH,), 1e-4)
    policy = oracle.policy(vector=tiny_push, site=Site(0), gate=gate)
    assert policy.probed(0) == ("s",)
    made = model.generate([Request(oracle.PROMPTS[0], policy, max_new_tokens=NUM)])[0]
    assert made.trace["s"].gate == pytest.approx((EVERY + 1) / NUM)


def wavering(site, read, seed=0):
    """A strong push, behind a gate that opens and closes from state to state."""
    draw = torch.Generator().manual_seed(seed)
    v, push = torch.randn(2, tiny.WIDTH, generator=draw)
    gate = Recheck(inner=oracle.gate_between(read, 1e-4 * v, -1e-4 * v), every=2)
    return oracle.policy(site=site, vector=3 * push, gate=gate)


def search(model, policy, **settings):
    inputs = oracle.inputs_of(model, *oracle.PROMPTS[:2])
    with model.steer(policy):
        out = model.model.generate(
            **inputs, max_new_tokens=8, num_beams=4, do_sample=False, pad_token_id=0, **settings
        )
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def test_beams_take_their_decisions_with_them():
    """Beams swap rows of the cache; without one each row is read anew, so both must agree."""
    model = oracle.MODELS["llama"]()
    for seed in range(4):
        policy = wavering(Site(1), Read(Site(0)), seed)
        assert search(model, policy) == search(model, policy, use_cache=False)


def test_a_read_behind_its_site_that_is_repeated_needs_the_cache():
    """What later checks saw was steered by earlier ones; a whole pass could not repeat that."""
    policy = wavering(Site(0), Read(Site(1)))
    with pytest.raises(ModelError, match="'s' reads behind its site.*use_cache=True"):
        search(oracle.MODELS["llama"](), policy, use_cache=False)
