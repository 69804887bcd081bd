"""What is refused, with which code, and that nothing a client sends makes a 500."""

import json
import threading

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from served import HARM, POLICIES, Held, error_of, model, picture, put, shelf_of, shown, user
from served import given as given_policy
from steersman.core.errors import ArtifactError
from steersman.core.io import Artifact, save_artifact
from steersman.core.serving import RefusedError
from steersman.core.shelf import Shelf
from steersman.server import images, schema
from steersman.server.host import accept
from steersman.server.schema import HARMLESS, NEUTRAL

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
IMAGE = "messages[0].content[0].image_url"


def deep(levels: int) -> list:
    made: list = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    with Held(shelf_of(folder), max_new_tokens=64, admin_keys=("admin",)) as made:
        yield made


@pytest.mark.parametrize(
    ("more", "told", "message"),
    [
        ({"temprature": 1}, (400, "unknown_parameter", "temprature"), "Did you mean 'temperature'"),
        ({"steering": {"policy": "psh"}}, (400, "E_UNKNOWN_POLICY", "steering"), "mean 'push'"),
        ({"steering": {"plicy": "push"}}, (400, "E_UNKNOWN_FIELD", "steering"), "mean 'policy'"),
        ({"steering": "push"}, (400, "E_STEERING", "steering"), "object"),
        ({"steering": {"policy": "push", "strength": "1"}}, (400, "E_STRENGTH", "steering"), "1"),
        ({"steering": {"policy": "push", "scope": "al"}}, (400, "E_SCOPE", "steering"), "'all'"),
        ({"steering": {"policy": "push", "shadow": 1}}, (400, "E_STEERING", "steering"), "shadow"),
        ({"steering": {"policy": "../push"}}, (400, "E_UNKNOWN_POLICY", "steering"), "push"),
        ({"model": "bundeld"}, (404, "model_not_found", "model"), "mean 'bundled'"),
        ({"max_tokens": 0}, (400, "invalid_value", "max_tokens"), "greater than or equal to 1"),
        ({"max_tokens": 65}, (400, "max_tokens_too_large", "max_tokens"), "64"),
        (
            {"max_tokens": 3, "max_completion_tokens": 4},
            (400, "invalid_value", "max_completion_tokens"),
            "differ",
        ),
        ({"temperature": -1}, (400, "invalid_value", "temperature"), "greater"),
        ({"temperature": "1"}, (400, "invalid_value", "temperature"), "number"),
        ({"top_p": 0}, (400, "invalid_value", "top_p"), "greater"),
        ({"n": 9}, (400, "invalid_value", "n"), "8"),
        ({"n": True}, (400, "invalid_value", "n"), "integer"),
        ({"seed": 2**63}, (400, "invalid_value", "seed"), "less"),
        ({"stop": ["a"] * 5}, (400, "invalid_value", "stop"), "at most 4"),
        (
            {"stream_options": {"include_usage": True}},
            (400, "invalid_value", "stream_options"),
            "stream",
        ),
        (
            {"stream": True, "stream_options": {"usage": True}},
            (400, "unknown_parameter", "stream_options.usage"),
            "include_usage",
        ),
        ({"stop": "a" * 257}, (400, "invalid_value", "stop"), "at most 256"),
        ({"stop": ["a", "b" * 257]}, (400, "invalid_value", "stop[1]"), "at most 256"),
        ({"steering": {"policy": "push", "scope": "image"}}, (400, "E_SCOPE", "steering"), "image"),
        ({"messages": user("a") * 1001}, (400, "invalid_value", "messages"), "1000"),
        (
            {"messages": user([{"type": "text", "text": "a"}] * 257)},
            (400, "invalid_value", "messages[0].content"),
            "256",
        ),
        ({"metadata": [0] * 100_000}, (400, "invalid_value", None), "100,000"),
        ({"metadata": deep(40)}, (400, "invalid_value", None), "32 levels"),
        ({"tools": deep(900)}, (400, "invalid_value", None), "32 levels"),
        ({"messages": []}, (400, "invalid_value", "messages"), "at least 1"),
        ({"messages": None}, (400, "invalid_value", "messages"), "list"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            (400, "invalid_value", "messages[0].role"),
            "user",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            (400, "unsupported_value", "messages"),
            "user",
        ),
        (
            {"messages": [*user("a"), {"role": "system", "content": "a"}, *user("b")]},
            (400, "unsupported_value", "messages[1].role"),
            "beginning",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "name": "Ann"}]},
            (400, "unsupported_parameter", "messages[0].name"),
            "Ann",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "nme": 1}]},
            (400, "unknown_parameter", "messages[0].nme"),
            "role",
        ),
        (
            {"messages": user([{"type": "input_audio"}])},
            (400, "invalid_value", "messages[0].content[0]"),
            "image_url",
        ),
        ({"messages": user("a " * 300)}, (400, "context_length_exceeded", "messages"), "256"),
        (
            {"messages": user("is there <image> a cup ?")},
            (400, "invalid_value", "messages"),
            "image",
        ),
        (
            {"messages": user(shown("a", "http://a.example/a.png"))},
            (400, "image_host_not_allowed", IMAGE),
            "data:",
        ),
        (
            {"messages": user(shown("a", "file:///etc/passwd"))},
            (400, "invalid_image_url", IMAGE),
            "data:",
        ),
        (
            {"messages": user(shown("a", "data:image/png;base64,!"))},
            (400, "invalid_image", IMAGE),
            "base64",
        ),
        (
            {"messages": user(shown("a", "data:image/png;base64,aGk="))},
            (400, "invalid_image", IMAGE),
            "PNG",
        ),
        (
            {"messages": user(shown("a", picture(size=(4000, 2001))))},
            (400, "image_too_large", IMAGE),
            "8,000,000",
        ),
        (
            {"messages": user(shown("a", *[picture()] * 17))},
            (400, "invalid_value", "messages"),
            "16",
        ),
        (
            {"messages": [*user(shown("a", picture())), *user("b")]},
            (400, "unsupported_value", IMAGE),
            "last",
        ),
    ],
)
def test_a_chat_that_cannot_be_answered_rightly_is_refused(held, more, told, message):
    reply = held.chat(**more)
    assert error_of(reply) == told
    assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": ""}, (400, "invalid_value", "prompt")),
        ({"prompt": []}, (400, "invalid_value", "prompt")),
        ({"prompt": ["a", 3]}, (400, "invalid_value", "prompt[1]")),
        ({"prompt": [1, 2]}, (400, "invalid_value", "prompt[0]")),
        ({}, (400, "missing_required_parameter", "prompt")),
        ({"prompt": "a", "messages": []}, (400, "unknown_parameter", "messages")),
        ({"prompt": "a", "echo": True}, (400, "unsupported_parameter", "echo")),
        (
            {"prompt": "a", "max_tokens": 64, "best_of": 2},
            (400, "unsupported_parameter", "best_of"),
        ),
        ({"prompt": ["a"] * 64, "n": 8}, (400, "invalid_value", "n")),
    ],
)
def test_a_completion_that_cannot_be_answered_rightly_is_refused(held, body, told):
    assert error_of(held.post(PLAIN, **body)) == told


OTHER = {
    "logprobs": True,
    "tools": [{"type": "function"}],
    "response_format": {"type": "json_object"},
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_would_not_be_honoured_is_refused_and_what_asks_for_nothing_is_not(held, name):
    for nothing in (None, *NEUTRAL[name]):
        assert held.chat(max_tokens=1, **{name: nothing}).status_code == 200
    reply = held.chat(**{name: OTHER.get(name, "much")})
    assert error_of(reply) == (400, "unsupported_parameter", name)


def test_harmless_fields_are_taken(held):
    assert held.chat(max_tokens=1, **dict.fromkeys(HARMLESS, "x")).status_code == 200


def test_zero_is_no_false_and_false_no_zero(held):
    assert error_of(held.chat(logprobs=0))[1] == "unsupported_parameter"
    assert error_of(held.chat(frequency_penalty=False))[1] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"{", "application/json", "invalid_json"),
        (b"[]", "application/json", "invalid_json"),
        (b"", "application/json", "invalid_json"),
        (b"\xff\xfe", "application/json", "invalid_json"),
        (b"[" * 100_000, "application/json", "invalid_json"),
        (b'{"messages": [{"role":"user","content":"a"}]}', "text/plain", "invalid_json"),
        (b'{"prompt": "\\ud800", "messages": []}', "application/json", "invalid_json"),
        (
            b'{"messages": [{"role":"user","content":"\\uD800"}]}',
            "application/json",
            "invalid_json",
        ),
        (
            b'{"steering": {"policy": "\\ud800"}, "messages": [{"role":"user","content":"a"}]}',
            "application/json",
            "invalid_json",
        ),
        (
            b'{"messages": [{"role":"user","content":"\xed\xa0\x80"}]}',
            "application/json",
            "invalid_json",
        ),
        (
            '{"messages": [{"role":"user","content":"\ud800"}]}'.encode(
                "utf-16-le", "surrogatepass"
            ),
            "application/json",
            "invalid_json",
        ),
        (
            b'{"temperature": NaN, "messages": [{"role":"user","content":"a"}]}',
            "application/json",
            "invalid_value",
        ),
        (b'{"\\ud800": 1, "messages": []}', "application/json", "invalid_json"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "application/json", "invalid_json"),
    ],
)
def test_a_body_that_is_none_is_refused(held, content, kind, code):
    reply = held.call("POST", CHAT, content=content, headers={"content-type": kind})
    assert error_of(reply)[:2] == (400, code)


def test_bodies_are_read_in_a_thread_and_no_further_than_the_first_error(held, monkeypatch):
    asked = []

    def nearest(name, _):
        asked.append((name, threading.current_thread()))
        return ""

    monkeypatch.setattr(schema, "nearest", nearest)
    messages = [{"role": "user", "content": "a", f"field{i}": 1} for i in range(500)]
    assert error_of(held.post(messages=messages))[1:] == (
        "unknown_parameter",
        "messages[0].field0",
    )
    ((name, thread),) = asked
    assert name == "field0" and thread is not threading.main_thread()


def test_characters_of_two_halves_are_taken(held):
    whole = json.dumps({"messages": user("\N{GRINNING FACE}"), "max_tokens": 1})
    for content in (whole.encode(), whole.encode("utf-16")):
        reply = held.call(
            "POST", CHAT, content=content, headers={"content-type": "application/json"}
        )
        assert reply.status_code == 200


def test_the_tokens_of_an_image_are_steered_where_there_is_one(held):
    reply = held.chat(shown("a", picture()), steering={"policy": "push", "scope": "image"})
    assert reply.json()["steering"]["tokens_written"] > 0


def test_whatever_a_decoder_says_of_an_image_the_image_is_refused(held, monkeypatch):
    def broken(_):
        raise TypeError("unsupported operand")

    monkeypatch.setattr(images, "open_image", broken)
    assert error_of(held.chat(shown("a", picture()))) == (400, "invalid_image", IMAGE)


def test_what_a_processor_refuses_is_not_shown(held):
    said = held.chat("is there <image> a cup ?").json()["error"]["message"]
    assert "processor refuses" in said and "cup" not in said and "Processor" not in said


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        ("GET", "/nothing", (404, "not_found", None)),
        ("GET", "/docs", (404, "not_found", None)),
        ("GET", CHAT, (405, "method_not_allowed", None)),
        ("GET", "/v1/models/other", (404, "model_not_found", "model")),
        ("POST", "/v1/steering/policies", (403, "E_ADMIN", None)),
        ("DELETE", "/v1/steering/policies/push", (403, "E_ADMIN", None)),
    ],
)
def test_errors_of_the_router_have_openais_shape(held, method, path, told):
    assert error_of(held.call(method, path, json={})) == told


def test_no_message_has_what_was_asked_or_where_files_are(held, tmp_path):
    words = "xyzzy secret words"
    for more in ({"max_tokens": 0}, {"n": 99}, {"messages": user(words) * 2 + [{"role": "x"}]}):
        body = {"messages": user(words), **more}
        assert words not in held.post(**body).text and str(tmp_path) not in held.post(**body).text


def test_policies_are_loaded_and_unloaded_by_an_admin_only_from_the_folder(tmp_path):
    admin = {"X-Admin-Key": "admin"}
    with Held(shelf_of(tmp_path, "push"), admin_keys=("admin",)) as held:
        put(tmp_path, "pull")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "steersman.json").write_text("{}")
        assert error_of(held.chat(steering={"policy": "pull"}))[1] == "E_UNKNOWN_POLICY"
        listed = held.call("GET", "/v1/steering/policies").json()["data"]
        assert [(p["id"], p["served"]) for p in listed] == [
            *(("broken", False), ("pull", False), ("push", True)),
        ]
        assert str(tmp_path) not in json.dumps(listed)
        body = {"id": "pull"}
        made = held.call("POST", "/v1/steering/policies", json=body, headers=admin)
        assert made.status_code == 200 and made.json()["digest"] == held.shelf["pull"].digest
        assert held.chat(steering={"policy": "pull"}).json()["steering"]["tokens_written"]
        for name in ("broken", "../push", "none"):
            reply = held.call("POST", "/v1/steering/policies", json={"id": name}, headers=admin)
            assert reply.status_code in (400, 404) and str(tmp_path) not in reply.text
        reply = held.call("DELETE", "/v1/steering/policies/pull", headers=admin)
        assert reply.status_code == 200
        assert error_of(held.chat(steering={"policy": "pull"}))[1] == "E_UNKNOWN_POLICY"


def test_the_policy_that_steers_by_default_is_not_unloaded(tmp_path):
    with Held(shelf_of(tmp_path, "push"), admin_keys=("admin",), default_policy="push") as held:
        path = "/v1/steering/policies/push"
        reply = held.call("DELETE", path, headers={"X-Admin-Key": "admin"})
        assert error_of(reply)[:2] == (400, "E_DEFAULT_POLICY")


def test_a_policy_whose_vectors_no_request_can_bring_is_not_served(tmp_path):
    put(tmp_path, "given", given_policy())
    with pytest.raises(RefusedError, match="takes its vector from each request"):
        shelf_of(tmp_path, "push")


def test_a_policy_of_another_model_is_not_served(tmp_path):
    other = tiny.llama()
    save_artifact(Artifact(POLICIES["push"], other.spec), tmp_path / "other")
    with pytest.raises(ArtifactError):
        Shelf(tmp_path, spec=model().spec, accept=accept(model().spec)).open()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    [
        "messages",
        "steering",
        "n",
        "stop",
        "temperature",
        "max_tokens",
        "stream",
        "seed",
        "top_p",
        "stream_options",
        "model",
        "logit_bias",
    ]
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(changes=st.dictionaries(NAMES, JSON, min_size=1, max_size=2))
def test_no_body_makes_the_server_fail(held, changes):
    body = {"messages": user(HARM), "max_tokens": 1, **changes}
    reply = held.call(
        "POST", CHAT, content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert reply.status_code < 500


def test_nothing_that_fits_the_description_makes_the_server_fail(held):
    """Bodies, paths and methods that schemathesis makes of what the server says of itself."""
    described = schemathesis.openapi.from_asgi("/openapi.json", held.app)
    operations = [found.ok() for found in described.get_all_operations()]
    assert {op.path for op in operations} >= {CHAT, PLAIN, "/v1/steering/policies"}

    @settings(
        max_examples=30, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(st.one_of([op.as_strategy() for op in operations]))
    def holds(case):
        if isinstance(case.body, dict) and case.path in (CHAT, PLAIN):
            case.body["max_tokens"] = 1
        assert case.call(app=held.app).status_code < 500

    holds()
