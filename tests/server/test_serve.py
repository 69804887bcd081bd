"""`steersman serve` as a process: one command up, one signal down."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest
from typer.testing import CliRunner

from served import HARM, model, put, user
from steersman.cli import serve as verb
from steersman.cli.main import app
from steersman.core.errors import ArtifactError, ModelError, RecipeError
from steersman.server import vllm_launch


class Process:
    """The server, its address, and what it has said."""

    def __init__(self, folder, *words):
        command = [sys.executable, "-m", "steersman.cli.main", "serve", "--policies", str(folder)]
        self.popen = subprocess.Popen(
            [*command, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "STEERSMAN_API_KEY": "k1 k2"},
        )  # fmt: skip
        line = self.popen.stdout.readline()
        assert line.startswith("Serving "), self.popen.stderr.read()
        self.url = line.split()[-1]

    def client(self):
        return openai.OpenAI(base_url=self.url, api_key="k2", max_retries=0)

    @property
    def health(self):
        return self.url.removesuffix("/v1") + "/health"

    def clear(self):
        """Leaves nothing behind, whatever went wrong."""
        with self.popen:
            self.popen.kill()

    def end(self, sig=signal.SIGTERM) -> list[dict]:
        """Ends it, and gives the lines of its log."""
        self.popen.send_signal(sig)
        _, said = self.popen.communicate(timeout=30)
        assert self.popen.returncode == 0, said
        return [json.loads(line) for line in said.splitlines()]


@pytest.fixture
def process_of(tmp_path):
    put(tmp_path, "push")
    started = []

    def start(*words):
        started.append(Process(tmp_path, *words))
        return started[-1]

    yield start
    for process in started:
        process.clear()


def test_a_server_starts_answers_and_ends_with_what_it_has_begun(process_of):
    process = process_of()
    with process.client() as client:
        answers = []

        def ask():
            stream = client.chat.completions.create(
                model="bundled", messages=user("are"), max_tokens=120, temperature=1.5, seed=4,
                stream=True, extra_body={"steering": {"policy": "push"}},
            )  # fmt: skip
            answers.append([*stream])

        whole = client.chat.completions.create(model="bundled", messages=user(HARM), max_tokens=5)
        assert whole.choices[0].message.content
        thread = threading.Thread(target=ask)
        thread.start()
        while not httpx.get(process.health).json()["running"]:
            assert thread.is_alive()
        log = process.end()
        thread.join()
    assert answers[0][-1].choices[0].finish_reason in ("stop", "length")
    assert answers[0][-1].steering["tokens_written"] > 0
    assert [line["status"] for line in log if line["event"] == "request"] == [200, 200]
    assert log[-1]["event"] == "stopped" and log[-1]["in_time"]
    assert HARM not in json.dumps(log)


@pytest.mark.slow
def test_what_does_not_end_in_time_is_given_up(process_of):
    process = process_of("--grace", "1", "--max-batch", "64")
    body = {"prompt": ["are"] * 32, "n": 8, "max_tokens": 240, "temperature": 2}
    headers = {"Authorization": "Bearer k1"}
    ended = []

    def ask():
        try:
            ended.append(httpx.post(process.url + "/completions", json=body, headers=headers))
        except httpx.HTTPError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not httpx.get(process.health).json()["running"]:
        assert thread.is_alive()
    log = process.end()
    thread.join()
    assert not isinstance(ended[0], httpx.Response) or ended[0].status_code >= 500
    assert log[-1]["event"] == "stopped" and log[-1]["in_time"]


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "open_model", lambda *_, **__: pytest.fail("loaded"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["serve", "--policies", str(tmp_path), "--port", port])
    assert isinstance(done.exception, RecipeError) and f"port {port}" in str(done.exception)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--engine", "vlm"], RecipeError, "Did you mean 'vllm'"),
        (["--", "--max-num-seqs", "4"], RecipeError, "add --engine vllm"),
        (["--max-batch", "0"], RecipeError, "--max-batch is 0"),
        (["--default-policy", "psh"], RecipeError, "Did you mean 'push'"),
        (["--engine", "vllm", "--max-batch", "3"], RecipeError, "--max-batch is a setting of the"),
        (["--engine", "vllm", "--device", "cuda"], RecipeError, "chooses the device"),
        (["--engine", "vllm", "--api-key", "a", "--api-key", "b"], RecipeError, "takes one"),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path, words, error, message):
    put(tmp_path, "push")
    done = CliRunner().invoke(app, ["serve", "--policies", str(tmp_path), "--port", "0", *words])
    assert isinstance(done.exception, error) and message in str(done.exception)


def test_a_folder_without_policies_is_told(tmp_path):
    words = ["serve", "--policies", str(tmp_path / "none"), "--port", "0"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ArtifactError) and "none" in str(done.exception)


def test_a_model_whose_own_settings_ask_for_beams_is_refused_before_it_serves(
    tmp_path, monkeypatch
):
    put(tmp_path, "push")
    monkeypatch.setattr(verb, "open_model", lambda *_, **__: model())
    monkeypatch.setattr(model().model.generation_config, "num_beams", 2)
    done = CliRunner().invoke(app, ["serve", "--policies", str(tmp_path), "--port", "0"])
    assert isinstance(done.exception, ModelError) and "beam_search" in str(done.exception)


def test_vllm_gets_what_it_can_do_and_keys_stay_out_of_the_arguments(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(vllm_launch, "launch", lambda *a, **k: given.update(a=a, **k))
    for name in ("VLLM_API_KEY", "STEERSMAN_ADMIN_KEY"):
        monkeypatch.setenv(name, "")
    words = ["--engine", "vllm", "--api-key", "secret", "--default-policy", "push", "--port", "9"]
    command = ["serve", "--policies", str(tmp_path), *words, "--", "--max-num-seqs", "4"]
    done = CliRunner().invoke(app, command, env={"STEERSMAN_ADMIN_KEY": "admin"})
    assert done.exception is None, done.exception
    assert given["a"][0] == "bundled" and given["port"] == 9
    assert given["extra"] == ("--max-num-seqs", "4")
    assert given["settings"]["default_policy"] == "push" and "secret" not in str(given)
    assert os.environ["VLLM_API_KEY"] == "secret"
