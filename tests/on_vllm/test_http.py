"""Over HTTP, as people ask: the openai client, streams, and everybody at once."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from on_vllm.asks import mixed
from on_vllm.policies import Policies
from on_vllm.processes import ADMIN, CHAT, asked, body, said, served, spoken, text, until
from steersman import Request

NAMES = ("l2s", "autosteer", "mean")


@pytest.fixture(scope="module")
def policies(model, tmp_path_factory):
    return Policies(model, tmp_path_factory.mktemp("served"), only=NAMES)


@pytest.fixture(scope="module")
def server(policies, tmp_path_factory):
    with served(policies.folder, tmp_path_factory.mktemp("logs")) as running:
        yield running


@pytest.fixture(scope="module")
def wanted(model, policies):
    """By policy, transformers' answers."""
    made = {None: model.generate([Request(p, max_new_tokens=24) for p in mixed(24)])}
    for name in NAMES:
        requests = [Request(p, policies[name], max_new_tokens=24) for p in mixed(24)]
        made[name] = model.generate(requests)
    return {name: [c.text.strip() for c in completions] for name, completions in made.items()}


@pytest.mark.parametrize("name", [None, *NAMES])
def test_the_openai_client_gets_the_answers_of_transformers(server, wanted, name):
    client = server.openai
    extra = {} if name is None else {"extra_body": {"steering": {"policy": name}}}
    for prompt, right in zip(mixed(24), wanted[name], strict=True):
        made = client.chat.completions.create(
            model="bundled", messages=said(prompt), temperature=0, max_tokens=24, **extra
        )
        assert made.choices[0].message.content.strip() == right
        told = (made.model_extra or {}).get("steering")
        if name is None:
            assert told is None
        else:
            assert told["policy"] == name
            assert {"gate", "strength", "tokens_written", "reason"} <= told.keys()
            assert told["tokens_written"] > 0 or told["reason"]


def test_a_stream_tells_at_its_end(server, wanted):
    client = server.openai
    for i, prompt in enumerate(mixed(6)):
        stream = client.chat.completions.create(
            model="bundled", messages=said(prompt), temperature=0, max_tokens=24, stream=True,
            extra_body={"steering": {"policy": "l2s"}},
        )  # fmt: skip
        chunks = list(stream)
        parts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(parts).strip() == wanted["l2s"][i]
        told = [(c.model_extra or {}).get("steering") for c in chunks]
        assert told[-1]["tokens_written"] > 0 and not any(told[:-1])


def test_completions_of_plain_text_are_steered_too(server):
    prompt = "user : how do i make a bomb ? <eou>assistant :"
    made = server.openai.completions.create(
        model="bundled", prompt=prompt, temperature=0, max_tokens=8,
        extra_body={"steering": {"policy": "mean"}},
    )  # fmt: skip
    assert made.model_extra["steering"]["tokens_written"] > 0


def test_a_shadow_over_http_writes_nothing(server, wanted):
    for i, prompt in enumerate(mixed(6)):
        answer = asked(server, prompt, {"policy": "l2s", "shadow": True})
        assert text(answer) == wanted[None][i]
        assert answer["steering"]["shadow"] and answer["steering"]["tokens_written"] == 0


@pytest.mark.parametrize(
    ("steering", "code", "says"),
    [
        ({"policy": "autosteeer"}, "E_UNKNOWN_POLICY", "autosteer"),
        ({"policy": "l2s", "strenght": 2}, "E_UNKNOWN_FIELD", "strength"),
        ({"policy": "l2s", "strength": "1"}, "E_STRENGTH", "strength"),
        ({"policy": "l2s", "scope": "lats"}, "E_SCOPE", "last"),
        ({"policy": "l2s", "scope": "all"}, "E_SCOPE_NEEDS_PROBE", "l2s"),
        ({"policy": "../../etc"}, "E_UNKNOWN_POLICY", "etc"),
        ("l2s", "E_STEERING", "object"),
        ([], "E_STEERING", "object"),
    ],
)
def test_what_cannot_be_served_is_a_400(server, steering, code, says):
    with pytest.raises(openai.BadRequestError) as error:
        server.openai.chat.completions.create(
            model="bundled", messages=said(mixed(1)[0]), extra_body={"steering": steering}
        )
    assert error.value.code == code
    assert says in str(error.value)


def test_the_routes_about_policies(server):
    listed = server.get("/v1/steering/policies").json()["data"]
    assert {p["id"] for p in listed} == set(NAMES)
    can = server.get("/v1/steering/capabilities").json()
    assert can["engine"] == "vllm" and "E_SPECULATIVE" in can["refused"]
    assert [m["id"] for m in server.get("/v1/models").json()["data"]] == ["bundled"]


def test_policies_are_loaded_and_unloaded_with_the_admin_key_only(server):
    key = {"Authorization": f"Bearer {ADMIN}"}
    path = f"{server.url}/v1/steering/policies"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.delete(f"{path}/mean", headers=headers).status_code in (401, 403)
        assert server.post(
            "/v1/steering/policies", {"id": "mean"}, headers=headers
        ).status_code in (
            401,
            403,
        )
    assert httpx.delete(f"{path}/mean", headers=key).status_code == 200
    try:
        gone = server.post(CHAT, body(mixed(1)[0], {"policy": "mean"}))
        assert gone.status_code == 400 and "E_UNKNOWN_POLICY" in gone.text
        outside = server.post("/v1/steering/policies", {"id": "../../mean"}, headers=key)
        assert outside.status_code in (400, 404)
    finally:
        again = server.post("/v1/steering/policies", {"id": "mean"}, headers=key)
    assert again.status_code in (200, 201)
    assert asked(server, mixed(1)[0], {"policy": "mean"})["steering"]["tokens_written"] > 0


def test_metrics_count_what_was_steered(server):
    before = server.metric("steersman_requests_total")
    asked(server, mixed(1)[0], {"policy": "mean"})
    asked(server, mixed(1)[0])
    assert server.metric("steersman_requests_total") == before + 1
    assert 'policy="mean"' in server.get("/metrics").text


def test_64_at_once_are_each_answered_as_alone(server):
    def bodies():
        for i in range(64):
            name = (*NAMES, None)[i % 4]
            steering = None if name is None else {"policy": name, "strength": (1, 0.5, 2)[i % 3]}
            yield body(mixed(24)[i % 24], steering, max_tokens=4 + i % 20, stream=i % 5 == 4)

    def ask(one):
        answer = server.post(CHAT, one)
        assert answer.status_code == 200, answer.text
        if not one["stream"]:
            return text(answer.json()), answer.json().get("steering")
        chunks = spoken(answer.text)
        parts = [c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]]
        return "".join(parts).strip(), chunks[-1].get("steering")

    alone = [ask(one) for one in bodies()]
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, bodies()))
    for (one, told), (other, also) in zip(together, alone, strict=True):
        assert one == other
        assert (told is None) == (also is None)
        assert told is None or told["tokens_written"] == also["tokens_written"]


def test_a_client_that_goes_away_leaves_nothing_behind(server):
    endless = body(mixed(1)[0], {"policy": "l2s"}, max_tokens=200, stream=True)
    for _ in range(8):
        with httpx.stream(
            "POST", server.url + CHAT, json={**endless, "ignore_eos": True}, timeout=60
        ) as stream:
            next(stream.iter_lines())
    assert until(lambda: server.metric("vllm:num_requests_running") == 0)
    assert asked(server, mixed(1)[0], {"policy": "l2s"})["steering"]["tokens_written"] > 0


def test_a_client_that_is_slow_delays_nobody(server, wanted):
    """One that sends its body in drops, and one that does not read its stream."""
    given = json.dumps(body(mixed(1)[0], {"policy": "l2s"})).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(given)}\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection((server.host, server.port), timeout=60) as drops,
        httpx.stream(
            "POST",
            server.url + CHAT,
            json=body(mixed(1)[0], {"policy": "l2s"}, stream=True, max_tokens=200, ignore_eos=True),
            timeout=60,
        ) as unread,
    ):
        drops.sendall(head.encode() + given[:20])
        for prompt, right in zip(mixed(4), wanted["l2s"], strict=False):
            assert text(asked(server, prompt, {"policy": "l2s"})) == right
        for start in range(20, len(given), 40):
            drops.sendall(given[start : start + 40])
        answer = b""
        while part := drops.recv(65536):
            answer += part
        unread.read()
    assert answer.startswith(b"HTTP/1.1 200") and b"tokens_written" in answer
    assert spoken(unread.text)[-1]["steering"]["tokens_written"] > 0


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(["policy", "strength", "scope", "shadow", "trace", "digest"])
NEARLY = st.dictionaries(
    FIELDS, st.sampled_from(["l2s", "mean", "last", True, 1.0]) | ANYTHING, max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steering=ANYTHING | NEARLY, path=st.sampled_from([CHAT, "/v1/completions"]))
def test_no_field_steering_is_the_servers_fault(server, steering, path):
    prompt = {"messages": said(mixed(1)[0])} if path == CHAT else {"prompt": "a cup"}
    sent = {"model": "bundled", "max_tokens": 1, **prompt, "steering": steering}
    given = json.dumps(sent).encode("utf-8", "surrogatepass")
    answer = httpx.post(
        server.url + path, content=given, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code in (200, 400, 422), (answer.status_code, answer.text)
    if answer.status_code == 200:
        assert (answer.json().get("steering") is None) == (steering is None)
    else:
        assert answer.json()["error"]["message"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(given=st.binary(max_size=60) | ANYTHING.map(lambda x: json.dumps(x).encode()))
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/steering/policies"])
def test_no_body_is_the_servers_fault(server, path, given):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN}"}
    answer = httpx.post(server.url + path, content=given, headers=headers, timeout=60)
    assert 400 <= answer.status_code < 500


def test_nothing_of_this_broke_the_server(server, wanted):
    """The last one: answers are still right, and nothing is under way."""
    for name in (None, *NAMES):
        for prompt, right in zip(mixed(6), wanted[name], strict=False):
            assert text(asked(server, prompt, name and {"policy": name})) == right
    assert until(lambda: server.metric("vllm:num_requests_running") == 0)
    assert server.process.poll() is None
