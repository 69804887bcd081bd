import asyncio
import json
import socket
import threading
import time
from argparse import Namespace

import openai
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretend_vllm import Engine, Server, call, put_policy, stream
from steersman.core.errors import RecipeError, SteersmanError
from steersman.core.types import Read, Site
from steersman.gates.prober import ProberGate
from steersman.server.metrics import ServingMetrics
from steersman.server.policy_routes import EngineError
from steersman.server.vllm_front import Plugin

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LIST = "/v1/steering/policies"
ASKED = {"policy": "calm"}
ADMIN = {"X-Admin-Key": "secret"}
LENIENT = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERSMAN_ADMIN_KEY", "secret")
    for name in ("calm", "kind"):
        put_policy(tmp_path, name)
    return tmp_path


@pytest.fixture
def server(folder):
    return Server(Engine(folder), folder)


def chat(**more):
    return {"model": "m", "messages": [{"role": "user", "content": "hé"}], **more}


def counted(server, outcome, policy="calm"):
    labels = {"policy": policy, "outcome": outcome}
    return server.metrics.registry.get_sample_value("steersman_requests_total", labels)


def events(reply):
    """The data of every event of a stream, by the rules of server-sent events."""
    blocks = reply.body.decode().replace("\r\n", "\n").split("\n\n")
    data = [line[5:].strip() for b in blocks for line in b.split("\n") if line.startswith("data:")]
    return [d if d == "[DONE]" else json.loads(d) for d in data]


# -- requests


def test_steering_becomes_what_the_engine_reads(server):
    asked = {"policy": "calm", "strength": 2, "scope": "generated", "shadow": False}
    body = chat(steering=asked, vllm_xargs={"other": 1})
    assert call(server.app, CHAT, body).status == 200
    seen, length = server.seen[0]
    given = json.loads(seen["vllm_xargs"].pop("steersman"))
    assert len(given.pop("trace")) == 32
    assert given == {"policy": "calm", "strength": 2.0, "scope": "generated", "shadow": False}
    assert seen == chat(vllm_xargs={"other": 1})
    assert int(length) > len(json.dumps(body)) / 2


def test_every_request_has_a_trace_of_its_own(server):
    for _ in range(3):
        call(server.app, CHAT, chat(steering=ASKED))
    traces = [json.loads(seen["vllm_xargs"]["steersman"])["trace"] for seen, _ in server.seen]
    assert len(set(traces)) == 3


def test_the_length_that_is_announced_is_that_of_the_new_body(server):
    raw = json.dumps(chat(steering=ASKED), indent=4).encode()
    call(server.app, CHAT, raw)
    seen, length = server.seen[0]
    assert int(length) == len(json.dumps(seen, ensure_ascii=False, separators=(",", ":")).encode())


@LENIENT
@given(pieces=st.integers(1, 400))
def test_a_body_may_come_in_any_pieces(server, pieces):
    server.seen.clear()
    assert call(server.app, CHAT, chat(steering=ASKED), pieces=pieces).json["steering"]
    assert server.seen[0][0]["messages"] == chat()["messages"]


def test_a_request_without_steering_reaches_vllm_byte_by_byte(folder):
    server, raws = Server(Engine(folder), folder), []

    async def keep(request):
        raws.append(await request.body())

    server.after = keep
    for raw in (b'{ "messages": [],  "x": 1.50 }', json.dumps(chat(user="steersman")).encode()):
        reply = call(server.app, CHAT, raw)
        assert "steering" not in reply.json and raws.pop() == raw
    assert len(server.engine.calls) == 1  # when it started


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"steering"', b"\xff steer", b"[" * 100_000])
def test_a_body_that_is_no_object_is_left_to_vllm(server, body):
    def passed():
        try:
            return call(server.app, CHAT, body).status
        except (AttributeError, RecursionError):  # of the pretended route: no dict
            return 400

    assert passed() == 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_no_encoding_hides_a_policy(server, encoding):
    raw = json.dumps(chat(steering={"policy": "wrong"})).encode(encoding)
    assert call(server.app, CHAT, raw).code == "E_UNKNOWN_POLICY"
    hidden = rb'{"messages": [], "\u0073teering": {"policy": "wrong"}}'
    assert call(server.app, CHAT, hidden).code == "E_UNKNOWN_POLICY"


@pytest.mark.parametrize(
    "steering, code, said",
    [
        ({"policy": "clam"}, "E_UNKNOWN_POLICY", "Did you mean 'calm'?"),
        ({"policy": "calm", "strenght": 1}, "E_UNKNOWN_FIELD", "Did you mean 'strength'?"),
        ({"policy": "calm", "strength": "2"}, "E_STRENGTH", "give a number"),
        ({"policy": "calm", "scope": "al"}, "E_SCOPE", "Did you mean 'all'?"),
        ({"policy": "calm", "shadow": 1}, "E_STEERING", "true or false"),
        ({"policy": "calm", "trace": "mine"}, "E_UNKNOWN_FIELD", "'trace'"),
        ("calm", "E_STEERING", "give an object"),
        ({}, "E_STEERING", "id of a policy"),
        ([], "E_STEERING", "give an object"),
        (False, "E_STEERING", "give an object"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_cannot_be_is_refused_before_vllm_sees_it(server, steering, code, said, path):
    reply = call(server.app, path, chat(steering=steering))
    error = reply.json["error"]
    assert (reply.status, error["code"], error["param"]) == (400, code, "steering")
    assert said in error["message"] and error["type"] == "invalid_request_error"
    assert server.seen == []


def test_a_scope_that_vllm_cannot_have_is_refused_before_it_sees_it(server, folder):
    weights = {
        "mean": 0.0,
        "scale": 1.0,
        "weight1": 0.0,
        "bias1": 0.0,
        "weight2": 0.0,
        "bias2": 0.0,
    }
    shapes = {"weight1": (1, 4), "bias1": (1,), "weight2": (1,), "bias2": (1,)}
    filled = {n: torch.full(shapes.get(n, (4,)), value) for n, value in weights.items()}
    put_policy(folder, "gated", gate=ProberGate(read=Read(Site(0)), **filled))
    call(server.app, LIST, {"id": "gated"}, headers=ADMIN)
    asked = {"policy": "gated", "scope": "all"}
    reply = call(server.app, CHAT, chat(steering=asked))
    assert (reply.status, reply.code) == (400, "E_SCOPE_NEEDS_PROBE")
    assert server.seen == []
    assert call(server.app, CHAT, chat(steering={**asked, "strength": 0})).status == 200
    assert call(server.app, CHAT, chat(steering={"policy": "gated"})).status == 200


def test_a_clients_own_xargs_are_read_as_the_field_is(server):
    own = json.dumps({"policy": "kind", "strength": 0.5, "trace": "mine"})
    reply = call(server.app, CHAT, chat(vllm_xargs={"steersman": own}))
    assert reply.json["steering"]["policy"] == "kind"
    assert json.loads(server.seen[0][0]["vllm_xargs"]["steersman"])["trace"] != "mine"
    for wrong, code in (
        ('{"policy": "x"}', "E_UNKNOWN_POLICY"),
        ("{", "E_STEERING"),
        (3, "E_STEERING"),
    ):
        assert call(server.app, CHAT, chat(vllm_xargs={"steersman": wrong})).code == code
    twice = chat(vllm_xargs={"steersman": own}, steering=ASKED)
    assert call(server.app, CHAT, twice).code == "E_STEERING"


def test_beam_search_is_refused_for_what_is_steered_only(server):
    assert call(server.app, CHAT, chat(use_beam_search=True)).status == 200
    reply = call(server.app, CHAT, chat(use_beam_search=True, steering=ASKED))
    assert reply.code == "E_BEAM_SEARCH"


def test_routes_that_do_not_read_the_field_refuse_it(server):
    reply = call(server.app, "/v1/responses", {"input": "a", "steering": ASKED})
    assert (reply.status, reply.code) == (400, "E_ENDPOINT")
    assert call(server.app, "/v1/responses", {"input": "the steering wheel"}).status == 200
    assert call(server.app, "/tokenize", {"steering": ASKED}).status == 200  # writes nothing


def test_a_body_that_is_too_large_is_not_read(folder):
    server = Server(Engine(folder), folder, max_body=1000)
    announced = call(server.app, CHAT, chat(user="u" * 2000))
    assert (announced.status, announced.code) == (413, "body_too_large")
    told_wrong = call(server.app, CHAT, b"x" * 2000, headers={"Content-Length": "5"}, pieces=9)
    assert told_wrong.status == 413
    assert server.seen == []


def test_a_client_that_leaves_while_it_sends_is_not_answered(server):
    async def gone():
        return {"type": "http.disconnect"}

    got = []
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "root_path": ""}
    asyncio.run(server.app(scope, gone, got.append))
    assert got == [] and server.seen == []


def test_vllm_is_told_when_the_client_leaves(server):
    heard = []

    async def listen(request):
        heard.append((await request.receive())["type"])

    server.after = listen
    call(server.app, CHAT, chat(steering=ASKED), leave=True)
    call(server.app, CHAT, chat(), leave=True)
    assert heard == ["http.disconnect"] * 2


# -- answers


def test_the_answer_says_how_it_was_steered(server):
    reply = call(server.app, CHAT, chat(steering={"policy": "calm", "strength": 2}))
    told = reply.json["steering"]
    assert (told["policy"], told["gate"], told["tokens_written"]) == ("calm", 1.0, 1)
    assert set(told["steerers"]) == {"s"} and "request" not in told
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert reply.headers["x-own"] == "kept" and "é" in reply.body.decode()
    assert counted(server, "steered") == 1


def test_strength_zero_is_told_without_asking_the_workers(server):
    reply = call(server.app, CHAT, chat(steering={"policy": "calm", "strength": 0}))
    assert reply.json["steering"]["reason"] == "strength is 0"
    assert counted(server, "strength_zero") == 1
    assert not [c for c in server.engine.calls if c[0] == "trace"]


def test_every_choice_has_its_own(server):
    reply = call(server.app, CHAT, chat(steering=ASKED, n=3))
    written = [c["steering"]["tokens_written"] for c in reply.json["choices"]]
    assert written == [1, 2, 3] and reply.json["steering"]["tokens_written"] == 1


def test_every_choice_of_every_prompt_has_its_own(server):
    body = {"model": "m", "prompt": ["a", "b"], "n": 2, "steering": ASKED}
    reply = call(server.app, TEXT, body)
    assert [c["steering"]["tokens_written"] for c in reply.json["choices"]] == [1, 2, 3, 4]
    ids = {"model": "m", "prompt": [5, 6, 7], "steering": ASKED}
    assert "steering" not in call(server.app, TEXT, {**ids, "n": 1}).json["choices"][0]


def test_traces_belong_to_choices_whatever_their_order(server):
    steer = server.engine.steer

    def backwards(body, requests):
        steer(body, requests)
        for worker in server.engine.workers:
            for found in worker.traces.values():
                found.reverse()

    server.engine.steer = backwards
    for path, body in ((CHAT, chat(n=3)), (TEXT, {"prompt": ["a", "b", "c"]})):
        reply = call(server.app, path, {**body, "steering": ASKED})
        assert [c["steering"]["tokens_written"] for c in reply.json["choices"]] == [1, 2, 3]


def test_a_trace_of_an_unknown_request_is_nobodys(server):
    steer = server.engine.steer
    server.engine.steer = lambda body, requests: steer(body, ["chatcmpl-other", *requests[1:]])
    reply = call(server.app, CHAT, chat(steering=ASKED, n=2))
    assert (reply.status, reply.code) == (500, "E_NO_TRACE")


def test_several_workers_tell_the_same_once(folder):
    server = Server(Engine(folder, workers=2), folder)
    reply = call(server.app, CHAT, chat(steering=ASKED))
    assert reply.json["steering"]["tokens_written"] == 1


def test_an_answer_without_a_trace_is_an_error(server):
    server.traced = False
    reply = call(server.app, CHAT, chat(steering=ASKED))
    assert (reply.status, reply.code) == (500, "E_NO_TRACE")
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert counted(server, "failed") == 1


def not_steered(server):
    trace = [{"error": {"code": "not_steered", "message": "nothing was written"}}]

    def steer(body, requests):
        said = json.loads(body["vllm_xargs"]["steersman"])
        server.engine.workers[0].traces[said["trace"]] = trace

    server.engine.steer = steer


def test_steering_that_did_not_act_is_an_error(server):
    not_steered(server)
    reply = call(server.app, CHAT, chat(steering=ASKED))
    assert (reply.status, reply.code) == (500, "not_steered")
    assert reply.json["error"]["type"] == "server_error"


def test_a_dead_engine_is_an_error(server):
    server.engine.broken = True
    assert call(server.app, CHAT, chat(steering=ASKED)).code == "E_ENGINE"
    server.engine.broken, server.engine.errored, server.engine.slow = False, True, 9.0
    began = time.monotonic()
    assert call(server.app, CHAT, chat(steering=ASKED)).code == "E_ENGINE"
    assert time.monotonic() - began < 5
    unsteered = call(server.app, CHAT, chat())
    assert unsteered.status == 200


@pytest.mark.parametrize("model, status, code", [("unknown", 404, 404), ("lora", 400, "E_LORA")])
def test_errors_of_vllm_pass_with_the_codes_of_steering(server, model, status, code):
    reply = call(server.app, CHAT, {**chat(steering=ASKED), "model": model})
    assert (reply.status, reply.code) == (status, code)
    assert int(reply.headers["content-length"]) == len(reply.body)
    assert counted(server, "refused") == 1


def test_an_exception_in_vllm_goes_its_way(server):
    with pytest.raises(ArithmeticError):
        call(server.app, CHAT, {**chat(steering=ASKED), "model": "boom"})
    assert counted(server, "failed") == 1


# -- streams


def test_a_stream_tells_with_the_finish_reason(server):
    reply = call(server.app, CHAT, chat(stream=True, steering=ASKED))
    made = events(reply)
    told = [e["steering"] for e in made[:-1] if "steering" in e]
    assert len(told) == 1 and told[0]["tokens_written"] == 1
    assert made[3]["choices"][0]["finish_reason"] == "stop" and made[3]["steering"] == told[0]
    assert made[-1] == "[DONE]" and made[-2]["usage"]
    assert "content-length" not in reply.headers
    assert counted(server, "steered") == 1


def test_events_pass_when_they_come(server):
    reply = call(server.app, CHAT, chat(stream=True, steering=ASKED))
    whole = stream("chatcmpl-x", 1)
    assert reply.pieces[: len(whole)][:3] == whole[:3]
    assert len([p for p in reply.pieces if p]) == len(whole)


@LENIENT
@given(data=st.data())
def test_a_stream_may_be_cut_anywhere(server, data):
    num = data.draw(st.integers(1, 3))
    end = data.draw(st.sampled_from([b"\n", b"\r\n"]))
    whole = [b": keep-alive\n\n", *stream("chatcmpl-x", num), b": bye\n\n"]
    raw = b"".join(whole).replace(b"\n", end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=9)))
    server.pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    reply = call(server.app, CHAT, chat(stream=True, steering=ASKED, n=num))
    made, plain = events(reply), [json.loads(e[6:]) for e in stream("chatcmpl-x", num)[:-1]]
    assert made.pop() == "[DONE]"
    told = [(e["choices"][0]["index"], e.pop("steering")["tokens_written"])
            for e in made if "steering" in e]  # fmt: skip
    for event in made:
        for choice in event["choices"]:
            choice.pop("steering", None)
    assert made == plain and told == [(i, i + 1) for i in range(num)]
    assert reply.body.count(b": keep-alive") == reply.body.count(b": bye") == 1


def event(index, reason=None, text=""):
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
    return f"data: {json.dumps({'id': 'chatcmpl-x', 'choices': [choice]})}\n\n".encode()


def test_choices_of_a_stream_tell_once_the_last_has_ended(server):
    """The workers tell of a request once, and do not know whether it has ended."""
    server.pieces = [event(0, "stop"), event(1, text="b"), event(1, "length"), b"data: [DONE]\n\n"]
    made = events(call(server.app, CHAT, chat(stream=True, steering=ASKED, n=2)))
    ends = [(e["choices"][0]["index"], e["steering"]["tokens_written"]) for e in made[1:3]]
    assert made[0]["choices"][0]["delta"]["content"] == "b" and ends == [(0, 1), (1, 2)]
    assert [e["choices"][0]["steering"] for e in made[1:3]] == [e["steering"] for e in made[1:3]]
    assert len([c for c in server.engine.calls if c[0] == "trace"]) == 1


@pytest.mark.parametrize("done", [True, False])
def test_a_choice_that_never_ends_holds_nothing_back(server, done):
    server.pieces = [event(0, "stop"), *([b"data: [DONE]\n\n"] if done else [])]
    made = events(call(server.app, CHAT, chat(stream=True, steering=ASKED, n=2)))
    assert made[0]["steering"]["tokens_written"] == 1 and made[1:] == ["[DONE]"] * done


def test_a_stream_that_ends_without_a_blank_line_still_tells(server):
    last = stream("chatcmpl-x", 1, usage=False)[3]
    server.pieces = [b"data: {}\n\n", last.rstrip()]
    assert events(call(server.app, CHAT, chat(stream=True, steering=ASKED)))[-1]["steering"]


def test_a_stream_that_was_not_steered_ends_with_an_error(server):
    not_steered(server)
    reply = call(server.app, CHAT, chat(stream=True, steering=ASKED))
    made = events(reply)
    assert made[3] == {"error": {"message": "nothing was written", "type": "server_error",
                                 "param": None, "code": "not_steered"}}  # fmt: skip
    assert made[4:] == ["[DONE]"]
    assert counted(server, "failed") == 1


def test_an_error_that_vllm_streams_passes_and_is_counted(server):
    server.pieces = [b'data: {"error": {"message": "x", "code": 500}}\n\n', b"data: [DONE]\n\n"]
    reply = call(server.app, CHAT, chat(stream=True, steering=ASKED))
    assert reply.body == b"".join(server.pieces) and counted(server, "failed") == 1


def test_odd_events_pass_as_they_are(server):
    odd = [
        b'data: {"finish_reason": "stop"}\n\n',
        b'data: {"choices": 3, "finish_reason": "a"}\n\n',
        b'data: {"choices": [7], "finish_reason": "a"}\n\n',
        b'data: "finish_reason": "\n\n',
        b'data: \xff "finish_reason": "\n\n',
    ]
    server.pieces = odd
    assert call(server.app, CHAT, chat(stream=True, steering=ASKED)).body == b"".join(odd)


# -- the default policy


@pytest.fixture
def defaulted(folder):
    return Server(Engine(folder, default="kind"), folder, default_policy="kind")


def test_a_default_policy_steers_requests_without_the_field(defaulted):
    assert call(defaulted.app, CHAT, chat()).json["steering"]["policy"] == "kind"
    assert call(defaulted.app, CHAT, chat(steering=ASKED)).json["steering"]["policy"] == "calm"


def test_null_asks_for_no_steering_even_then(defaulted):
    assert call(defaulted.app, CHAT, chat(steering=None)).json["steering"] is None
    given = json.loads(defaulted.seen[0][0]["vllm_xargs"]["steersman"])
    assert (given["policy"], given["strength"]) == ("kind", 0.0)
    events_of = events(call(defaulted.app, CHAT, chat(steering=None, stream=True)))
    assert [e["steering"] for e in events_of[:-1] if "steering" in e] == [None]


def test_a_default_policy_must_be_there_and_stays(folder, defaulted):
    with pytest.raises(SteersmanError, match="clam"):
        Server(Engine(folder), folder, default_policy="clam")
    reply = call(defaulted.app, LIST + "/kind", method="DELETE", headers=ADMIN)
    assert (reply.status, reply.code) == (400, "E_DEFAULT_POLICY")


# -- policies


def test_policies_are_those_of_the_workers_and_of_the_folder(server, folder):
    put_policy(folder, "new")
    (folder / "broken").mkdir()
    (folder / "broken" / "steersman.json").write_text("{")
    listed = {p["id"]: p["served"] for p in call(server.app, LIST, method="GET").json["data"]}
    assert listed == {"calm": True, "kind": True, "new": False, "broken": False}
    able = call(server.app, "/v1/steering/capabilities", method="GET").json
    assert able["engine"] == "vllm" and able["limits"]["max_body"] == 20_000_000


def test_a_policy_is_served_from_when_it_is_loaded(server, folder):
    put_policy(folder, "new")
    assert call(server.app, CHAT, chat(steering={"policy": "new"})).status == 400
    loaded = call(server.app, LIST, {"id": "new"}, headers=ADMIN)
    assert loaded.json["digest"] == server.engine.workers[0].shelf["new"].digest
    assert call(server.app, CHAT, chat(steering={"policy": "new"})).status == 200
    gone = call(server.app, LIST + "/new", method="DELETE", headers=ADMIN).json
    assert (gone["id"], gone["served"]) == ("new", False)
    assert call(server.app, CHAT, chat(steering={"policy": "new"})).code == "E_UNKNOWN_POLICY"
    assert server.metrics.registry.get_sample_value("steersman_policies_loaded") == 2


def test_changing_needs_the_admin_key(server):
    assert call(server.app, LIST, {"id": "calm"}).code == "E_ADMIN"
    assert call(server.app, LIST + "/calm", method="DELETE").code == "E_ADMIN"
    assert not [c for c in server.engine.calls if c[0] in ("load", "unload")]


def test_without_a_key_in_the_environment_nobody_changes_anything(folder, monkeypatch):
    monkeypatch.delenv("STEERSMAN_ADMIN_KEY")
    server = Server(Engine(folder), folder)
    assert call(server.app, LIST, {"id": "calm"}, headers={"X-Admin-Key": ""}).status == 403


def test_a_new_version_replaces_the_old_one_everywhere(server, folder):
    before = server.engine.input_processor._steersman.shelf["calm"].digest
    put_policy(folder, "calm", value=2.0)
    call(server.app, LIST, {"id": "calm"}, headers=ADMIN)
    shelves = [server.engine.input_processor._steersman.shelf, server.engine.workers[0].shelf]
    assert len({s["calm"].digest for s in shelves} - {before}) == 1


@pytest.mark.parametrize("how", ["one refuses", "one differs"])
def test_workers_that_do_not_agree_serve_it_no_longer(folder, tmp_path_factory, how):
    other = tmp_path_factory.mktemp("other")
    for name in ("calm", "kind"):
        put_policy(other, name)
    put_policy(folder, "new")
    server = Server(Engine(folder, workers=2), folder)
    server.engine.workers[1].shelf.root = other
    if how == "one differs":
        put_policy(other, "new", value=9.0)
    reply = call(server.app, LIST, {"id": "new"}, headers=ADMIN)
    assert (reply.status, reply.code) == (503, "E_WORKERS_DIFFER")
    shelves = [server.engine.input_processor._steersman.shelf]
    shelves += [worker.shelf for worker in server.engine.workers]
    assert all("new" not in shelf.ids for shelf in shelves)
    assert call(server.app, CHAT, chat(steering={"policy": "new"})).code == "E_UNKNOWN_POLICY"


def test_a_policy_that_no_worker_takes_leaves_the_old_one(server, folder):
    server.engine.workers[0].shelf.root = folder / "nowhere"
    assert call(server.app, LIST, {"id": "calm"}, headers=ADMIN).code == "E_UNKNOWN_POLICY"
    assert call(server.app, CHAT, chat(steering=ASKED)).status == 200


def test_what_another_server_process_did_holds_here_too(folder, monkeypatch):
    engine = Engine(folder)
    server = Server(engine, folder, processes=2)
    engine.workers[0].shelf.unload("kind")
    asked = chat(steering={"policy": "kind"})
    assert call(server.app, CHAT, asked).status == 200  # asked a moment ago
    monkeypatch.setattr("steersman.server.vllm_host.REFRESH", 0.0)
    assert call(server.app, CHAT, asked).code == "E_UNKNOWN_POLICY"
    engine.workers[0].shelf.load("kind")
    assert call(server.app, CHAT, asked).status == 200


def test_a_policy_that_was_loaded_elsewhere_is_found_when_it_is_named(folder, monkeypatch):
    monkeypatch.setattr("steersman.server.vllm_host.REFRESH", 0.0)
    engine = Engine(folder)
    server = Server(engine, folder)
    put_policy(folder, "late")
    engine.workers[0].shelf.load("late")
    assert call(server.app, CHAT, chat(steering={"policy": "late"})).status == 200


def test_one_process_does_not_ask_the_engine_before_every_request(server, monkeypatch):
    monkeypatch.setattr("steersman.server.vllm_host.REFRESH", 0.0)
    for _ in range(5):
        call(server.app, CHAT, chat(steering=ASKED))
    assert [c[0] for c in server.engine.calls].count("policies") == 1


def test_wrong_names_do_not_flood_the_engine(server):
    for _ in range(20):
        call(server.app, CHAT, chat(steering={"policy": "wrong"}))
    assert len(server.engine.calls) <= 2


def test_the_api_key_guards_our_routes_too(folder):
    server = Server(Engine(folder), folder, api_key="k")
    assert call(server.app, LIST, method="GET").status == 401
    assert call(server.app, LIST, {"id": "calm"}, headers=ADMIN).status == 401
    assert call(server.app, CHAT, chat(steering={"policy": "wrong"})).status == 401
    known = {"Authorization": "Bearer k"}
    assert call(server.app, LIST, method="GET", headers=known).status == 200
    assert call(server.app, LIST, {"id": "calm"}, headers={**ADMIN, **known}).status == 200


# -- the plugin


def test_the_plugin_keeps_vllms_contract():
    made = Plugin(ServingMetrics())
    assert (made.name, made.required_tasks) == ("steersman", ("generate",))
    assert asyncio.iscoroutinefunction(made.init_state)


def test_without_its_configuration_the_plugin_adds_nothing(folder):
    app = FastAPI()
    app.state.args = Namespace(additional_config={}, data_parallel_size=1)
    before = len(app.routes)
    made = Plugin(ServingMetrics())
    made.attach_router(app)
    asyncio.run(made.init_state(Engine(folder), app.state, app.state.args))
    assert len(app.routes) == before and app.user_middleware == []


def attach(folder, **args):
    app = FastAPI()
    config = {"steersman": {"policies": str(folder)}}
    app.state.args = Namespace(additional_config=config, **args)
    Plugin(ServingMetrics()).attach_router(app)


def test_replicas_behind_one_server_are_refused(folder):
    with pytest.raises(RecipeError, match="data_parallel_size is 2"):
        attach(folder, data_parallel_size=2, data_parallel_external_lb=False)
    attach(folder, data_parallel_size=2, data_parallel_external_lb=True)


def test_an_engine_without_the_general_plugin_is_refused(folder):
    engine = Engine(folder)
    engine.input_processor._steersman = None
    with pytest.raises(EngineError, match="VLLM_PLUGINS"):
        Server(engine, folder)


# -- over HTTP


@pytest.fixture
def url(server):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    config = uvicorn.Config(server.app, log_level="critical", lifespan="off", ws="none")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [sock]})
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    running.should_exit = True
    thread.join()
    sock.close()


def test_the_official_client_is_answered(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        ask = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
        made = client.chat.completions.create(**ask, extra_body={"steering": ASKED})
        assert made.steering["tokens_written"] == 1
        with client.chat.completions.create(
            **ask, stream=True, extra_body={"steering": ASKED}
        ) as chunks:
            told = [c.steering for c in chunks if hasattr(c, "steering")]
        assert [t["policy"] for t in told] == ["calm"]
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**ask, extra_body={"steering": {"policy": "clam"}})
        assert refused.value.code == "E_UNKNOWN_POLICY" and "calm" in str(refused.value)


def test_a_stream_is_read_while_it_is_written(server, url):
    written, may_end = [], threading.Event()

    async def pieces():
        for piece in stream("chatcmpl-x", 1):
            while len(written) >= 2 and not may_end.is_set():
                await asyncio.sleep(0.01)
            written.append(piece)
            yield piece

    async def hold(request):
        server.pieces = pieces()

    server.after = hold

    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        body = {"model": "m", "messages": [], "stream": True, "extra_body": {"steering": ASKED}}
        with client.chat.completions.create(**body) as chunks:
            first = next(iter(chunks))
            assert first.choices[0].delta.content == "a" and len(written) <= 2
            may_end.set()
            assert [c.steering["policy"] for c in chunks if hasattr(c, "steering")] == ["calm"]
