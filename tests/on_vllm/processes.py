"""A server with vLLM in processes of its own, as people start it."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import OpenAI

from steersman import Prompt

START = 600.0  # on an idle machine it is half a minute
ADMIN = "only-for-tests"
CHAT = "/v1/chat/completions"
FLAGS = (
    *("--enforce-eager", "--max-model-len", "256", "--block-size", "32", "--max-num-seqs", "32"),
    *("--kv-cache-memory-bytes", "67108864", "--disable-uvicorn-access-log"),
)


class Server:
    """A running server.

    Args:
        log: file for what it says.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.log = process, log
        self.url = f"http://127.0.0.1:{port}"
        self.host, self.port = "127.0.0.1", port

    @property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def post(self, path: str, body: object, **more: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = self.get("/metrics").text.splitlines()
        return sum(
            float(x.rpartition(" ")[2]) for x in lines if x.startswith((name + "{", name + " "))
        )

    def parts(self) -> list[psutil.Process]:
        """Processes that it started, engine core and workers among them."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, *, patience: float = 60) -> int:
        """Asks it to end, as an operator does; its exit code.

        Raises:
            TimeoutExpired: it did not.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)


@contextmanager
def served(policies: Path, folder: Path, *flags: str) -> Iterator[Server]:
    """`steersman serve --engine vllm`, until the end of the block."""
    port = _free_port()
    command = [
        *(sys.executable, "-m", "steersman.cli.main", "serve", "--engine", "vllm"),
        *("--model", "bundled", "--policies", str(policies), "--port", str(port)),
        *("--dtype", "float32", "--", *FLAGS, *flags),
    ]
    log = folder / f"server-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=_environment())
    server = Server(process, port, log)
    try:
        _wait(server)
        yield server
    finally:
        _end(process)


def _environment() -> Mapping[str, str]:
    ours = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # tests run beside it, on the same few cores
        "OMP_NUM_THREADS": "1",
        "STEERSMAN_ADMIN_KEY": ADMIN,
        "VLLM_LOGGING_LEVEL": "INFO",
    }
    left = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    return {**left, **ours}


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def _wait(server: Server) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        if server.process.poll() is not None:
            break
        try:
            if server.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = server.log.read_text(errors="replace")[-6000:]
    raise AssertionError(f"The server did not start:\n{tail}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Whatever is left of it."""
    try:
        parts = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        parts = []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for part in parts:
        if part.is_running():
            part.kill()


def spoken(events: str) -> list[dict[str, object]]:
    """The objects of an event stream."""
    lines = (
        line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")
    )
    return [json.loads(line) for line in lines if line != "[DONE]"]


def said(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as messages of OpenAI's API."""
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.text}]
    for image in prompt.images:
        kept = io.BytesIO()
        image.save(kept, "PNG")
        url = "data:image/png;base64," + base64.b64encode(kept.getvalue()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": content}]


def body(prompt: Prompt, steering: object = None, **more: object) -> dict[str, Any]:
    ours = {} if steering is None else {"steering": steering}
    usual = {"model": "bundled", "messages": said(prompt), "temperature": 0, "max_tokens": 24}
    return {**usual, **ours, **more}


def asked(
    server: Server, prompt: Prompt, steering: object = None, **more: object
) -> dict[str, Any]:
    answer = server.post(CHAT, body(prompt, steering, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


def text(answer: Mapping[str, Any]) -> str:
    return answer["choices"][0]["message"]["content"].strip()


def until(happens: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Waits for it, but not forever."""
    end = time.monotonic() + seconds
    while not (done := happens()) and time.monotonic() < end:
        time.sleep(0.1)
    return done
