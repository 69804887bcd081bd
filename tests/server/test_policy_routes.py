import json
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretend_vllm import call, put_policy
from steersman.core.errors import ArtifactError, ModelMismatchError
from steersman.core.shelf import Shelf
from steersman.server.policy_routes import (
    EngineError,
    add_policy_routes,
    describe,
    without_paths,
)

LIST, ABLE = "/v1/steering/policies", "/v1/steering/capabilities"
ADMIN = {"X-Admin-Key": "secret"}


class Host:
    """A shelf."""

    def __init__(self, folder):
        self.shelf, self.raises = Shelf(folder), None

    async def policies(self):
        if self.raises:
            raise self.raises
        names = {*self.shelf.ids, *self.shelf.on_disk()}
        return [describe(self.shelf.read(n), served=n in self.shelf.ids) for n in sorted(names)]

    async def capabilities(self):
        return {"engine": "none"}

    async def load(self, name):
        return describe(self.shelf.load(name))

    async def unload(self, name):
        self.shelf.unload(name)
        return {"id": name, "served": False}


def app_of(host, **more):
    app = FastAPI()
    add_policy_routes(app, lambda request: host, **{"admin_keys": ["secret"], **more})
    return app


@pytest.fixture
def host(tmp_path):
    for name in ("calm", "kind"):
        put_policy(tmp_path, name)
    return Host(tmp_path)


@pytest.fixture
def app(host):
    return app_of(host)


def test_policies_are_described_without_tensors_and_paths(app, host, tmp_path):
    host.shelf.load("calm")
    reply = call(app, LIST, method="GET")
    calm, kind = reply.json["data"]
    assert (calm["id"], calm["served"], kind["served"]) == ("calm", True, False)
    assert calm["digest"] == host.shelf["calm"].digest and len(calm["digest"]) == 64
    assert (calm["method"], calm["model"], calm["metrics"]) == (
        "mean",
        "tiny",
        {"safety: asr": 0.25},
    )
    assert calm["steerers"]["s"] == {
        "sites": ["resid_post[1]"],
        "reads": [],
        "scope": {"name": "last_and_generated", "start": -1, "stop": None, "modality": "any",
                  "outside": []},
        "strength": 1.0,
        "gate": "always",
        "synthesizer": "static",
        "operator": "add",
    }  # fmt: skip
    assert str(tmp_path) not in reply.body.decode()


def test_capabilities_are_the_hosts(app):
    assert call(app, ABLE, method="GET").json == {"engine": "none"}


@pytest.mark.parametrize("headers", [ADMIN, {"Authorization": "Bearer secret"}])
def test_an_admin_loads_and_unloads(app, host, headers):
    assert call(app, LIST, {"id": "calm"}, headers=headers).json["served"] is True
    assert host.shelf.ids == ("calm",)
    assert call(app, LIST + "/calm", method="DELETE", headers=headers).status == 200
    assert host.shelf.ids == ()


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Admin-Key": "secre"}, {"X-Admin-Key": ""}, {"Authorization": "Basic secret"},
     {"Authorization": "Bearer"}, {"X-Admin-Key": "sécret"}],
)  # fmt: skip
def test_nobody_else_does(app, host, headers):
    for method, path, body in (("POST", LIST, {"id": "calm"}), ("DELETE", LIST + "/calm", None)):
        reply = call(app, path, body, method=method, headers=headers)
        assert (reply.status, reply.code) == (403, "E_ADMIN")
    assert host.shelf.ids == ()


@pytest.mark.parametrize("keys", [[], [""]])
@pytest.mark.parametrize("given", ["", "secret"])
def test_without_an_admin_key_nobody_changes_anything(host, keys, given):
    app = app_of(host, admin_keys=keys)
    reply = call(app, LIST, {"id": "calm"}, headers={"X-Admin-Key": given})
    assert reply.status == 403 and "without an admin key" in reply.json["error"]["message"]


def test_a_guard_keeps_readers_out_and_not_admins(host):
    def guard():
        raise HTTPException(401, "no")

    app = app_of(host, guard=guard)
    assert call(app, LIST, method="GET").status == 401
    assert call(app, ABLE, method="GET").status == 401
    assert call(app, LIST, {"id": "calm"}, headers=ADMIN).status == 200


PATHS = (
    "../calm",
    "/etc",
    "calm/..",
    "..",
    ".",
    "",
    "calm\0",
    "calm/",
    "%2e%2e",
    "a" * 500,
    "calmm",
)


@pytest.mark.parametrize("name", PATHS)
def test_nothing_outside_of_the_folder_can_be_named(app, host, name, tmp_path):
    put_policy(tmp_path.parent, f"outside-{tmp_path.name}")
    reply = call(app, LIST, {"id": name}, headers=ADMIN)
    assert (reply.status, reply.code) == (404, "E_UNKNOWN_POLICY")
    assert host.shelf.ids == ()


def test_an_unknown_policy_is_answered_with_the_nearest_name(app):
    reply = call(app, LIST, {"id": "calmm"}, headers=ADMIN)
    assert "Did you mean 'calm'?" in reply.json["error"]["message"]
    assert call(app, LIST + "/kind", method="DELETE", headers=ADMIN).code == "E_UNKNOWN_POLICY"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"calm"', b'{"id": 1}', b'{"id": "calm", "path": "/"}', b"{}",
             b'{"id": "' + b"a" * 20_000 + b'"}', b"[" * 9000, b"\xff\xfe"],
)  # fmt: skip
def test_a_body_that_is_no_id_is_refused(app, host, body):
    reply = call(app, LIST, body, headers=ADMIN)
    assert (reply.status, reply.code) == (400, "E_BODY")
    assert host.shelf.ids == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(), s, max_size=3),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(body=st.binary() | JSON.map(lambda v: json.dumps(v).encode()))
def test_no_body_breaks_the_server(app, body):
    assert call(app, LIST, body, headers=ADMIN).status in (400, 404)


def test_a_broken_artifact_is_named_without_its_path(app, tmp_path):
    (tmp_path / "calm" / "steersman.safetensors").write_bytes(b"cut")
    reply = call(app, LIST, {"id": "calm"}, headers=ADMIN)
    assert (reply.status, reply.code) == (400, "E_ARTIFACT")
    message = reply.json["error"]["message"]
    assert "steersman.safetensors is truncated" in message and str(tmp_path) not in message


@pytest.mark.parametrize(
    "error, status, code",
    [
        (EngineError("E_ENGINE", "gone"), 503, "E_ENGINE"),
        (ModelMismatchError("/srv/a/calm was fitted on x"), 400, "E_MODEL_MISMATCH"),
        (ArtifactError("/srv/a/calm"), 400, "E_ARTIFACT"),
    ],
)
def test_errors_of_the_host_are_openais(app, host, error, status, code):
    host.raises = error
    reply = call(app, LIST, method="GET")
    assert (reply.status, reply.code) == (status, code)
    assert "/srv" not in reply.json["error"]["message"]


@given(
    st.lists(st.sampled_from(["srv", "a.b", "my policies", "x_1-2", "é"]), min_size=1, max_size=4)
)
def test_no_folder_is_left_in_a_message(folders):
    path = Path("/", *[f.replace(" ", "_") for f in folders], "calm", "steersman.json")
    told = without_paths(f"{path} is wrong: {path}, ({path}) '{path}'")
    assert told == "steersman.json is wrong: steersman.json, (steersman.json) 'steersman.json'"


def test_words_with_slashes_are_no_paths():
    assert without_paths("and/or, |h' - h| / |h|, 1/2") == "and/or, |h' - h| / |h|, 1/2"
