"""How a server ends: asked to, or because its engine is gone; and that it starts again."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from on_vllm.asks import mixed
from on_vllm.policies import Policies
from on_vllm.processes import CHAT, asked, body, served, spoken, text, until


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return Policies(model, tmp_path_factory.mktemp("served"), only=("mean",)).folder


def endless(server):
    """A stream that takes a while."""
    given = body(mixed(1)[0], {"policy": "mean"}, max_tokens=200, ignore_eos=True, stream=True)
    return httpx.stream("POST", server.url + CHAT, json=given, timeout=60)


def gone(processes):
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_a_server_that_is_asked_to_end_ends_and_starts_again(folder, tmp_path):
    answers = []
    for _ in range(2):
        with served(folder, tmp_path) as server:
            answers.append(text(asked(server, mixed(2)[1], {"policy": "mean"})))
            parts = server.parts()
            assert len(parts) >= 2, "engine core and worker have processes of their own"
            server.stop()
            assert until(lambda parts=parts: gone(parts))
    assert answers[0] == answers[1]


def test_a_server_whose_engine_was_killed_says_so_and_ends(folder, tmp_path):
    with served(folder, tmp_path) as server:
        core = [p for p in server.parts() if "EngineCore" in " ".join(p.cmdline()) + p.name()]
        assert core, [p.cmdline() for p in server.parts()]
        with ThreadPoolExecutor(1) as pool, endless(server) as stream:
            lines = stream.iter_lines()
            next(lines)
            core[0].kill()
            rest = pool.submit(lambda: list(lines))
            try:
                said = "\n".join(rest.result(60))
                assert "error" in said or not any(
                    c["choices"][0]["finish_reason"] for c in spoken(said) if c.get("choices")
                )
            except httpx.TransportError:
                pass  # closed in the middle, which a client sees as well
        began = time.monotonic()
        while server.process.poll() is None and time.monotonic() - began < 60:
            try:
                answer = server.post(CHAT, body(mixed(1)[0], {"policy": "mean"}))
                assert answer.status_code >= 500
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        assert server.process.poll() is not None, "it hangs"
