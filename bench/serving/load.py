"""What one timed run asks of a server, and the figures of its answers.

Needs the standard library only: the process that holds vLLM imports it too.

Words as `vllm bench serve` has them: time to first token (`ttft`) counts from sending a request,
time per output token (`tpot`) is what an answer took after its first token, by the tokens after
it. Clients are closed loops: each sends its next request when the last one is answered.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

Steering = Mapping[str, Any]


@dataclass(frozen=True)
class Load:
    """One run.

    Attributes:
        concurrency: clients.
        waves: requests of each client, one after the other.
        prompt: tokens that no other request has in this place.
        new: tokens of every answer.
        steering: dealt out to the clients in turn; None asks for nothing.
        prefix: tokens before them that all requests share.
        turns: a client's next prompt holds its last prompt and answer.
        seed: of the tokens; equal seeds ask the same.
        first: lowest id of a prompt's tokens.
        last: one more than the highest.
    """

    concurrency: int
    waves: int
    prompt: int
    new: int
    steering: tuple[Steering | None, ...] = (None,)
    prefix: int = 0
    turns: bool = False
    seed: int = 0
    first: int = 3
    last: int = 500

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Load":
        """The inverse of `plain`, after JSON."""
        return cls(**{**given, "steering": tuple(given["steering"])})

    def draw(self, *of: object) -> random.Random:
        """A generator of its own for everything that is drawn."""
        return random.Random(repr((self.seed, *of)))

    def tokens(self, count: int, *of: object) -> list[int]:
        """So many random token ids."""
        draw = self.draw(*of)
        return [draw.randrange(self.first, self.last) for _ in range(count)]

    def client_steering(self, client: int) -> Steering | None:
        """How this client's requests are steered."""
        return self.steering[client % len(self.steering)]


@dataclass(frozen=True, slots=True)
class Piece:
    """What came at once.

    Attributes:
        tokens: ids of new tokens; a server that only counts them gives zeros.
        cached: prompt tokens that a prefix cache had; None if that is not said.
        prompt: tokens of the prompt as the server counts them; None if that is not said.
    """

    tokens: Sequence[int]
    cached: int | None = None
    prompt: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request; times in seconds."""

    sent: float
    first: float
    last: float
    tokens: int
    prompt: int
    cached: int | None = None


Send = Callable[[list[int], Steering | None, int], AsyncIterator[Piece]]
"""Prompt, steering and number of new tokens -> pieces of the answer."""


async def run(load: Load, send: Send) -> list[Sample]:
    """All requests of a load.

    Raises:
        RuntimeError: an answer is not as long as it should be.
    """
    shared = load.tokens(load.prefix, "prefix")
    clients = (_client(load, send, shared, number) for number in range(load.concurrency))
    return [sample for samples in await asyncio.gather(*clients) for sample in samples]


async def _client(load: Load, send: Send, shared: list[int], number: int) -> list[Sample]:
    steering, samples, history = load.client_steering(number), list[Sample](), shared
    for wave in range(load.waves):
        prompt = history + load.tokens(load.prompt, number, wave)
        said, sample = await _timed(send, prompt, steering, load.new)
        if len(said) != load.new:
            raise RuntimeError(
                f"An answer has {len(said)} tokens, not {load.new}: figures would not be "
                "comparable. The server stopped early; was it told to ignore end tokens?"
            )
        samples.append(sample)
        history = prompt + said if load.turns else shared
    return samples


async def _timed(
    send: Send, prompt: list[int], steering: Steering | None, new: int
) -> tuple[list[int], Sample]:
    said: list[int] = []
    count, cached = len(prompt), None
    sent = first = last = time.perf_counter()
    async for piece in send(prompt, steering, new):
        if piece.tokens:
            last = time.perf_counter()
            first = last if not said else first
        said.extend(piece.tokens)
        cached = piece.cached if piece.cached is not None else cached
        count = piece.prompt if piece.prompt is not None else count
    return said, Sample(sent, first, last, len(said), count, cached)


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """What is reported of a run; times in seconds, medians over its requests.

    `seconds_per_token` is the whole run's, and `hits` the share of prompt tokens that came from a
    prefix cache, if that is known.
    """
    spent = max(s.last for s in samples) - min(s.sent for s in samples)
    total = sum(s.tokens for s in samples)
    found = {
        "tokens_per_second": total / spent,
        "seconds_per_token": spent / total,
        "ttft": median(s.first - s.sent for s in samples),
    }
    later = [(s.last - s.first) / (s.tokens - 1) for s in samples if s.tokens > 1]
    if later:
        found["tpot"] = median(later)
    known = [s for s in samples if s.cached is not None]
    if known:
        found["hits"] = sum(s.cached or 0 for s in known) / sum(s.prompt for s in known)
    return found
