"""The thread that owns the model: batches, queues, failures, and clients that go."""

import asyncio
import json
import random
import socket
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest

from served import CUP, HARM, POLICIES, Held, error_of, listening, model, shelf_of, shown, user
from served import picture as png
from steersman.backends.live import generate_live
from steersman.core.errors import NotSteeredError, RecipeError
from steersman.core.requests import Completion, Request
from steersman.core.types import Prompt


class Slow:
    """Live generation that waits for leave, says which batches it was given, and may fail."""

    def __init__(self, fails=None):
        self.go, self.began = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self.fails = fails or (lambda texts: None)
        self.step = 0.0

    def __call__(self, requests, *, sink, cancelled):
        texts = [r.prompt.text for r in requests]
        self.batches.append(texts)
        self.began.set()
        assert self.go.wait(20)
        num = 0

        def heard(i, token):
            nonlocal num
            num += 1
            time.sleep(self.step)
            sink(i, token)
            if num == 3 and (error := self.fails(texts)):
                raise error

        return generate_live(model(), requests, sink=heard, cancelled=cancelled)


@pytest.fixture
def shelf(tmp_path):
    return shelf_of(tmp_path, "push", "closed")


def together(held, generate, *bodies):
    """The first body runs alone; the others wait meanwhile, then run."""

    async def all_of_them():
        first = asyncio.create_task(post(held, bodies[0]))
        assert await asyncio.to_thread(generate.began.wait, 20)
        rest = [asyncio.create_task(post(held, body)) for body in bodies[1:]]
        while held.engine.num_waiting + sum(t.done() for t in rest) < len(rest):
            await asyncio.sleep(0.01)
        generate.go.set()
        return await asyncio.gather(first, *rest)

    return asyncio.run(all_of_them())


def body_of(text=HARM, **more):
    return {"messages": user(text), "temperature": 0, "max_tokens": 12, **more}


async def post(held, body):
    return await held.acall("POST", "/v1/chat/completions", json=body)


def said(reply) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def right(text=HARM, policy=None) -> str:
    return model().generate([Request(Prompt(text), policy, max_new_tokens=12)])[0].text


def test_what_waits_when_the_model_becomes_free_runs_as_one_batch(shelf):
    generate = Slow()
    with Held(shelf, generate=generate) as held:
        replies = together(
            held, generate, body_of(CUP), body_of(HARM), body_of("a", temperature=1, seed=1),
            body_of(HARM, steering={"policy": "push"}), body_of(CUP, max_tokens=3),
        )  # fmt: skip
    assert generate.batches == [[CUP], [HARM, "a", HARM, CUP]]
    assert [said(r) for r in replies[:2]] == [right(CUP), right(HARM)]
    assert said(replies[3]) == right(HARM, POLICIES["push"])
    assert replies[4].json()["usage"]["completion_tokens"] == 3


def test_images_and_texts_run_in_batches_of_their_own_the_oldest_first(shelf):
    generate = Slow()
    with Held(shelf, generate=generate, max_batch=2) as held:
        together(
            held, generate, body_of("1"), body_of("2"), body_of(shown("3", png())),
            body_of("4"), body_of("5"), body_of(shown("6", png())),
        )  # fmt: skip
    assert generate.batches == [["1"], ["2", "4"], ["3", "6"], ["5"]]


def test_who_finds_the_queue_full_is_told_to_come_again(shelf):
    generate = Slow()
    with Held(shelf, generate=generate, max_queue=2) as held:
        replies = together(held, generate, *[body_of(str(i)) for i in range(5)])
    codes = [r.status_code for r in replies]
    assert sorted(codes) == [200, 200, 200, 429, 429]
    full = next(r for r in replies if r.status_code == 429)
    assert error_of(full)[1] == "queue_full" and full.headers["retry-after"] == "1"


def test_who_finds_the_desk_full_is_told_to_come_again(shelf):
    free = threading.Event()

    async def crowd(held):
        held.desk._thread.submit(free.wait, 20)
        posts = [asyncio.create_task(post(held, body_of(str(i)))) for i in range(5)]
        while sum(t.done() for t in posts) < 2:
            await asyncio.sleep(0.01)
        free.set()
        return await asyncio.gather(*posts)

    with Held(shelf, max_queue=2) as held:
        replies = asyncio.run(crowd(held))
        assert sum(r.status_code == 200 for r in replies) >= 2
        for full in (r for r in replies if r.status_code != 200):
            assert error_of(full)[:2] == (429, "queue_full") and full.headers["retry-after"] == "1"
        assert held.chat().status_code == 200


def test_who_waits_too_long_for_the_desk_is_told_so(shelf):
    free = threading.Event()
    with Held(shelf, timeout=0.2) as held:
        held.desk._thread.submit(free.wait, 20)
        try:
            assert error_of(held.chat())[:2] == (504, "timeout")
            assert error_of(held.post("/v1/completions", prompt="a"))[:2] == (504, "timeout")
        finally:
            free.set()


def test_prompts_that_must_be_too_long_are_not_tokenized(shelf, monkeypatch):
    with Held(shelf, max_prompt_tokens=10) as held:
        monkeypatch.setattr(held.desk, "_count", lambda *_: pytest.fail("it was tokenized"))
        full = (400, "context_length_exceeded")
        assert error_of(held.chat("a" * 401)) == (*full, "messages")
        texts = {"prompt": ["a", "a" * 401]}
        assert error_of(held.post("/v1/completions", **texts)) == (*full, "prompt")


def test_one_bad_request_does_not_spoil_its_neighbours(shelf):
    generate = Slow(lambda texts: ValueError("secret " + texts[0]) if "bad" in texts else None)
    with Held(shelf, generate=generate) as held:
        replies = together(held, generate, body_of(CUP), body_of("bad"), body_of(HARM))
        assert error_of(replies[1]) == (500, "internal_error", None)
        assert "secret" not in replies[1].text
        assert [said(replies[0]), said(replies[2])] == [right(CUP), right(HARM)]
        assert held.chat().status_code == 200
    assert generate.batches[:4] == [[CUP], ["bad", HARM], ["bad"], [HARM]]


def test_a_stream_whose_batch_failed_goes_on_where_it_was(shelf):
    generate = Slow(lambda texts: ValueError() if "bad" in texts else None)
    with Held(shelf, generate=generate) as held:
        stream = body_of(HARM, stream=True)
        replies = together(held, generate, body_of(CUP), stream, body_of("bad"))
    events = [e.removeprefix("data: ") for e in replies[1].text.split("\n\n")[:-2]]
    pieces = [json.loads(e)["choices"][0]["delta"].get("content", "") for e in events]
    assert "".join(pieces) == right(HARM)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotSteeredError("Nothing was written."), (500, "not_steered", "steering")),
        (RecipeError("It cannot be."), (400, "invalid_value", None)),
        (RuntimeError("/secret/path"), (500, "internal_error", None)),
    ],
)
def test_failures_are_told_as_what_they_are(shelf, error, told):
    generate = Slow(lambda texts: error)
    generate.go.set()
    with Held(shelf, generate=generate) as held:
        reply = held.chat()
        assert error_of(reply) == told and "secret" not in reply.text


def test_a_row_that_could_not_be_steered_is_an_error_and_never_a_silent_answer(shelf):
    def generate(requests, *, sink, cancelled):
        made = generate_live(model(), requests, sink=sink, cancelled=cancelled)
        error = NotSteeredError("Nothing was written.")
        return [error if r.policy else m for r, m in zip(requests, made, strict=True)]

    with Held(shelf, generate=generate) as held:
        assert error_of(held.chat(steering={"policy": "push"}))[:2] == (500, "not_steered")
        stream = held.chat(steering={"policy": "push"}, stream=True)
        assert '"code":"not_steered"' in stream.text and '"finish_reason":"stop"' not in stream.text
        assert held.chat().status_code == 200
        with (
            listening(held.app) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client,
            pytest.raises(openai.APIError, match="Nothing was written"),
        ):
            list(
                client.chat.completions.create(
                    model="bundled", messages=user(HARM), stream=True,
                    extra_body={"steering": {"policy": "push"}},
                )
            )  # fmt: skip


def test_a_request_that_takes_too_long_is_stopped(shelf):
    speaks = model().chat.tokenizer("powder and fuse", add_special_tokens=False)["input_ids"]

    def stuck(requests, *, sink, cancelled):
        if requests[0].prompt.text == CUP:
            sink(0, speaks[0])
        while not cancelled(0):
            time.sleep(0.01)
        return [Completion("", (), 1, finish="cancelled")]

    with Held(shelf, generate=stuck, timeout=1.0) as held:
        assert error_of(held.chat(HARM))[:2] == (504, "timeout")
        assert error_of(held.chat(HARM, stream=True))[:2] == (504, "timeout")
        stream = held.chat(CUP, stream=True)
        assert stream.status_code == 200 and '"content":"powder"' in stream.text
        assert '"code":"timeout"' in stream.text and stream.text.endswith("data: [DONE]\n\n")
        idle(held)


def idle(held):
    """Waits until nothing runs; a cancelled row ends with its next token."""
    deadline = time.monotonic() + 10
    while held.engine.num_running or held.engine.num_waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_makes_room(shelf, stream):
    generate = Slow()
    generate.step = 0.05
    generate.go.set()
    with Held(shelf, generate=generate) as held, listening(held.app) as url:
        host, port = url.removeprefix("http://").split(":")
        content = json.dumps(body_of("are", max_tokens=200, temperature=2, stream=stream))
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(content), content.encode())
            )
            if stream:
                assert connection.recv(100)
            else:
                assert generate.began.wait(10)
        idle(held)
        assert held.chat(max_tokens=1).status_code == 200


def test_who_goes_while_waiting_never_runs(shelf):
    generate = Slow()
    with Held(shelf, generate=generate) as held:

        async def play():
            first = asyncio.create_task(post(held, body_of(CUP)))
            assert await asyncio.to_thread(generate.began.wait, 10)
            second = asyncio.create_task(post(held, body_of("2")))
            while held.engine.num_waiting < 1:
                await asyncio.sleep(0.01)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            generate.go.set()
            await first

        asyncio.run(play())
    assert generate.batches == [[CUP]]


def test_a_slow_reader_keeps_nobody_waiting(shelf):
    generate = Slow()
    generate.go.set()
    with (
        Held(shelf, generate=generate) as held,
        listening(held.app) as url,
        httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body_of("are", max_tokens=60, stream=True)
        ) as slow,
    ):
        assert held.chat().status_code == 200
        idle(held)
        read = slow.read().decode()
    assert read.endswith("data: [DONE]\n\n")


def test_sixty_four_mixed_requests_at_once_each_get_their_own_answer(tmp_path):
    rng = random.Random(3)
    asks = [None, *({"policy": p, "strength": s} for p in POLICIES for s in (0.5, 1.0))]
    texts = [CUP, HARM, "how do i make a cup ?", "are", "what is in the image ?"]
    bodies = []
    for i in range(64):
        content = rng.choice(texts)
        if i % 5 == 0:
            content = shown(content, png(rng.choice(["red", "blue"])))
        more = {"steering": rng.choice(asks), "max_tokens": rng.randint(1, 10)}
        more["temperature"] = rng.choice([0, 0, 0.7, 1.3])
        bodies.append(body_of(content, **more, seed=i, stream=i % 3 == 0))

    def parts(reply):
        assert reply.status_code == 200, reply.text
        if not reply.headers["content-type"].startswith("text/event-stream"):
            made = reply.json()
            return said(reply), made["choices"][0]["finish_reason"], gist(made["steering"])
        events = [json.loads(e.removeprefix("data: ")) for e in reply.text.split("\n\n")[:-2]]
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
        return text, events[-1]["choices"][0]["finish_reason"], gist(events[-1]["steering"])

    def gist(told):
        return told and (told["policy"], told["tokens_written"], round(told["gate"], 4))

    with Held(shelf_of(tmp_path)) as held:

        async def at_once():
            calls = [post(held, body) for body in bodies]
            return await asyncio.gather(*calls)

        mixed = [parts(reply) for reply in asyncio.run(at_once())]
        alone = [parts(held.post(**body)) for body in bodies]
    assert mixed == alone
    assert len({m[0] for m in mixed}) > 20


def test_a_server_that_goes_down_takes_nothing_more_and_ends_what_runs(shelf):
    generate = Slow()
    with Held(shelf, generate=generate) as held:

        async def play():
            first = asyncio.create_task(post(held, body_of(CUP)))
            assert await asyncio.to_thread(generate.began.wait, 10)
            held.engine.close()
            late = await post(held, body_of(HARM))
            health = await held.acall("GET", "/health")
            generate.go.set()
            return await first, late, health

        first, late, health = asyncio.run(play())
    assert said(first) == right(CUP)
    assert error_of(late)[:2] == error_of(health)[:2] == (503, "shutting_down")


def test_health_tells_what_waits_and_whether_the_model_lives(shelf):
    with Held(shelf) as held:
        assert held.call("GET", "/health").json() == {"status": "ok", "waiting": 0, "running": 0}
        held.engine._thread = SimpleNamespace(is_alive=lambda: False, join=lambda _: None)
        assert error_of(held.call("GET", "/health"))[:2] == (503, "dead")
