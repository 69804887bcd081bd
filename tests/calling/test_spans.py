"""Spans that a scope leaves out: reasoning and the like, its markers included."""

from dataclasses import replace

import pytest
import torch
from transformers import LogitsProcessor

import oracle
import tiny
from calling import byhand
from calling.byhand import PUSH
from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError
from steersman.core.requests import Request
from steersman.core.types import Prompt, Read, Scope, Span

OPEN, CLOSE = (tiny.tokenizer().convert_tokens_to_ids(w) for w in ("harmful", "safe"))
SPAN = Span(OPEN, CLOSE)
SUFFIX = 2  # "assistant :"
NUM = 10
SCOPE = Scope(start=-1, outside=(SPAN,))
EVERYWHERE = Scope(outside=(SPAN,))
POLICY = oracle.policy(PUSH, scope=SCOPE)


def outside(ids, prompt_length, *, scope="last_and_generated", spans=(SPAN,), suffix=SUFFIX):
    """Which tokens are written, one after the other."""
    marked = oracle.marks(scope, ids, prompt_length, None)
    for span in spans:
        is_open = False
        for i in range(prompt_length - suffix, len(ids)):
            is_open = is_open or ids[i] == span.start
            marked[i] = marked[i] and not is_open
            if ids[i] == span.end:
                is_open = False
    return marked


class Say(LogitsProcessor):
    """Makes each row say certain tokens at certain steps."""

    def __init__(self, width, plans):
        self.width, self.plans = width, plans

    def __call__(self, ids, scores):
        step = ids.shape[1] - self.width
        for row, plan in enumerate(self.plans):
            token = plan.get(step)
            if token is not None:
                scores[row] = torch.full_like(scores[row], -torch.inf)
                scores[row, token] = 0.0
        return scores


PLANS = {
    "opened and closed": {2: OPEN, 5: CLOSE},
    "never closed": {3: OPEN},
    "from the first token": {0: OPEN, 4: CLOSE},
    "one token long": {2: OPEN, 3: CLOSE},
    "twice": {1: OPEN, 3: CLOSE, 5: OPEN, 7: CLOSE},
    "opened inside itself": {1: OPEN, 3: OPEN, 5: CLOSE},
    "closed, and never opened": {3: CLOSE, 6: CLOSE},
    "closed and opened at once": {2: OPEN, 4: CLOSE, 5: OPEN, 6: CLOSE},
    "none": {},
}


def said(model, inputs, plans, **settings):
    forced = [Say(inputs["input_ids"].shape[1], plans)]
    return oracle.cached(model, inputs, NUM, logits_processor=forced, **settings)


def assert_by_hand(model, prompt, tokens, logits, marks=outside):
    inputs = oracle.inputs_of(model, prompt)
    wanted = byhand.logits_of(model, inputs, tokens.tolist(), marks=marks)
    assert byhand.close(logits, wanted)
    n = inputs["input_ids"].shape[1]
    return sum(marks([*inputs["input_ids"][0].tolist(), *tokens[:-1].tolist()], n))


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=["cache", "no cache"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_span_of_the_answer_is_left_alone_markers_included(plan, settings):
    model = byhand.llama()
    for prompt in oracle.PROMPTS:
        with model.steer(POLICY) as run:
            tokens, logits = said(model, oracle.inputs_of(model, prompt), [plan], **settings)
        counted = assert_by_hand(model, prompt, tokens[0], logits[0])
        trace = run.traces()[0]["s"]
        assert trace.tokens_in_scope == trace.tokens_written == counted


def test_rows_of_a_batch_have_spans_of_their_own():
    model = byhand.llama()
    plans = list(PLANS.values())[:3]
    inputs = oracle.inputs_of(model, *oracle.PROMPTS)
    with model.steer([POLICY] * 3) as run:
        tokens, logits = said(model, inputs, plans)
    for row, prompt in enumerate(oracle.PROMPTS):
        counted = assert_by_hand(model, prompt, tokens[row], logits[row])
        assert run.traces()[row]["s"].tokens_written == counted


def test_two_kinds_of_spans_and_a_row_without():
    model, other = byhand.llama(), Span(9, 10)
    both = oracle.policy(PUSH, scope=Scope(start=-1, outside=(SPAN, other)))
    plans = [{1: OPEN, 3: 9, 4: CLOSE, 6: 10}] * 2
    inputs = oracle.inputs_of(model, *oracle.PROMPTS[:2])
    with model.steer([both, byhand.POLICY]):
        tokens, logits = said(model, inputs, plans)

    def marks(ids, n):
        return outside(ids, n, spans=(SPAN, other))

    assert_by_hand(model, oracle.PROMPTS[0], tokens[0], logits[0], marks)
    assert_by_hand(model, oracle.PROMPTS[1], tokens[1], logits[1], byhand.behind_prompt)


@pytest.mark.parametrize("scope", [SCOPE, EVERYWHERE], ids=["behind", "everywhere"])
@pytest.mark.parametrize(
    "text", ["harmful a b", "a harmful", "safe harmful b safe harmful", "a safe b"]
)
def test_markers_that_the_user_writes_open_nothing(text, scope):
    """Else anybody could switch steering off by writing the marker."""
    model, prompt = byhand.llama(), Prompt(text)
    inputs = oracle.inputs_of(model, prompt)
    names = {SCOPE: "last_and_generated", EVERYWHERE: "all"}

    def marks(ids, n):
        return outside(ids, n, scope=names[scope])

    assert OPEN in inputs["input_ids"] or CLOSE in inputs["input_ids"]
    with model.steer(oracle.policy(PUSH, scope=scope)) as run:
        tokens, logits = said(model, inputs, [{}])
    counted = assert_by_hand(model, prompt, tokens[0], logits[0], marks)
    assert run.traces()[0]["s"].tokens_written == counted
    made = model.generate([Request(prompt, oracle.policy(PUSH, scope=scope), max_new_tokens=NUM)])
    assert list(made[0].token_ids) == byhand.greedy(model, inputs, NUM, marks=marks)[0]


THINKING = tiny.TEMPLATE.replace("assistant :{% endif %}", "assistant : harmful{% endif %}")


def thinking() -> HFModel:
    """A chat template whose generation prompt opens a span."""
    return HFModel(byhand.fresh().model, tiny.tokenizer(THINKING))


def open_from_the_start(ids, n):
    return outside(ids, n, suffix=3)


@pytest.mark.parametrize("plan", [{3: CLOSE}, {3: CLOSE, 5: OPEN, 7: CLOSE}, {}])
def test_a_span_that_the_generation_prompt_opens(plan):
    model = thinking()
    for prompt in oracle.PROMPTS:
        inputs = oracle.inputs_of(model, prompt)
        assert int(inputs["input_ids"][0, -1]) == OPEN
        with model.steer(POLICY) as run:
            tokens, logits = said(model, inputs, [plan])
            counted = run.traces()[0]["s"]
        if CLOSE in plan.values():
            wanted = assert_by_hand(model, prompt, tokens[0], logits[0], open_from_the_start)
            assert counted.tokens_written == wanted
        else:
            assert "spans that the scope leaves out" in counted.reason
            assert byhand.close(logits[0], said(model, inputs, [plan])[1][0])


def test_when_everything_was_left_out_the_trace_says_so():
    model = thinking()
    made = model.generate([Request(oracle.PROMPTS[0], POLICY, max_new_tokens=3)])[0]
    assert CLOSE not in made.token_ids
    assert made.trace["s"].reason == "all tokens were in spans that the scope leaves out"
    assert made.trace["s"].tokens_in_scope == made.trace["s"].tokens_written == 0
    assert (
        made.token_ids
        == model.generate([Request(oracle.PROMPTS[0], max_new_tokens=3)])[0].token_ids
    )


def test_markers_in_a_forced_beginning_of_the_answer():
    model = byhand.llama()
    prompt = Prompt(oracle.LONG, completion="harmful a b safe yes")
    inputs = oracle.inputs_of(model, Prompt(oracle.LONG))
    n, forced = inputs["input_ids"].shape[1], [OPEN, 9, 10, CLOSE, 20]
    made = model.generate([Request(prompt, POLICY, max_new_tokens=4)])[0]
    whole = oracle.extended(inputs, torch.tensor([forced]))
    assert whole["input_ids"].tolist() == oracle.inputs_of(model, prompt)["input_ids"].tolist()
    tokens, _ = byhand.greedy(model, whole, 4, marks=lambda ids, _: outside(ids, n))
    assert list(made.token_ids) == tokens
    written = outside([*whole["input_ids"][0].tolist(), *tokens[:-1]], n)
    assert made.trace["s"].tokens_written == sum(written)


@torch.no_grad()
def test_beams_carry_their_spans_along():
    model, crossed = byhand.llama(), 0
    for seed in range(4):
        span = Span(
            *(torch.randperm(21, generator=torch.Generator().manual_seed(seed))[:2] + 9).tolist()
        )
        policy = oracle.policy(PUSH, scope=Scope(start=-1, outside=(span, SPAN)))
        inputs = oracle.inputs_of(model, *oracle.PROMPTS)
        with model.steer(policy):
            out = model.model.generate(
                **inputs,
                max_new_tokens=NUM,
                num_beams=5,
                num_return_sequences=5,
                length_penalty=0.0,
                pad_token_id=0,
                output_scores=True,
                return_dict_in_generate=True,
            )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        for row, (tokens, score) in enumerate(zip(new, out.sequences_scores, strict=True)):
            alone = oracle.inputs_of(model, oracle.PROMPTS[row // 5])

            def marks(ids, n, span=span):
                return outside(ids, n, spans=(span, SPAN))

            logits = byhand.logits_of(model, alone, tokens.tolist(), marks=marks)
            by_hand = logits.log_softmax(-1).gather(1, tokens[:, None]).sum()
            assert float(by_hand) == pytest.approx(float(score), abs=2e-3)
            n = alone["input_ids"].shape[1]
            ids = [*alone["input_ids"][0].tolist(), *tokens.tolist()]
            crossed += marks(ids, n) != byhand.behind_prompt(ids, n)
    assert crossed > 10, "beams must have spans"


@pytest.mark.parametrize("size", [1, 3, 4])
def test_prompts_in_pieces(size):
    model, prompt = byhand.llama(), Prompt("a harmful b")
    inputs = oracle.inputs_of(model, prompt)
    n = inputs["input_ids"].shape[1]
    with model.steer(POLICY, prompt_tokens=n) as run:
        tokens, logits = said(model, inputs, [PLANS["opened and closed"]], prefill_chunk_size=size)
    counted = assert_by_hand(model, prompt, tokens[0], logits[0])
    assert run.traces()[0]["s"].tokens_written == counted


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_an_answer_that_is_scored(plan):
    model, prompt = byhand.llama(), oracle.PROMPTS[0]
    inputs = oracle.inputs_of(model, prompt)
    answer = [plan.get(i, 11 + i) for i in range(NUM)]
    whole = oracle.extended(inputs, torch.tensor([answer]))
    n = inputs["input_ids"].shape[1]
    with model.steer(POLICY, prompt_tokens=n) as run:
        made = oracle.plain_logits(model, whole)
    marked = outside(whole["input_ids"][0].tolist(), n)
    assert byhand.close(made, oracle.hand_logits(model, whole, marked, PUSH))
    assert run.traces()[0]["s"].tokens_written == sum(marked)


@pytest.mark.parametrize("plan", list(PLANS.values())[:6])
def test_candidates_of_assisted_decoding(plan):
    """Markers among the candidates, accepted or not: the prompt holds pieces of the answer."""
    model, prompt = byhand.llama(), oracle.PROMPTS[0]
    inputs = oracle.inputs_of(model, prompt)
    with model.steer(POLICY) as plain:
        wanted, logits = said(model, inputs, [plan])
    draft = byhand.fresh().model
    forced = [Say(inputs["input_ids"].shape[1], [plan])]
    for settings in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": draft}):
        with model.steer(POLICY) as run:
            made, again = oracle.cached(model, inputs, NUM, logits_processor=forced, **settings)
        assert torch.equal(made, wanted) and byhand.close(again, logits)
        assert_by_hand(model, prompt, made[0], again[0])
        counts = [r.traces()[0]["s"].tokens_written for r in (plain, run)]
        assert counts[0] == counts[1]


def test_a_gate_decides_at_the_prompts_end_though_that_is_left_out():
    """The generation prompt opens the span; the gate still reads there, and counts afterwards."""
    model = thinking()
    states = model.capture(oracle.PROMPTS[:2], [oracle.SITE])[oracle.SITE]
    gate = oracle.gate_between(Read(oracle.SITE), states[0], states[1])
    steerer = replace(POLICY.steerers["s"], gate=gate)
    for row, vector in enumerate((PUSH, 0 * PUSH)):
        inputs = oracle.inputs_of(model, oracle.PROMPTS[row])
        with model.steer(steerer) as run:
            tokens, logits = said(model, inputs, [{3: CLOSE}])
        wanted = byhand.logits_of(
            model, inputs, tokens[0].tolist(), vector=vector, marks=open_from_the_start
        )
        assert byhand.close(logits[0], wanted)
        assert run.traces()[0]["steerer"].reason == ("", "the gate was closed")[row]


def test_embeddings_without_ids_are_refused():
    model = byhand.llama()
    inputs = oracle.inputs_of(model, oracle.PROMPTS[0])
    embedded = model.model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ModelError, match="embeddings without ids"), model.steer(POLICY):
        model.model(inputs_embeds=embedded)
