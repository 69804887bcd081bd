"""Decoding that tries several tokens at once: what is accepted is what greedy decoding says."""

import pytest
import torch

import oracle
import tiny
from calling import byhand
from calling.byhand import POLICY, PUSH
from steersman.core.types import Read, Scope, Span
from steersman.gates.recheck import Recheck

PROMPTS = oracle.PROMPTS
NUM = 12


@pytest.fixture(scope="module")
def assistants():
    """One that is often right, one that never is, and looking the prompt up."""
    draft, other = byhand.fresh().model, tiny.llama(seed=3).model
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=draw))
    return {
        "an assistant that is often right": {"assistant_model": draft},
        "an assistant that is mostly wrong": {"assistant_model": other},
        "prompt lookup": {"prompt_lookup_num_tokens": 3},
    }


KINDS = (
    "an assistant that is often right",
    "an assistant that is mostly wrong",
    "prompt lookup",
)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@pytest.mark.parametrize("scope", ["last_and_generated", "all", "generated"])
def test_it_says_what_plain_decoding_says(kind, scope, assistants):
    model, policy = byhand.llama(), oracle.policy(PUSH, scope=oracle.scope_of(scope))
    for prompt in PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        marks = lambda ids, n: oracle.marks(scope, ids, n, None)  # noqa: E731
        tokens, wanted = byhand.greedy(model, inputs, NUM, marks=marks)
        with model.steer(policy) as run:
            made, logits = oracle.cached(model, inputs, NUM, **assistants[kind])
        assert made[0].tolist() == tokens and byhand.close(logits[0], wanted)
        n = inputs["input_ids"].shape[1]
        counted = sum(marks([9] * (n + NUM - 1), n))
        trace = run.traces()[0]["s"]
        assert trace.tokens_in_scope == trace.tokens_written == counted


@each_kind
def test_only_accepted_tokens_are_counted(kind, assistants):
    """Their number, and the mean of what was done to them."""
    model, inputs = byhand.llama(), oracle.inputs_of(byhand.llama(), PROMPTS[0])
    with model.steer(POLICY) as plain:
        oracle.cached(model, inputs, NUM)
    with model.steer(POLICY) as run:
        oracle.cached(model, inputs, NUM, **assistants[kind])
    first, second = plain.traces()[0]["s"], run.traces()[0]["s"]
    assert second.tokens_written == first.tokens_written
    assert second.relative_norm == pytest.approx(first.relative_norm, rel=1e-4)


def test_the_assistant_itself_is_not_steered(assistants):
    """Its candidates come from its own weights; only the model that judges them is hooked."""
    model, drafts = byhand.llama(), assistants["an assistant that is often right"]
    before = [len(m._forward_hooks) for m in drafts["assistant_model"].modules()]
    with model.steer(POLICY):
        assert [len(m._forward_hooks) for m in drafts["assistant_model"].modules()] == before


@each_kind
def test_a_gate_is_asked_once_and_stays(kind, assistants):
    model = byhand.llama()
    states = model.capture(PROMPTS[:2], [oracle.SITE])[oracle.SITE]
    gate = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    for prompt, vector in zip(PROMPTS, (PUSH, 0 * PUSH), strict=False):
        inputs = oracle.inputs_of(model, prompt)
        with model.steer(oracle.policy(PUSH, gate=gate)):
            made, _ = oracle.cached(model, inputs, NUM, **assistants[kind])
        assert made[0].tolist() == byhand.greedy(model, inputs, NUM, vector=vector)[0]


@each_kind
def test_a_gate_that_looks_again_decides_as_in_plain_decoding(kind, assistants):
    model = byhand.llama()
    states = model.capture(PROMPTS[:2], [oracle.SITE])[oracle.SITE]
    inner = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    policy = oracle.policy(PUSH, gate=Recheck(inner=inner, every=2))
    gates = set()
    for prompt in PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        with model.steer(policy) as plain:
            wanted, _ = oracle.cached(model, inputs, NUM)
        with model.steer(policy) as run:
            made, _ = oracle.cached(model, inputs, NUM, **assistants[kind])
        assert torch.equal(made, wanted)
        gate = plain.traces()[0]["s"].gate
        assert run.traces()[0]["s"].gate == pytest.approx(gate)
        gates.add(round(gate, 3))
    assert len(gates) > 1


@each_kind
def test_spans_are_left_out_as_in_plain_decoding(kind, assistants):
    model, found = byhand.llama(), 0
    for prompt in PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        free, _ = byhand.greedy(model, inputs, NUM)
        span = Span(free[1], next((t for t in free[2:] if t != free[1]), 4))
        scope = Scope(start=-1, outside=(span,))
        with model.steer(oracle.policy(PUSH, scope=scope)) as plain:
            wanted, _ = oracle.cached(model, inputs, NUM)
        with model.steer(oracle.policy(PUSH, scope=scope)) as run:
            made, _ = oracle.cached(model, inputs, NUM, **assistants[kind])
        assert torch.equal(made, wanted)
        counted = plain.traces()[0]["s"].tokens_written
        assert run.traces()[0]["s"].tokens_written == counted
        found += counted < NUM
    assert found, "no answer had a span"


def test_early_exit_drafts():
    model = byhand.fresh()
    inputs = oracle.inputs_of(model, PROMPTS[0])
    plain, _ = oracle.cached(model, inputs, NUM)
    made, _ = oracle.cached(model, inputs, NUM, assistant_early_exit=2)
    assert torch.equal(plain, made)
    with model.steer(POLICY) as run:
        steered, _ = oracle.cached(model, inputs, NUM, assistant_early_exit=2)
    assert steered[0].tolist() == byhand.greedy(model, inputs, NUM)[0]
    assert run.traces()[0]["s"].tokens_written == NUM


def test_rows_of_a_batch_are_transformers_own_limit():
    model = byhand.llama()
    inputs = oracle.inputs_of(model, *PROMPTS[:2])
    with pytest.raises(ValueError, match="batch_size = 1"):
        oracle.cached(model, inputs, NUM, prompt_lookup_num_tokens=3)
