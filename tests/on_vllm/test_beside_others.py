"""Requests in one batch: each is steered as it asks, and nobody else is touched."""

from dataclasses import replace

import pytest
import torch

from on_vllm.asks import Ask, long, mixed, pictured
from steersman import Policy, Request, Scope

STEERED = ("l2s", "autosteer", "finesteer", "everywhere", "composed", "iti", "scans", "capped")
NUM = 64
GREEDY = {"temperature": 1.0, "top_k": 1}  # vLLM gives one greedy answer only, if it is called so


@pytest.fixture(scope="module")
def vanilla(engines):
    """Answers of a vLLM that nobody asked to steer, with the first token's distribution."""
    return engines.of(steered=False).ask([Ask(p) for p in mixed(NUM)], first=True)


@pytest.fixture(scope="module")
def engine(engines, vanilla):
    return engines.of()


def same(answers, wanted):
    """Same tokens, and where distributions were asked for, the same up to a batch's rounding."""
    for answer, other in zip(answers, wanted, strict=True):
        assert answer.tokens == other.tokens
        if answer.first is not None:
            assert torch.allclose(answer.first, other.first, atol=1e-4)


def test_unsteered_requests_among_steered_ones_are_vanilla(engine, vanilla):
    asks = []
    for i, prompt in enumerate(mixed(NUM)):
        asks += [Ask(prompt), Ask(prompt, {"policy": STEERED[i % len(STEERED)]})]
    answers = engine.ask(asks, first=True)
    same(answers[::2], vanilla)
    changed = sum(a.tokens != b.tokens for a, b in zip(answers[1::2], vanilla, strict=True))
    assert changed > NUM // 4


@pytest.mark.parametrize("name", STEERED)
def test_strength_0_is_vanilla(engine, vanilla, name):
    answers = engine.ask([Ask(p, {"policy": name, "strength": 0}) for p in mixed(NUM)], first=True)
    same(answers, vanilla)
    for answer in answers:
        assert answer.steering["tokens_written"] == 0
        assert answer.steering["reason"] == "strength is 0"


@pytest.mark.parametrize("name", STEERED)
def test_a_shadow_is_vanilla_and_tells_the_gate(engine, vanilla, name):
    shadows = [Ask(p, {"policy": name, "shadow": True}, max_tokens=1) for p in mixed(NUM)]
    real = [Ask(p, {"policy": name}, max_tokens=1) for p in mixed(NUM)]
    given = engine.ask(shadows, first=True)
    for answer, other in zip(given, vanilla, strict=True):
        assert answer.tokens == other.tokens[:1]
        assert torch.allclose(answer.first, other.first, atol=1e-4)
        assert answer.steering["shadow"] and answer.steering["tokens_written"] == 0
    for shadow, acting in zip(given, engine.ask(real), strict=True):
        assert shadow.steering["gate"] == pytest.approx(acting.steering["gate"], abs=1e-4)
    assert any(answer.steering["gate"] > 0 for answer in given)


def test_a_shadow_stays_vanilla_to_the_end(engine, vanilla):
    asks = [
        Ask(p, {"policy": STEERED[i % len(STEERED)], "shadow": True})
        for i, p in enumerate(mixed(NUM))
    ]
    same(engine.ask(asks, first=True), vanilla)


def test_a_closed_gate_is_vanilla(engine, vanilla):
    answers = engine.ask([Ask(p, {"policy": "closed"}) for p in mixed(NUM)], first=True)
    same(answers, vanilla)
    assert all(answer.steering["gate"] == 0 for answer in answers)


def test_gates_open_for_some(engine):
    answers = engine.ask([Ask(p, {"policy": "autosteer"}) for p in mixed(NUM)])
    written = [answer.steering["tokens_written"] > 0 for answer in answers]
    assert any(written) and not all(written)


def various():
    """64 requests of which no two ask the same."""
    made = []
    for i, prompt in enumerate(mixed(NUM)):
        steering = {
            "policy": STEERED[i % len(STEERED)],
            "strength": (1.0, 0.5, 2.0, 0.0, -1.0)[i % 5],
            "shadow": i % 11 == 10,
        }
        sampling = {"temperature": 0.7, "seed": i} if i % 7 == 6 else {}
        asked = long(prompt) if i % 4 == 3 else prompt
        made.append(Ask(asked, None if i % 6 == 5 else steering, 4 + i % 21, sampling))
    return made


def test_64_at_once_are_answered_as_each_alone(engine):
    asks = various()
    alone = engine.one_by_one(asks)
    engine.forget()
    together = engine.ask(asks)
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    for one, other in zip(together, alone, strict=True):
        assert (one.steering is None) == (other.steering is None)
        if one.steering is not None:
            assert one.steering["tokens_written"] == other.steering["tokens_written"]
            assert one.steering["gate"] == pytest.approx(other.steering["gate"], abs=1e-4)


def test_several_answers_to_one_prompt_are_all_steered(engine):
    for name in ("l2s", "autosteer", "everywhere"):
        for prompt in mixed(6):
            (single,) = engine.ask([Ask(prompt, {"policy": name})])
            made = engine.outputs(Ask(prompt, {"policy": name}, sampling={"n": 3, **GREEDY}))
            assert [tuple(out.token_ids) for out in made.outputs] == [single.tokens] * 3


def test_logprobs_of_the_prompt_are_those_of_its_scope(engine):
    """Tokens in scope are predicted by steered states; those before are as they were."""
    prompt = pictured(4)[3]
    asked = {"prompt_logprobs": 1}
    plain = engine.outputs(Ask(prompt, sampling=asked)).prompt_logprobs
    last = engine.outputs(Ask(prompt, {"policy": "mean"}, sampling=asked)).prompt_logprobs
    all_of_it = engine.outputs(Ask(prompt, {"policy": "everywhere"}, sampling=asked))

    def likely(found):
        return [next(iter(at.values())).logprob for at in found[1:]]

    assert likely(last) == pytest.approx(likely(plain), abs=1e-4)
    assert likely(all_of_it.prompt_logprobs) != pytest.approx(likely(plain), abs=1e-2)


def test_a_request_may_choose_another_scope(engine, shelf, model):
    steerer = shelf["everywhere"].steerers["s"]
    for scope in ("last", "generated", "text", "prompt"):
        policy = Policy(steerers={"s": replace(steerer, scope=Scope.named(scope))})
        wanted = model.generate([Request(p, policy, max_new_tokens=16) for p in mixed(24)])
        asks = [Ask(p, {"policy": "everywhere", "scope": scope}, 16) for p in mixed(24)]
        given = engine.ask(asks)
        assert [g.text.strip() for g in given] == [w.text.strip() for w in wanted]
