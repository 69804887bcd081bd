"""Keys, limits, images from elsewhere, and what the log may know."""

import asyncio
import io
import json
import logging
import socket
import time

import httpx
import pytest
from PIL import Image

from served import HARM, Held, error_of, listening, shelf_of, shown, user
from steersman.core.errors import RecipeError
from steersman.server import security
from steersman.server.errors import ApiError
from steersman.server.images import ImageRules, allowed, is_public
from steersman.server.logs import JsonLines
from steersman.server.settings import Settings, served_name

CHAT = "/v1/chat/completions"


@pytest.fixture
def shelf(tmp_path):
    return shelf_of(tmp_path, "push")


def bearer(key) -> dict:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_key_nothing_but_health_answers_once_there_are_keys(shelf):
    with Held(shelf, api_keys=("one", "two"), admin_keys=("admin",)) as held:
        for path in ("/v1/models", "/metrics", "/v1/steering/policies", "/openapi.json", "/no"):
            assert error_of(held.call("GET", path))[:2] == (401, "invalid_api_key")
            assert error_of(held.call("GET", path, headers=bearer("three")))[0] == 401
            assert error_of(held.call("GET", path, headers={"Authorization": "one"}))[0] == 401
        assert held.call("GET", "/health").status_code == 200
        for key in ("one", "two", "admin"):
            assert held.call("GET", "/v1/models", headers=bearer(key)).status_code == 200
        remove = ("DELETE", "/v1/steering/policies/push")
        assert error_of(held.call(*remove, headers=bearer("one")))[:2] == (403, "E_ADMIN")
        both = {**bearer("one"), "X-Admin-Key": "admin"}
        assert held.call(*remove, headers=both).status_code == 200


def test_an_admin_key_alone_locks_nobody_out(shelf):
    with Held(shelf, admin_keys=("admin",)) as held:
        assert held.call("GET", "/v1/models").status_code == 200


def test_keys_are_compared_to_their_end(monkeypatch):
    compared = []
    real = security.hmac.compare_digest
    monkeypatch.setattr(
        security.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b)
    )
    keys = security.Keys(["one", "two", "three"])
    assert keys.holds("one") and not keys.holds("on") and not keys.holds("\udcff")
    assert len(compared) == 9


def test_a_body_that_is_too_large_is_refused_before_it_is_read(shelf):
    with Held(shelf, max_body=1000) as held:
        reply = held.post(messages=user("a" * 1000))
        assert error_of(reply)[:2] == (413, "body_too_large")
        assert held.chat().status_code == 200


def test_a_body_in_chunks_is_refused_as_soon_as_it_is_too_large(shelf):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield b"a" * 100

    with Held(shelf, max_body=1000) as held:
        headers = {"content-type": "application/json"}
        reply = held.call("POST", CHAT, content=endless(), headers=headers)
        assert error_of(reply)[:2] == (413, "body_too_large")
        headers = {"X-Admin-Key": "a"}
        assert held.call("POST", "/v1/steering/policies", content=b"", headers=headers)
    assert sent < 20


def test_a_client_that_sends_too_slowly_is_told_so(shelf, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.2)
    with Held(shelf) as held, listening(held.app) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr(security, "SEND_SECONDS", 0.1)
    scope = {"type": "http", "headers": [], "path": "/", "state": {"told": {}}}

    async def app(scope, receive, send):
        await send({"type": "http.response.body", "body": b"a", "more_body": True})

    async def stuck(message):
        await asyncio.sleep(10)

    began = time.monotonic()
    asyncio.run(security.BodyLimit(app, 10)(scope, None, stuck))
    assert time.monotonic() - began < 5 and scope["state"]["told"] == {"error": "slow_client"}


@pytest.mark.parametrize(
    "more",
    [
        {"max_batch": 0}, {"max_queue": 0}, {"max_body": 0}, {"max_image_pixels": 0},
        {"max_new_tokens": 0}, {"max_prompt_tokens": 0}, {"timeout": 0}, {"timeout": float("nan")},
        {"grace": float("inf")}, {"port": -1}, {"port": 65536}, {"api_keys": ("",)},
        {"admin_keys": (" a",)}, {"api_keys": ("é",)}, {"image_hosts": ("http://a",)},
        {"image_hosts": ("*",)},
    ],
)  # fmt: skip
def test_settings_that_cannot_hold_are_refused(more):
    with pytest.raises(RecipeError, match="--|key"):
        Settings(**more)


def test_a_server_that_all_can_reach_without_a_key_is_called_open():
    assert Settings(host="0.0.0.0").is_open and Settings(host="example.org").is_open
    assert not Settings(host="0.0.0.0", api_keys=("a",)).is_open
    assert not any(Settings(host=h).is_open for h in ("127.0.0.1", "::1", "localhost"))


def test_clients_see_the_name_of_a_folder_and_not_where_it_is(tmp_path):
    (tmp_path / "mine").mkdir()
    assert served_name(str(tmp_path / "mine")) == "mine"
    assert served_name("Qwen/Qwen2-VL-7B-Instruct") == "Qwen/Qwen2-VL-7B-Instruct"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "::1",
     "100.64.0.1", "224.0.0.1", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::a00:1",
     "2002:7f00:1::", "255.255.255.255"],
)  # fmt: skip
def test_addresses_inside_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are(address):
    assert is_public(address)


def test_hosts_are_allowed_by_name_or_by_domain():
    hosts = ("images.example.org", "*.example.com")
    good = ("images.example.org", "IMAGES.example.org.", "a.example.com", "a.b.example.com")
    assert all(allowed(host, hosts) for host in good)
    bad = ("example.org", "example.com", "badexample.com", "a.images.example.org", "")
    assert not any(allowed(host, hosts) for host in bad)


def png(color="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "PNG")
    return file.getvalue()


class Web:
    """Hosts with addresses, and what they answer."""

    def __init__(self, answers, names=None):
        self.answers, self.asked = answers, []
        self.names = {"a.example": ["93.184.216.34"], "in.example": ["10.0.0.1"], **(names or {})}

    async def resolve(self, host, port):
        if host not in self.names:
            raise socket.gaierror("unknown")
        return self.names[host]

    async def answer(self, request):
        name = request.headers["host"]
        self.asked.append((str(request.url), name, request.extensions.get("sni_hostname")))
        return self.answers[name + request.url.path]

    def rules(self, *hosts, max_bytes=10_000) -> ImageRules:
        transport = httpx.MockTransport(self.answer)
        return ImageRules(10_000, max_bytes, hosts, self.resolve, transport)

    def read(self, url, *hosts, **more):
        return asyncio.run(self.rules(*hosts, **more).read(url, "here"))


def moved(where) -> httpx.Response:
    return httpx.Response(302, headers={"location": where})


def test_an_image_is_fetched_from_the_address_that_was_looked_at():
    web = Web({"a.example/a.png": httpx.Response(200, content=png())})
    assert web.read("https://a.example/a.png", "a.example") == png()
    assert web.asked == [("https://93.184.216.34/a.png", "a.example", "a.example")]


def test_a_redirect_is_followed_where_it_is_allowed():
    web = Web({
        "a.example/1": moved("/2"),
        "a.example/2": httpx.Response(200, content=png()),
    })  # fmt: skip
    assert web.read("http://a.example/1", "a.example") == png()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://b.example/", "image_host_not_allowed"),
        ("https://in.example/", "image_host_not_allowed"),
        ("https://both.example/", "image_host_not_allowed"),
        ("https://gone.example/", "image_not_fetched"),
        ("https://a.example/out", "image_host_not_allowed"),
        ("https://a.example/in", "image_host_not_allowed"),
        ("https://a.example/file", "image_host_not_allowed"),
        ("https://a.example/round", "image_not_fetched"),
        ("https://a.example/large", "image_too_large"),
        ("https://a.example/404", "image_not_fetched"),
        ("https://user@b.example/", "image_host_not_allowed"),
        ("http://a.example:99999/", "image_host_not_allowed"),
        ("http://a.example:22/", "image_host_not_allowed"),
        ("http://a.example:x/", "invalid_image_url"),
        ("https://a.example/odd", "image_not_fetched"),
        ("ftp://a.example/", "invalid_image_url"),
    ],
)
def test_nothing_is_fetched_from_elsewhere(url, code):
    names = {"both.example": ["93.184.216.34", "127.0.0.1"]}
    web = Web({
        "a.example/out": moved("https://b.example/"),
        "a.example/in": moved("http://in.example/"),
        "a.example/file": moved("file:///etc/passwd"),
        "a.example/round": moved("/round"),
        "a.example/large": httpx.Response(200, content=b"a" * 10_001),
        "a.example/odd": moved("http://[::1/"),
        "a.example/404": httpx.Response(404),
    }, names)  # fmt: skip
    hosts = ("a.example", "in.example", "both.example", "gone.example")
    with pytest.raises(ApiError) as raised:
        web.read(url, *hosts)
    assert (raised.value.status, raised.value.code) == (400, code)
    assert not any("in.example" in name for _, name, _ in web.asked)


def test_a_request_may_show_an_image_of_an_allowed_host(shelf):
    web = Web({"a.example/a.png": httpx.Response(200, content=png())})
    images = web.rules("a.example")
    with Held(shelf, images=images) as held:
        asked = shown("what is in the image ?", "http://a.example/a.png")
        assert held.chat(asked).json()["usage"]["prompt_tokens"] > 20


def lines(held, caplog, private=True) -> list[dict]:
    formatted = [JsonLines(private=private).format(record) for record in caplog.records]
    return [json.loads(line) for line in formatted]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_log_has_one_line_a_request_and_no_prompt_unless_it_is_wanted(shelf, caplog, wanted):
    caplog.set_level(logging.INFO, "steersman.server")
    with Held(shelf, log_prompts=wanted) as held:
        for stream in (False, True):
            reply = held.chat(steering={"policy": "push"}, stream=stream)
        name = reply.headers["x-request-id"]
        held.call("GET", "/health")
    told = lines(held, caplog)
    assert len(told) == 2
    for line in told:
        assert (line["policy"], line["strength"], line["gate"]) == ("push", 1.0, 1.0)
        assert line["status"] == 200 and line["tokens"] > 0 and line["prompt_tokens"] == 13
        assert (HARM in json.dumps(line)) == wanted and ("answers" in line) == wanted
    assert told[-1]["id"] == name


def test_the_log_tells_where_something_failed_and_not_what_it_said(shelf, caplog):
    def fails(requests, **_):
        raise ValueError("could not read: " + requests[0].prompt.text)

    caplog.set_level(logging.INFO, "steersman.server")
    with Held(shelf, generate=fails) as held:
        assert held.chat().status_code == 500
    failed, request = lines(held, caplog)
    assert failed["exception"]["type"] == "ValueError" and failed["exception"]["frames"]
    assert HARM not in json.dumps([failed, request])
    assert (request["status"], request["error"]) == (500, "internal_error")
    assert HARM in lines(held, caplog, private=False)[0]["exception"]["message"]


def test_what_nobody_foresaw_is_an_error_of_openais_shape_with_an_id(shelf, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "steersman.server")
    with Held(shelf) as held:
        monkeypatch.setattr(held.desk, "steering", lambda _: {}["/secret/path"])
        reply = held.chat()
        assert error_of(reply) == (500, "internal_error", None) and "secret" not in reply.text
        assert lines(held, caplog)[-1]["id"] == reply.headers["x-request-id"]
        assert held.call("GET", "/health").status_code == 200
    assert "secret" not in json.dumps(lines(held, caplog))


def test_a_name_that_a_client_gives_its_request_is_kept_if_it_is_one(shelf):
    with Held(shelf) as held:
        for given, kept in (("abc-1", True), ("a b", False), ("a" * 65, False)):
            reply = held.call("GET", "/v1/models", headers={"x-request-id": given})
            assert (reply.headers["x-request-id"] == given) == kept


def test_metrics_count_failures_of_the_policy_that_steers_by_default(shelf):
    def fails(requests, **_):
        raise ValueError

    with Held(shelf, generate=fails, default_policy="push") as held:
        assert held.chat().status_code == 500
        assert held.chat(max_tokens=100_000).status_code == 400
        assert held.chat(steering=None).status_code == 500
        told = held.call("GET", "/metrics").text
    for outcome in ("failed", "refused"):
        assert f'steersman_requests_total{{outcome="{outcome}",policy="push"}} 1.0' in told
    assert 'policy="-"' not in told


def test_metrics_count_what_was_steered(shelf):
    with Held(shelf) as held:
        held.chat(steering={"policy": "push"})
        held.chat(steering={"policy": "push", "shadow": True})
        held.chat(steering={"policy": "push", "strength": 0})
        held.chat(steering={"policy": "push", "scope": "x"})
        held.chat(steering={"policy": "someone's"})
        held.chat()
        told = held.call("GET", "/metrics").text
    for outcome, policy in (
        *(("steered", "push"), ("shadow", "push"), ("strength_zero", "push")),
        *(("refused", "push"), ("refused", "-")),
    ):
        line = f'steersman_requests_total{{outcome="{outcome}",policy="{policy}"}} 1.0'
        assert line in told
    assert "someone" not in told
