"""Threads and tasks that steer one model, or leave it alone, at the same time."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import pytest
import torch
from transformers import TextIteratorStreamer

import oracle
from calling import byhand
from calling.byhand import NUM, OTHER, POLICY, PUSH
from steersman.core.errors import NotSteeredError
from steersman.core.requests import Request

PROMPTS = oracle.PROMPTS
KINDS = (PUSH, OTHER, 0 * PUSH)
POLICIES = (POLICY, oracle.policy(OTHER), None)


@torch.no_grad()
def steps(model, prompt, wait=lambda: None):
    """A greedy answer by one forward call at a time, with a halt before each."""
    ids, cache, said = oracle.inputs_of(model, prompt)["input_ids"], None, []
    never = model.model.generation_config.suppress_tokens
    for _ in range(NUM):
        wait()
        out = model.model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[0, -1]
        logits[never] = -torch.inf
        ids = logits.argmax().reshape(1, 1)
        said.append(int(ids))
    return said


def wanted(model, prompt):
    inputs = oracle.inputs_of(model, prompt)
    return [byhand.greedy(model, inputs, vector=v)[0] for v in KINDS]


def test_threads_with_policies_of_their_own_answer_side_by_side():
    """Step by step in turns: two steered differently and one, beside them, not at all."""
    model = byhand.llama()
    for prompt in PROMPTS:
        tokens, barrier = wanted(model, prompt), Barrier(len(KINDS))
        assert len({tuple(t) for t in tokens}) == len(KINDS)

        def answer(policy, prompt=prompt, barrier=barrier):
            if policy is None:
                return [steps(model, prompt, barrier.wait) for _ in range(4)]
            with model.steer(policy):
                return [steps(model, prompt, barrier.wait) for _ in range(4)]

        with ThreadPoolExecutor(len(KINDS)) as pool:
            for made, right in zip(pool.map(answer, POLICIES), tokens, strict=True):
                assert made == [right] * 4


def test_entering_and_leaving_beside_others_disturbs_nobody():
    model, prompt = byhand.llama(), PROMPTS[0]
    tokens, tables = wanted(model, prompt), oracle.hook_tables(model)

    def answer(kind):
        found = []
        for _ in range(12):
            if POLICIES[kind] is None:
                found.append(steps(model, prompt))
                continue
            with model.steer(POLICIES[kind]):
                found.append(steps(model, prompt))
        return kind, found

    with ThreadPoolExecutor(6) as pool:
        for kind, found in pool.map(answer, [0, 1, 2] * 2):
            assert found == [tokens[kind]] * 12
    assert oracle.hook_tables(model) == tables


def test_requests_from_several_threads():
    model = byhand.llama()

    def answer(i):
        policy, prompt = POLICIES[i % 3], PROMPTS[i % 2]
        made = model.generate([Request(prompt, policy, max_new_tokens=NUM)])[0]
        return list(made.token_ids)

    tokens = [wanted(model, p) for p in PROMPTS[:2]]
    with ThreadPoolExecutor(4) as pool:
        for i, made in enumerate(pool.map(answer, range(24))):
            assert made == tokens[i % 2][i % 3]


def test_tasks_that_wait_inside_a_with_do_not_mix():
    model = byhand.llama()
    tokens = wanted(model, PROMPTS[0])

    async def answer(policy):
        ids, cache, said = oracle.inputs_of(model, PROMPTS[0])["input_ids"], None, []
        for _ in range(NUM):
            with torch.no_grad():
                out = model.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, logits = out.past_key_values, out.logits[0, -1]
            logits[model.model.generation_config.suppress_tokens] = -torch.inf
            ids = logits.argmax().reshape(1, 1)
            said.append(int(ids))
            await asyncio.sleep(0)
        return said

    async def steered(policy):
        if policy is None:
            return await answer(policy)
        with model.steer(policy):
            return await answer(policy)

    async def together():
        return await asyncio.gather(*(steered(p) for p in POLICIES * 2))

    assert asyncio.run(together()) == tokens * 2


def test_to_thread_inside_a_with_is_steered():
    model = byhand.llama()
    tokens = wanted(model, PROMPTS[0])

    async def steered(policy):
        if policy is None:
            return await asyncio.to_thread(steps, model, PROMPTS[0])
        with model.steer(policy):
            return await asyncio.to_thread(steps, model, PROMPTS[0])

    async def together():
        return await asyncio.gather(*(steered(p) for p in POLICIES))

    assert asyncio.run(together()) == tokens


def streamed(model, prompt):
    """What a TextIteratorStreamer gives while generate runs in a thread of its own."""
    inputs = oracle.inputs_of(model, prompt)
    streamer = TextIteratorStreamer(model.chat.tokenizer, skip_prompt=True)
    settings = dict(inputs, max_new_tokens=NUM, do_sample=False, pad_token_id=0)
    thread = Thread(target=model.model.generate, kwargs=dict(settings, streamer=streamer))
    thread.start()
    text = "".join(streamer)
    thread.join()
    return model.chat.tokenizer(text, add_special_tokens=False).input_ids


def test_a_streamer_in_a_thread_is_steered_with_threads_all():
    model = byhand.llama()
    tokens = wanted(model, PROMPTS[0])
    with model.steer(POLICY, threads="all") as run:
        assert streamed(model, PROMPTS[0]) == tokens[0]
    assert run.traces()[0]["s"].tokens_written == NUM
    assert streamed(model, PROMPTS[0]) == tokens[2]


def test_a_thread_that_was_not_meant_is_an_error_that_names_the_cure():
    model = byhand.llama()
    unsteered = wanted(model, PROMPTS[0])[2]
    with (
        pytest.raises(NotSteeredError, match=r'model.steer\(..., threads="all"\)'),
        model.steer(POLICY),
    ):
        assert streamed(model, PROMPTS[0]) == unsteered


def test_threads_all_leaves_those_alone_that_steer_themselves():
    model = byhand.llama()
    tokens = wanted(model, PROMPTS[0])

    def own():
        with model.steer(POLICIES[1]):
            return steps(model, PROMPTS[0])

    def requested():
        made = model.generate([Request(PROMPTS[0], None, max_new_tokens=NUM)])
        return list(made[0].token_ids)

    with model.steer(POLICY, threads="all"), ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(steps, model, PROMPTS[0]), pool.submit(own), pool.submit(requested)]
        assert [job.result() for job in jobs] == tokens


def test_two_threads_share_one_with_for_all():
    """Their sequences are kept apart, though both answer at the same time."""
    model, barrier = byhand.llama(), Barrier(2)
    tokens = [wanted(model, p)[0] for p in PROMPTS[:2]]
    with model.steer(POLICY, threads="all"), ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda p: steps(model, p, barrier.wait), PROMPTS[:2]))
    assert made == tokens


def test_reading_in_one_thread_disturbs_no_other():
    """Capture stops its own pass behind the deepest site, and nobody else's."""
    model = byhand.llama()
    tokens = wanted(model, PROMPTS[0])
    states = model.capture(PROMPTS, [oracle.SITE])[oracle.SITE]

    def read(_):
        return [model.capture(PROMPTS, [oracle.SITE])[oracle.SITE] for _ in range(20)]

    def answer(kind):
        with model.steer(POLICIES[kind]):
            return [steps(model, PROMPTS[0]) for _ in range(10)]

    with ThreadPoolExecutor(3) as pool:
        reading = pool.map(read, range(1))
        for kind, made in enumerate(pool.map(answer, range(3))):
            assert made == [tokens[kind]] * 10
        assert all(torch.equal(read, states) for read in next(reading))


def test_a_pass_that_began_before_a_with_for_all_threads_is_left_alone():
    model, inputs = byhand.llama(), oracle.inputs_of(byhand.llama(), PROMPTS[0])
    plain, inside, entered = oracle.plain_logits(model, inputs), Event(), Event()

    def pause(*_):
        inside.set()
        assert entered.wait(60)

    hook = model.blocks.layers[0].register_forward_hook(pause)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(oracle.plain_logits, model, inputs)
        assert inside.wait(60)
        with model.steer(POLICY, threads="all"):
            entered.set()
            assert torch.equal(job.result(), plain)
            hook.remove()
            assert not torch.equal(pool.submit(oracle.plain_logits, model, inputs).result(), plain)
