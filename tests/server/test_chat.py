"""Chats and completions, through the client of OpenAI and by hand."""

import json
import shutil
import subprocess

import httpx
import openai
import pytest
from PIL import Image

from served import CUP, HARM, POLICIES, Held, listening, model, picture, shelf_of, shown, user
from steersman.core.requests import Request
from steersman.core.types import Prompt, Turn


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    with Held(shelf_of(tmp_path_factory.mktemp("policies"))) as made:
        yield made


@pytest.fixture(scope="module")
def url(held):
    with listening(held.app) as made:
        yield made


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def alone(prompt, policy=None, strength=1.0, **more):
    """What the library itself answers."""
    return model().generate([Request(prompt, policy, strength, max_new_tokens=12, **more)])[0]


def test_openais_client_gets_the_answer_of_the_library_and_what_steering_did(client):
    made = client.chat.completions.create(
        model="bundled", messages=user(HARM), temperature=0, max_completion_tokens=12,
        extra_body={"steering": {"policy": "push", "strength": 1.5}},
    )  # fmt: skip
    right = alone(Prompt(HARM), POLICIES["push"], 1.5)
    assert made.choices[0].message.content == right.text
    assert made.usage.prompt_tokens == right.num_prompt_tokens
    assert made.usage.completion_tokens == len(right.token_ids)
    assert made.choices[0].finish_reason == right.finish
    assert made.steering["policy"] == "push" and made.steering["gate"] == 1
    assert made.steering["tokens_written"] == right.trace["s"].tokens_written > 0
    assert made.steering["strength"] == 1.5


def test_an_unsteered_answer_says_that_it_is(client):
    made = client.chat.completions.create(
        model="bundled", messages=user(HARM), temperature=0, max_tokens=12
    )
    assert made.choices[0].message.content == alone(Prompt(HARM)).text
    assert made.steering is None


def test_streamed_pieces_are_the_answer_and_the_last_one_tells_what_steering_did(client):
    chunks = list(
        client.chat.completions.create(
            model="bundled", messages=user(HARM), temperature=0, max_tokens=12, stream=True,
            stream_options={"include_usage": True}, extra_body={"steering": {"policy": "behind"}},
        )
    )  # fmt: skip
    right = alone(Prompt(HARM), POLICIES["behind"])
    *pieces, last, usage = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in pieces) == right.text
    assert len(pieces) == len(right.text.split()) + 1
    assert last.choices[0].finish_reason == right.finish
    assert last.steering["tokens_written"] == right.trace["s"].tokens_written
    assert usage.choices == [] and usage.usage.completion_tokens == len(right.token_ids)
    assert len({c.id for c in chunks}) == 1


def test_a_stream_ends_with_done(url):
    body = {"messages": user(CUP), "temperature": 0, "stream": True, "max_tokens": 3}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    last = json.loads(events[-3].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length" and last["steering"] is None


def test_curl_is_enough(url):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    body = {"messages": user(HARM), "temperature": 0, "max_tokens": 12}
    body["steering"] = {"policy": "pull"}
    words = ["curl", "-sS", f"{url}/v1/chat/completions", "-H", "content-type: application/json"]
    done = subprocess.run([*words, "-d", json.dumps(body)], capture_output=True, check=True)
    right = alone(Prompt(HARM), POLICIES["pull"])
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == right.text


def test_images_are_seen(client):
    def ask(*urls):
        made = client.chat.completions.create(
            model="bundled", messages=user(shown("what is in the image ?", *urls)),
            temperature=0, max_tokens=12,
        )  # fmt: skip
        return made.choices[0].message.content, made.usage.prompt_tokens

    image = Image.new("RGB", (64, 64), "red")
    right = alone(Prompt("what is in the image ?", (image,)))
    assert ask(picture()) == (right.text, right.num_prompt_tokens)
    assert ask(picture(), picture("blue"))[1] > ask(picture())[1] > ask()[1]


def test_the_system_and_earlier_turns_are_part_of_the_prompt(held):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": CUP},
        {"role": "assistant", "content": "no ."},
        {"role": "user", "content": [*shown("is there"), *shown("a car ?")]},
    ]
    made = held.post(messages=messages, temperature=0, max_tokens=12).json()
    history = (Turn("user", CUP), Turn("assistant", "no ."))
    right = alone(Prompt("is there\na car ?", system="be kind\n\nbe short", history=history))
    assert made["choices"][0]["message"]["content"] == right.text
    assert made["usage"]["prompt_tokens"] == right.num_prompt_tokens


def test_an_answer_of_ours_can_be_sent_back_as_it_is(client):
    first = client.chat.completions.create(
        model="bundled", messages=user(CUP), temperature=0, max_tokens=12
    )
    messages = [*user(CUP), first.choices[0].message.model_dump(), *user("why ?")]
    client.chat.completions.create(model="bundled", messages=messages, temperature=0, max_tokens=12)


def test_completions_are_plain_texts_each_answered_by_itself(client):
    texts = ["user : is there a cup ? <eou>assistant :", "how do i"]
    made = client.completions.create(
        model="bundled", prompt=texts, temperature=0, max_tokens=12,
        extra_body={"steering": {"policy": "push"}},
    )  # fmt: skip
    right = [alone(Prompt(text, plain=True), POLICIES["push"]) for text in texts]
    assert [c.text.strip() for c in made.choices] == [r.text for r in right]
    assert made.usage.prompt_tokens == sum(r.num_prompt_tokens for r in right)
    assert [c.steering["tokens_written"] for c in made.choices] == [
        r.trace["s"].tokens_written for r in right
    ]
    assert made.steering == made.choices[0].steering


def test_streamed_completions_are_told_apart_by_their_index(client):
    texts = ["user : is there a cup ? <eou>assistant :", "how do i"]
    whole = client.completions.create(model="bundled", prompt=texts, temperature=0)
    said = ["", ""]
    for chunk in client.completions.create(
        model="bundled", prompt=texts, temperature=0, stream=True
    ):
        said[chunk.choices[0].index] += chunk.choices[0].text
    assert said == [c.text for c in whole.choices]


def test_sampled_choices_differ_and_the_same_seed_draws_them_again(held):
    def draw(**more):
        made = held.chat("are", n=8, max_tokens=16, temperature=1.5, **more).json()
        return [c["message"]["content"] for c in made["choices"]]

    first = draw(seed=7)
    assert draw(seed=7) == first and len(set(first)) > 4
    assert held.chat("are", seed=9, max_tokens=16, temperature=1.5).json()["choices"][0]["message"][
        "content"
    ] == first[2]  # fmt: skip
    assert draw() != first and draw() != draw()


def test_the_temperature_is_one_unless_it_is_said(held):
    def draw(**more):
        made = held.post(messages=user("are"), max_tokens=16, seed=3, **more).json()
        return made["choices"][0]["message"]["content"]

    assert draw() == draw(temperature=1) != draw(temperature=0)


def test_an_answer_ends_in_front_of_a_stop_and_is_not_charged_for_more(held):
    right = alone(Prompt(HARM))
    words = right.text.split()
    made = held.chat(stop=f"{words[2]} {words[3]}").json()
    assert made["choices"][0]["message"]["content"] == " ".join(words[:2])
    assert made["choices"][0]["finish_reason"] == "stop"
    assert made["usage"]["completion_tokens"] == 4


def test_a_stop_over_several_tokens_is_never_streamed(url):
    words = alone(Prompt(HARM)).text.split()
    body = {"messages": user(HARM), "temperature": 0, "stream": True, "max_tokens": 12}
    body["stop"] = ["never said", f"{words[2]} {words[3][:1]}"]
    events = httpx.post(f"{url}/v1/chat/completions", json=body).text.split("\n\n")[:-2]
    chunks = [json.loads(e.removeprefix("data: "))["choices"][0] for e in events]
    assert "".join(c["delta"].get("content", "") for c in chunks) == " ".join(words[:2])
    assert chunks[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("steering", "written"),
    [
        ({"policy": "push", "strength": 0}, 0),
        ({"policy": "push", "shadow": True}, 0),
        ({"policy": "closed"}, 0),
        (None, None),
    ],
)
def test_what_writes_nothing_changes_nothing(held, steering, written):
    made = held.chat(steering=steering).json()
    assert made["choices"][0]["message"]["content"] == alone(Prompt(HARM)).text
    assert (made["steering"] and made["steering"]["tokens_written"]) == written
    if written == 0:
        assert made["steering"]["reason"]


def test_shadow_tells_the_gate_that_would_have_been(held):
    did = held.chat(steering={"policy": "behind", "shadow": True}).json()["steering"]
    real = held.chat(steering={"policy": "behind"}).json()["steering"]
    assert did["gate"] == real["gate"] > 0 and did["shadow"] and not real["shadow"]


def test_a_scope_of_the_request_replaces_the_policys(held):
    last = held.chat(steering={"policy": "push", "scope": "last"}).json()["steering"]
    everywhere = held.chat(steering={"policy": "push", "scope": "all"}).json()
    assert last["tokens_written"] == 1
    used = everywhere["usage"]
    assert everywhere["steering"]["tokens_written"] == used["total_tokens"] - 1


def test_a_default_policy_steers_who_says_nothing(tmp_path):
    with Held(shelf_of(tmp_path, "push"), default_policy="push") as held:
        assert held.chat().json()["steering"]["policy"] == "push"
        assert held.chat(steering=None).json()["steering"] is None


def test_the_model_is_listed_as_it_must_be_called(client):
    assert [m.id for m in client.models.list()] == ["bundled"]
    assert client.models.retrieve("bundled").object == "model"
    with pytest.raises(openai.NotFoundError, match="'bundled'"):
        client.models.retrieve("bundle")
