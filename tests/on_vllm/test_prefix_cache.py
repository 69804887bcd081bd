"""The prefix cache: steered and unsteered requests share what nobody steered, and no more.

What is right is the answer on an empty cache.
"""

import pytest

from on_vllm.asks import Ask, long, mixed, pictured
from on_vllm.engines import BLOCK
from steersman import Prompt
from steersman.core.types import Turn

LATE = ("mean", "l2s", "autosteer", "composed", "later")
"""Written at the end of the prompt or behind it: all blocks but the last are everybody's."""
EARLY = ("everywhere", "ablation", "pictures")
"""Written from the first tokens on."""
PROMPTS = tuple(long(p) for p in pictured(4))
PLAIN = None
UNTIL_FULL = {"ignore_eos": True}  # answers that fill blocks of their own


@pytest.fixture(scope="module")
def engine(engines):
    return engines.of()


def steered(name, **more):
    return {"policy": name, **more}


def asks(steering, prompts=PROMPTS):
    return [Ask(p, steering, 40, UNTIL_FULL) for p in prompts]


def fresh(engine, wanted):
    """Answers that no cache had a part in."""
    made = []
    for ask in wanted:
        engine.forget()
        made += engine.ask([ask])
    engine.forget()
    return made


def answers_after(engine, first, then):
    """What `then` is answered where `first` filled the cache."""
    engine.forget()
    engine.one_by_one(first)
    return engine.one_by_one(then)


def same(given, wanted):
    assert [a.tokens for a in given] == [a.tokens for a in wanted]


def test_the_prompts_have_more_than_two_blocks(engine):
    for answer in engine.ask(asks(PLAIN)):
        assert len(answer.prompt_tokens) > 2 * BLOCK


@pytest.mark.parametrize("name", [*LATE, *EARLY])
def test_unsteered_requests_never_see_what_was_steered_before(engine, name):
    wanted = fresh(engine, asks(PLAIN))
    given = answers_after(engine, asks(steered(name)), asks(PLAIN))
    same(given, wanted)
    if name in LATE:
        assert all(a.cached >= BLOCK for a in given), "what nobody steered is shared"


@pytest.mark.parametrize("name", [*LATE, *EARLY])
def test_steered_requests_never_take_what_was_not_steered(engine, name):
    wanted = fresh(engine, asks(steered(name)))
    given = answers_after(engine, asks(PLAIN), asks(steered(name)))
    same(given, wanted)
    if name in LATE:
        assert all(a.cached >= BLOCK for a in given)
    if name in ("everywhere", "ablation"):
        assert given[0].cached == 0, "what others like it steered may be shared, and no more"


@pytest.mark.parametrize("name", ["everywhere", "ablation", "l2s"])
def test_another_strength_is_another_key(engine, name):
    other = steered(name, strength=-2.0)
    wanted = fresh(engine, asks(other))
    same(answers_after(engine, asks(steered(name)), asks(other)), wanted)
    same(answers_after(engine, asks(steered(name, shadow=True)), asks(other)), wanted)


def test_another_policy_is_another_key(engine):
    names = [*LATE, *EARLY]
    wanted = {name: fresh(engine, asks(steered(name), PROMPTS[:2])) for name in names}
    for name in [*names, *reversed(names)]:
        same(engine.one_by_one(asks(steered(name), PROMPTS[:2])), wanted[name])


@pytest.mark.parametrize("name", ["everywhere", "ablation"])
def test_a_request_that_comes_again_finds_its_own_blocks(engine, name):
    wanted = fresh(engine, asks(steered(name)))
    given = answers_after(engine, asks(steered(name)), asks(steered(name)))
    same(given, wanted)
    assert all(a.cached >= BLOCK for a in given)


@pytest.mark.parametrize("name", ["l2s", "autosteer", "later", *EARLY])
@pytest.mark.parametrize("then", ["steered", "plain"])
def test_a_second_turn_reads_the_first_answer_as_text(engine, name, then):
    """Its prompt holds the steered answer; what computed that answer's blocks must not matter."""
    first = [p for p in (*pictured(2), *mixed(1)) if name != "pictures" or p.images]
    steering = steered(name) if then == "steered" else PLAIN

    def second(answers):
        return [
            Ask(
                Prompt(
                    "how do i make a cup ?",
                    p.images,
                    history=(Turn("user", p.text), Turn("assistant", a.text.strip())),
                ),
                steering,
                32,
            )
            for p, a in zip(first, answers, strict=True)
        ]

    engine.forget()
    answers = engine.one_by_one([Ask(p, steered(name), 64, UNTIL_FULL) for p in first])
    given = engine.one_by_one(second(answers))
    same(given, fresh(engine, second(answers)))


@pytest.mark.parametrize("name", ["l2s", "everywhere", "pictures", PLAIN])
def test_the_same_words_under_another_picture_are_another_prompt(engine, name):
    words, steering = "what is in the image ?", None if name is None else steered(name)
    shown = [Ask(long(Prompt(words, p.images)), steering, 24) for p in pictured(5)]
    wanted = fresh(engine, shown)
    assert len({a.tokens for a in wanted}) > 1
    same(engine.one_by_one(shown), wanted)
    same(engine.one_by_one(shown[::-1]), wanted[::-1])


def test_blocks_are_shared_among_the_requests_of_one_batch(engine):
    """Steered and not, the same prompt at the same time."""
    both = [a for p in PROMPTS for a in (*asks(PLAIN, [p]), *asks(steered("l2s"), [p]))]
    wanted = fresh(engine, both)
    same(engine.ask(both), wanted)
    same(engine.ask(both), wanted)
