"""One artifact does the same on vLLM as on transformers."""

import pytest
import torch

from on_vllm.asks import Ask, mixed, pictured
from on_vllm.deltas import watched_hf, watched_vllm
from on_vllm.policies import FITTED, MADE
from steersman import Request
from steersman.core.serving import Steering, told

NAMES = (*FITTED, *MADE)
PICTURED = ("act_add", "pictures")  # there is nothing to write in a prompt without a picture
RESTS = ("closed", "later")  # nothing is written before the first answer token
NUM_SPREADS = 32
GREEDY, KL, COSINE = 0.99, 1e-3, 0.999
ROUNDING = 0.05  # ablation: of tokens with next to nothing along a direction, which change at all
SETTLED = 1e-4  # a delta below this share of the largest is rounding


@pytest.fixture(scope="module")
def engine(engines):
    return engines.of()


def prompts_of(name):
    return pictured() if name in PICTURED else mixed()


def spreads(model, policy, prompts):
    """On transformers, of the first answer token; one row for each prompt."""
    made = []
    for prompt in prompts:
        inputs = model.chat.encode([prompt]).inputs
        with torch.no_grad():
            if policy is None:
                logits = model.model(**inputs).logits
            else:
                with model.steer(policy):
                    logits = model.model(**inputs).logits
        made.append(logits[0, -1].float().log_softmax(-1))
    return torch.stack(made)


def divergence(p, q):
    """KL(p || q) in nats, row by row."""
    return (p.exp() * (p - q)).sum(-1)


def test_prompts_become_the_same_tokens(engine, model):
    for prompt, answer in zip(mixed(), engine.ask([Ask(p) for p in mixed()]), strict=True):
        wanted = model.chat.encode([prompt]).inputs["input_ids"][0].tolist()
        assert list(answer.prompt_tokens) == wanted


@pytest.mark.parametrize("name", [None, *NAMES])
def test_greedy_answers_are_those_of_transformers(engine, model, shelf, name):
    policy, prompts = None if name is None else shelf[name], prompts_of(name)
    made = model.generate([Request(p, policy, max_new_tokens=24) for p in prompts])
    wanted = [completion.text.strip() for completion in made]
    steering = None if name is None else {"policy": name}
    answers = engine.ask([Ask(p, steering) for p in prompts])
    given = [answer.text.strip() for answer in answers]
    other = [pair for pair in zip(wanted, given, strict=True) if pair[0] != pair[1]]
    assert len(other) <= (1 - GREEDY) * len(prompts), other[:5]
    if name is None:
        return
    for completion, answer, text in zip(made, answers, wanted, strict=True):
        if text == answer.text.strip():
            assert_told_alike(told(Steering(name), completion.trace), answer.steering)


def assert_told_alike(wanted, given):
    """What is said of a request's steering, but for edits that one engine rounds to nothing."""
    for key in ("policy", "shadow", "reason"):
        assert given[key] == wanted[key]
    assert numbers(given) == pytest.approx(numbers(wanted), rel=ROUNDING, abs=1e-3)
    assert given["steerers"].keys() == wanted["steerers"].keys()
    for name, steerer in wanted["steerers"].items():
        assert given["steerers"][name]["reason"] == steerer["reason"]
        assert numbers(given["steerers"][name]) == pytest.approx(
            numbers(steerer), rel=ROUNDING, abs=1e-3
        )


def numbers(told):
    return {key: value for key, value in told.items() if isinstance(value, (int, float))}


@pytest.mark.parametrize("name", NAMES)
def test_next_tokens_are_as_likely(engine, model, shelf, name):
    prompts = prompts_of(name)[:NUM_SPREADS]
    plain = spreads(model, None, prompts)
    wanted = plain if name in RESTS else spreads(model, shelf[name], prompts)
    asked = [Ask(p, {"policy": name}, max_tokens=1) for p in prompts]
    given = torch.stack([a.first for a in engine.ask(asked, first=True)])
    off = divergence(wanted, given).max()
    assert off < KL
    assert name in RESTS or divergence(wanted, plain).max() > 10 * off, "it would pass unsteered"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_added_to_the_stream(engine, model, shelf, name):
    policy = shelf[name]
    for prompt in prompts_of(name)[:9]:
        with watched_hf() as wanted:
            model.generate([Request(prompt, policy, max_new_tokens=2)])
        with watched_vllm() as given:
            engine.ask([Ask(prompt, {"policy": name}, max_tokens=2)])
        for site in policy.sites:
            if site in wanted:
                assert_alike(wanted[site], given[site], site)
            else:  # nothing was to be written
                assert not given[site].any()


def assert_alike(wanted, given, site):
    """Row by row from the end, since engines pass different tokens to a tap."""
    num = min(len(wanted), len(given))
    wanted, given = wanted[-num:], given[-num:]
    large = wanted.norm(dim=-1) > SETTLED * max(1.0, wanted.norm(dim=-1).max().item())
    assert (
        given[~large].norm(dim=-1) < 2 * SETTLED * max(1.0, given.norm(dim=-1).max().item())
    ).all()
    cosine = torch.cosine_similarity(wanted[large], given[large], dim=-1)
    assert (cosine > COSINE).all(), f"{site}: {cosine.min()}"
    ratio = given[large].norm(dim=-1) / wanted[large].norm(dim=-1)
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-2), site
