"""Mixed load on the embedded server: is every answer the one it is alone, and does memory grow?

    python tools/load_test.py --policies runs/compare/policies --minutes 20

Starts `steersman serve`, asks a pool of requests one by one, then keeps asking them from many
clients at once (whole, streamed, sampled, with images, malformed, and some that hang up), compares
every answer with the one it got alone (or the error, of policies that cannot reach a short prompt),
and looks at the memory of the server's process meanwhile.
Exits with 1 if an answer was wrong, a request failed, or memory grew beyond the limit.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image, ImageDraw

QUESTIONS = (
    "how do i make a bomb ?",
    "how do i make a cup ?",
    "is there a cup ?",
    "is there a car in the image ?",
    "what is in the image ?",
    "are",
)
COLORS = ("red", "blue", "green", "purple")
BAD = (
    {"temprature": 1},
    {"steering": {"policy": "nobody's"}},
    {"max_tokens": 0},
    {"logprobs": True},
)
EVERY = 10.0  # seconds between two looks at the memory


@dataclass
class Result:
    """What happened.

    Attributes:
        memory: seconds since the load began, and megabytes of the server.
        wrong: the first few answers that were not the right ones.
    """

    seconds: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    words: int = 0
    wrong: list[dict[str, Any]] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """As JSON has it; of latencies the median and the 99th percentile."""
        return {
            "seconds": round(self.seconds, 1),
            "requests": dict(sorted(self.requests.items())),
            "words": self.words,
            "latency_p50": round(self.latency(50), 4),
            "latency_p99": round(self.latency(99), 4),
            "memory_mb": self.memory,
            "growth_mb_per_hour": round(self.growth(), 1),
            "wrong": self.wrong,
        }

    def latency(self, percent: int) -> float:
        """A percentile of the seconds from request to answer."""
        ordered = sorted(self.latencies) or [0.0]
        return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]

    def growth(self) -> float:
        """Megabytes an hour, fitted to all but the first third, when caches fill."""
        points = self.memory[len(self.memory) // 3 :]
        if len(points) < 2:
            return 0.0
        t, m = (sum(column) / len(points) for column in zip(*points, strict=True))
        above = sum((x - t) * (y - m) for x, y in points)
        return 3600 * above / max(sum((x - t) ** 2 for x, _ in points), 1e-9)


def picture(color: str, rng: random.Random) -> str:
    """A small image as a data: URL."""
    image = Image.new("RGB", (64, 64), "white")
    x, y = rng.randrange(32), rng.randrange(32)
    ImageDraw.Draw(image).rectangle((x, y, x + 24, y + 24), fill=color)
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def bodies(policies: list[str], size: int, seed: int) -> list[dict[str, Any]]:
    """The pool of requests."""
    rng = random.Random(seed)
    made: list[dict[str, Any]] = []
    for i in range(size):
        text = rng.choice(QUESTIONS)
        content: Any = text
        if rng.random() < 0.3:
            shown = {"type": "image_url", "image_url": {"url": picture(rng.choice(COLORS), rng)}}
            content = [shown, {"type": "text", "text": text}]
        steering = None
        if policies and rng.random() < 0.8:
            steering = {"policy": rng.choice(policies), "strength": rng.choice([0, 0.5, 1, 1.5])}
            steering["shadow"] = rng.random() < 0.1
        made.append(
            {
                "messages": [{"role": "user", "content": content}],
                "max_tokens": rng.choice([1, 4, 8, 16, 24]),
                "temperature": rng.choice([0, 0, 0.7, 1.3]),
                "seed": i,
                "stream": rng.random() < 0.4,
                "steering": steering,
            }
        )
    return made


def gist(steering: dict[str, Any] | None) -> object:
    """What must be the same of two answers' steering."""
    if steering is None:
        return None
    return [steering["policy"], steering["tokens_written"], round(steering["gate"], 3)]


def read(reply: httpx.Response) -> list[Any]:
    """Text, reason of the end and steering of an answer; status and code of an error."""
    if reply.status_code != 200:
        return [reply.status_code, reply.json()["error"]["code"]]
    if not reply.headers["content-type"].startswith("text/event-stream"):
        made = reply.json()
        choice = made["choices"][0]
        return [choice["message"]["content"], choice["finish_reason"], gist(made["steering"])]
    events = [e.removeprefix("data: ") for e in reply.text.split("\n\n") if e]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    if "error" in chunks[-1]:
        return [200, chunks[-1]["error"]["code"]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    return [text, chunks[-1]["choices"][0]["finish_reason"], gist(chunks[-1]["steering"])]


class Load:
    """Clients of one server.

    Args:
        pool: requests and their right answers.
    """

    def __init__(self, url: str, pool: list[tuple[dict[str, Any], list[Any]]]) -> None:
        self.url, self.pool, self.result = url, pool, Result()

    async def client(self, number: int, until: float) -> None:
        """Asks until the time is over."""
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as http:
            while time.monotonic() < until:
                body, right = rng.choice(self.pool)
                chance = rng.random()
                if chance < 0.05:
                    await self.hang_up(http, body, rng)
                elif chance < 0.1:
                    await self.malformed(http, body, rng)
                else:
                    await self.ask(http, body, right)

    async def ask(self, http: httpx.AsyncClient, body: dict[str, Any], right: list[Any]) -> None:
        """One request whose answer is known."""
        began = time.monotonic()
        reply = await http.post("/chat/completions", json=body)
        got = read(reply)
        if got[:2] == [429, "queue_full"]:
            self.result.requests["queue full"] += 1
            await asyncio.sleep(float(reply.headers["retry-after"]))
            return
        self.result.latencies.append(time.monotonic() - began)
        self.result.requests["right" if got == right else "wrong"] += 1
        self.result.words += len(str(got[0]).split())
        if got != right and len(self.result.wrong) < 10:
            shown = {k: v for k, v in body.items() if k != "messages"}
            self.result.wrong.append({"body": shown, "right": right, "got": got})

    async def hang_up(
        self, http: httpx.AsyncClient, body: dict[str, Any], rng: random.Random
    ) -> None:
        """One that does not wait for its answer."""
        try:
            await http.post("/chat/completions", json=body, timeout=rng.uniform(0.01, 0.3))
        except httpx.TimeoutException:
            self.result.requests["hung up"] += 1

    async def malformed(
        self, http: httpx.AsyncClient, body: dict[str, Any], rng: random.Random
    ) -> None:
        """One that must be refused."""
        reply = await http.post("/chat/completions", json={**body, **rng.choice(BAD)})
        right = reply.status_code == 400
        self.result.requests["refused" if right else "not refused"] += 1

    async def watch(self, process: psutil.Process, until: float) -> None:
        """Looks at the memory."""
        began = time.monotonic()
        while (now := time.monotonic()) < until:
            size = process.memory_info().rss / 1e6
            self.result.memory.append((round(now - began, 1), round(size, 1)))
            await asyncio.sleep(min(EVERY, max(until - now, 0.01)))

    async def run(self, process: psutil.Process, *, seconds: float, clients: int) -> Result:
        """All clients at once."""
        began = time.monotonic()
        until = began + seconds
        await asyncio.gather(
            self.watch(process, until), *(self.client(i, until) for i in range(clients))
        )
        self.result.seconds = time.monotonic() - began
        return self.result


def started(folder: Path, words: list[str]) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = [sys.executable, "-m", "steersman.cli.main", "serve", "--policies", str(folder)]
    process = subprocess.Popen(
        [*command, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("The server did not start: run `steersman serve` by hand to see why.")
    return process, line.split()[-1]


def measured(options: argparse.Namespace) -> Result:
    """Starts a server, loads it, and ends it."""
    process, url = started(options.policies, options.serve)
    try:
        listed = httpx.get(f"{url}/steering/policies").json()["data"]
        policies = [p["id"] for p in listed if p["served"]]
        pool = []
        for body in bodies(policies, options.pool, options.seed):
            reply = httpx.post(f"{url}/chat/completions", json=body, timeout=120)
            right = read(reply)
            if reply.status_code != 200 and right[1] != "not_steered":
                raise SystemExit(f"A request failed alone: {reply.text} {body['steering']}")
            pool.append((body, right))
        load = Load(url, pool)
        seconds = options.minutes * 60
        server = psutil.Process(process.pid)
        return asyncio.run(load.run(server, seconds=seconds, clients=options.clients))
    finally:
        process.terminate()
        if process.wait(60) != 0:
            sys.stderr.write(f"The server ended with {process.returncode}.\n")


def table(result: Result) -> str:
    """The result for people."""
    rows = [
        ("seconds", f"{result.seconds:.0f}"),
        *((name, f"{num:,}") for name, num in sorted(result.requests.items())),
        ("answers per second", f"{result.requests['right'] / result.seconds:.1f}"),
        ("words per second", f"{result.words / result.seconds:.0f}"),
        ("latency p50, p99", f"{result.latency(50):.2f} s, {result.latency(99):.2f} s"),
        ("memory, first and last", f"{result.memory[0][1]:.0f}, {result.memory[-1][1]:.0f} MB"),
        ("memory, most", f"{max(m for _, m in result.memory):.0f} MB"),
        ("growth", f"{result.growth():+.1f} MB per hour"),
    ]
    return "\n".join(["| | |", "|:--|--:|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    """Reads the options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policies", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pool", type=int, default=300, help="different requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", type=float, default=60.0, help="MB an hour that are allowed")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("serve", nargs="*", help="further arguments of `steersman serve`")
    options = parser.parse_args()
    result = measured(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result.plain(), indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(table(result) + "\n")
    for wrong in result.wrong:
        sys.stdout.write(json.dumps(wrong) + "\n")
    bad = result.requests["wrong"] + result.requests["not refused"]
    if bad or result.growth() > options.growth:
        sys.exit(1)


if __name__ == "__main__":
    main()
