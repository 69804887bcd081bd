"""Vectors and gates that must be known before the first write: two passes, against two by hand."""

import pytest
import torch

import oracle
import tiny
from steersman.core.errors import ModelError, NotSteeredError
from steersman.core.requests import Request
from steersman.core.types import Prompt, Read, Scope, Site

each_model = pytest.mark.parametrize("name", oracle.MODELS)
USER_TURN = Read(oracle.SITE, generation_prompt=False)


def state_at(model, prompt, layer, offset=-1):
    inputs = oracle.inputs_of(model, prompt)
    return oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[layer])[:, offset]


@each_model
@pytest.mark.parametrize(
    ("read", "site", "scope"),
    [
        (Read(Site(2)), Site(0), Scope.LAST_AND_GENERATED),  # deeper than the site
        (Read(Site(1)), Site(1), Scope.ALL),  # later than the first token
        (Read(Site(2), offset=-3), Site(0), Scope.ALL),
        (Read(Site(0)), Site(2), Scope.LAST_AND_GENERATED),  # one pass is enough
    ],
)
def test_two_passes_equal_two_passes_by_hand(name, read, site, scope):
    model = oracle.MODELS[name]()
    policy = oracle.policy(site=site, synthesizer=oracle.net(read), scope=scope)
    for prompt in oracle.prompts_for(name):
        context = state_at(model, prompt, read.site.layer, read.offset)
        vector = oracle.net(read).synthesize(context)[0]
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        with model.steer(policy):
            tokens, logits = oracle.cached(model, inputs)
        whole = oracle.extended(inputs, tokens[:, :-1])
        marked = [scope is Scope.ALL or i >= n - 1 for i in range(n + 3)]
        wanted = oracle.hand_logits(model, whole, marked, vector, site.layer)
        assert torch.allclose(logits[0], wanted[0, n - 1 :], atol=2e-5)


@each_model
def test_a_batch_is_probed_row_by_row(name):
    model, read = oracle.MODELS[name](), Read(Site(2))
    policy = oracle.policy(site=Site(0), synthesizer=oracle.net(read), scope=Scope.ALL)
    with model.steer(policy):
        together = oracle.plain_logits(model, oracle.inputs_of(model, *oracle.PROMPTS))
    for row, prompt in enumerate(oracle.PROMPTS):
        inputs = oracle.inputs_of(model, prompt)
        vector = oracle.net(read).synthesize(state_at(model, prompt, 2))[0]
        n = inputs["input_ids"].shape[1]
        wanted = oracle.hand_logits(model, inputs, [True] * n, vector, 0)
        assert torch.allclose(together[row, -n:], wanted[0], atol=2e-5)


def test_the_probe_stops_behind_the_deepest_read():
    model, runs = oracle.MODELS["llama"](), [0, 0, 0]

    def count(layer):
        def hook(*_):
            runs[layer] += 1

        return hook

    blocks = oracle.blocks_of(model.model)
    handles = [b.register_forward_pre_hook(count(i)) for i, b in enumerate(blocks)]
    policy = oracle.policy(site=Site(0), synthesizer=oracle.net(Read(Site(1))), scope=Scope.ALL)
    model.generate([Request(oracle.PROMPTS[0], policy, max_new_tokens=1)])
    for handle in handles:
        handle.remove()
    assert runs == [2, 2, 1]


def test_a_gate_in_a_deeper_layer_decides_before_anything_is_written():
    model, read = oracle.MODELS["llama"](), Read(Site(2))
    states = [state_at(model, p, 2)[0] for p in oracle.PROMPTS[:2]]
    policy = oracle.policy(site=Site(0), gate=oracle.gate_between(read, *states), scope=Scope.ALL)
    made = model.generate([Request(p, policy, max_new_tokens=2) for p in oracle.PROMPTS[:2]])
    assert [c.trace["s"].gate for c in made] == [1.0, 0.0]
    plain = model.generate([Request(oracle.PROMPTS[1], max_new_tokens=2)])[0]
    assert made[1].token_ids == plain.token_ids


@pytest.mark.parametrize("template", [tiny.TEMPLATE, tiny.ODD_TEMPLATE], ids=["plain", "odd"])
def test_reads_before_the_generation_prompt_see_the_prompt_rendered_without_it(template):
    """The released L2S nets read there; not every template just appends the generation prompt."""
    model = tiny.llama(seed=11, template=template)
    assert (model.chat.suffix() is None) == (template is tiny.ODD_TEMPLATE)
    policy = oracle.policy(synthesizer=oracle.net(USER_TURN), strength=2.0)
    requests = [Request(p, policy, max_new_tokens=4) for p in oracle.PROMPTS]
    made = model.generate(requests)
    for completion, prompt in zip(made, oracle.PROMPTS, strict=True):
        bare = Prompt(prompt.text, generation_prompt=False)
        vector = oracle.net(USER_TURN).synthesize(state_at(model, bare, 1))[0]
        inputs = oracle.inputs_of(model, prompt)
        n = inputs["input_ids"].shape[1]
        whole = oracle.extended(inputs, torch.tensor([completion.token_ids[:-1]]))
        marked = [i >= n - 1 for i in range(n + 3)]
        logits = oracle.hand_logits(model, whole, marked, 2.0 * vector)
        assert logits[0, n - 1 :].argmax(-1).tolist() == list(completion.token_ids)
        h = oracle.hand_state(model, inputs, oracle.blocks_of(model.model)[1])[0, -1]
        first = model.generate([Request(prompt, policy, max_new_tokens=1)])[0].trace["s"]
        wanted = float(2.0 * vector.norm() / h.norm())
        assert first.relative_norm == pytest.approx(wanted, rel=1e-4)


def test_an_odd_template_and_a_gate_that_reads_with_the_generation_prompt():
    """Two probe passes over two renderings; each part sees its own."""
    model = tiny.llama(seed=11, template=tiny.ODD_TEMPLATE)
    states = [state_at(model, p, 2)[0] for p in oracle.PROMPTS[:2]]
    gate = oracle.gate_between(Read(Site(2)), *states)
    policy = oracle.policy(gate=gate, synthesizer=oracle.net(USER_TURN))
    made = model.generate([Request(p, policy, max_new_tokens=2) for p in oracle.PROMPTS[:2]])
    assert [c.trace["s"].reason for c in made] == ["", "the gate was closed"]
    ungated = oracle.policy(synthesizer=oracle.net(USER_TURN))
    alone = model.generate([Request(oracle.PROMPTS[0], ungated, max_new_tokens=2)])[0]
    assert alone.trace["s"].relative_norm == pytest.approx(made[0].trace["s"].relative_norm)


def test_steer_refuses_what_only_generate_can_render():
    model = tiny.llama(seed=11, template=tiny.ODD_TEMPLATE)
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    before = oracle.hook_tables(model)
    with (
        pytest.raises(ModelError, match=r"Use model\.generate"),
        model.steer(oracle.policy(synthesizer=oracle.net(USER_TURN))),
    ):
        oracle.plain_logits(model, inputs)
    assert oracle.hook_tables(model) == before


def test_a_read_that_the_prompt_is_too_short_for_is_an_error():
    policy = oracle.policy(synthesizer=oracle.net(Read(oracle.SITE, offset=-30)))
    with pytest.raises(NotSteeredError, match="never saw the tokens it reads"):
        oracle.MODELS["llama"]().generate([Request(oracle.PROMPTS[0], policy, max_new_tokens=2)])


def test_readers_see_their_own_site_before_it_is_written():
    """Read and write at one site: the vector comes from the state that no steerer has touched."""
    model, read = oracle.MODELS["llama"](), Read(oracle.SITE)
    first = oracle.policy().steerers["s"]
    second = oracle.policy(synthesizer=oracle.net(read)).steerers["s"]
    both = oracle.Policy(steerers={"first": first, "second": second})
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    vector = oracle.net(read).synthesize(state_at(model, oracle.PROMPTS[0], 1))[0]
    with model.steer(both):
        made = oracle.plain_logits(model, inputs)
    n = inputs["input_ids"].shape[1]
    marked = [i == n - 1 for i in range(n)]
    wanted = oracle.hand_logits(model, inputs, marked, vector + oracle.VECTOR)
    assert torch.allclose(made, wanted, atol=2e-5)
