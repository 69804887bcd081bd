"""Servers behind HTTP, asked with streaming as clients ask them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from serving.load import Load, Piece, Steering, figures, run
from transformers import AutoTokenizer

UP_WITHIN = 600.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class HttpServer:
    """A server in a process of its own.

    Args:
        command: what starts it; `--port` is added.
        model: folder of the model, whose tokenizer writes the prompts.
        ids: prompts are given as token ids, and end tokens are ignored, which vLLM allows.
        log: file that gets what it prints.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        model: Path,
        ids: bool,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log, self._ids, self._port = log, ids, free_port()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._model = str(model)
        with log.open("w") as printed:
            self._process = subprocess.Popen(
                [*command, "--port", str(self._port)],
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it can be asked."""
        began = time.monotonic()
        while time.monotonic() - began < UP_WITHIN and self._process.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self._url}/health", timeout=5).status_code == 200:
                    models = httpx.get(f"{self._url}/v1/models", timeout=30).json()
                    self._model = models["data"][0]["id"]
                    return
            time.sleep(0.5)
        raise SystemExit(f"{self._log}: the server did not come up.\n{self._tail()}")

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])

    def run(self, load: Load) -> dict[str, float]:
        """The figures of a load, and how much of a core this client took (`client`).

        Near 1, it is the client that is measured.
        """
        began, spent = time.perf_counter(), time.process_time()
        found = asyncio.run(self._run(load))
        took = (time.process_time() - spent) / (time.perf_counter() - began)
        return {**found, "client": took}

    async def _run(self, load: Load) -> dict[str, float]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=self._url, timeout=600, limits=limits, trust_env=False
        ) as client:

            async def send(
                prompt: list[int], steering: Steering | None, new: int
            ) -> AsyncIterator[Piece]:
                body = self._body(prompt, steering, new)
                async with client.stream("POST", "/v1/completions", json=body) as answer:
                    if answer.status_code != 200:
                        said = (await answer.aread()).decode(errors="replace")
                        raise SystemExit(f"{self._log}: {answer.status_code} {said[:500]}")
                    async for piece in pieces(answer.aiter_lines()):
                        yield piece

            return figures(await run(load, send))

    def trace(self, steering: Steering) -> Any:
        """What steering did to one request."""
        prompt = self._tokenizer.convert_tokens_to_ids(self._tokenizer.get_vocab().keys())
        body = {**self._body(sorted(prompt)[8:24], steering, 4), "stream": False}
        body.pop("stream_options")
        return httpx.post(f"{self._url}/v1/completions", json=body, timeout=600).json()["steering"]

    def _body(self, prompt: list[int], steering: Steering | None, new: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt if self._ids else self._tokenizer.decode(prompt),
            "max_tokens": new,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= {"ignore_eos": True} if self._ids else {}
        return body if steering is None else {**body, "steering": dict(steering)}

    def close(self) -> None:
        """Ends it and all it started."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


async def pieces(lines: AsyncIterator[str]) -> AsyncIterator[Piece]:
    """Server-sent events of a completion: one token for each piece of text, and the rest of what
    the usage counts (a token may have no text of its own) when that comes.

    Raises:
        RuntimeError: the server sent an error.
    """
    seen = 0
    async for line in lines:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise RuntimeError(f"The server answers: {event['error']}")
        if any(choice.get("text") for choice in event.get("choices", ())):
            seen += 1
            yield Piece([0])
        if usage := event.get("usage"):
            details = usage.get("prompt_tokens_details") or {}
            yield Piece(
                [0] * max(0, usage["completion_tokens"] - seen),
                details.get("cached_tokens"),
                usage["prompt_tokens"],
            )
            return
