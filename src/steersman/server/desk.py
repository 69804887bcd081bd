"""The desk: turns what was asked for into requests that can be answered, or says why not.

Tokenizers and image processors must not be used by two threads at once, so the desk has its own
copy of them and one thread of its own; the event loop goes on meanwhile.
"""

import asyncio
import copy
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from jinja2 import TemplateError
from PIL import Image

from steersman.backends.hf import HFModel
from steersman.core.errors import ModelError, RecipeError
from steersman.core.requests import Request
from steersman.core.serving import RefusedError, Steering, read_steering
from steersman.core.shelf import Shelf
from steersman.core.steerer import Policy
from steersman.core.types import Prompt
from steersman.server.engine import Engine
from steersman.server.errors import ApiError, refused
from steersman.server.images import MAX_IMAGES, ImageRules, decoded
from steersman.server.messages import image_urls, said, to_prompt
from steersman.server.rows import Job
from steersman.server.schema import Body, ChatBody, CompletionBody
from steersman.server.settings import Settings
from steersman.server.text import Text

SEED_BITS = 62
TOKEN_CHARS = 40
"""Characters of one token at most, over a whole prompt; longer prompts are not even tokenized."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, and how long it is."""

    prompt: Prompt
    tokens: int


class Desk:
    """Takes bodies, gives jobs.

    Args:
        context: tokens that prompt and answer may have together; None where the model has no limit.
    """

    def __init__(
        self,
        model: HFModel,
        shelf: Shelf,
        engine: Engine,
        settings: Settings,
        *,
        context: int | None = None,
        images: ImageRules | None = None,
    ) -> None:
        self._chat = replace(model.chat, processor=copy.deepcopy(model.chat.processor))
        self._decode = model.chat.tokenizer.decode
        self.shelf, self.engine, self.settings, self.context = shelf, engine, settings, context
        self._images = images or ImageRules(
            settings.max_image_pixels, settings.max_body, settings.image_hosts
        )
        self._scoped: dict[tuple[str, str, str | None], Policy] = {}
        self._num_here = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steersman-desk")

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def steering(self, body: Body) -> Steering | None:
        """How a request is steered.

        Raises:
            RefusedError: it asks for what is not there.
        """
        if not body.steers and self.settings.default_policy is not None:
            return Steering(self.settings.default_policy)
        return read_steering(body.steering, self.shelf.ids)

    async def chat(self, body: ChatBody) -> Asked:
        """The prompt of a chat.

        Raises:
            ApiError: it cannot be answered.
        """
        self._check_chars([sum(len(said(m)) for m in body.messages)], "messages")
        urls = image_urls(body.messages)
        if len(urls) > MAX_IMAGES:
            raise refused(
                f"A request may bring {MAX_IMAGES} images. Leave some out.", param="messages"
            )
        async with self._place():
            files = [(await self._images.read(url, param), param) for url, param in urls]
            return await self._in_thread(partial(self._read_chat, body, files))

    async def plain(self, body: CompletionBody) -> list[Asked]:
        """The prompts of a completion; errors as in `chat`."""
        self._check_chars([len(text) for text in body.prompts], "prompt")
        async with self._place():
            return await self._in_thread(partial(self._read_plain, body.prompts))

    def job(self, body: Body, asked: Sequence[Asked], most: int | None, *, strip: bool) -> Job:
        """Rows for every prompt and choice, which wait for the model from now on.

        Args:
            most: tokens of each answer, if the request says it.
            strip: whether white space around answers is left out.

        Raises:
            ApiError: too many tokens are asked for, or too much waits.
            RefusedError: the policy was unloaded, or cannot have the scope.
        """
        steering = self.steering(body)
        policy = None if steering is None or not steering.acts else self.policy(steering)
        temperature = 1.0 if body.temperature is None else body.temperature
        seed = secrets.randbits(SEED_BITS) if body.seed is None else body.seed
        job = Job(timeout=self.settings.timeout, steering=steering)
        for one in asked:
            if policy is not None and not one.prompt.images:
                _check_text_only(policy)
            length = self._length(one.tokens, most)
            for choice in range(body.n or 1):
                request = Request(
                    one.prompt,
                    policy,
                    steering.strength if steering is not None and policy is not None else 1.0,
                    max_new_tokens=length,
                    temperature=temperature,
                    top_p=1.0 if body.top_p is None else body.top_p,
                    seed=_signed(seed + choice),
                    shadow=steering is not None and steering.shadow,
                )
                text = Text(self._decoded, body.stops, strip=strip)
                job.add(request, text, streams=bool(body.stream))
        if len(job.rows) > self.settings.max_queue:
            raise refused(
                f"The request asks for {len(job.rows)} answers, and {self.settings.max_queue} may "
                "wait. Ask for fewer.",
                param="n",
            )
        self.engine.submit(job.rows)
        return job

    def policy(self, steering: Steering) -> Policy:
        """The policy under the scope that was asked for: the same object for the same request."""
        held = self.shelf[steering.policy]
        key = (held.id, held.digest, steering.scope)
        if key not in self._scoped:
            served = {(name, self.shelf[name].digest) for name in self.shelf.ids}
            self._scoped = {k: p for k, p in self._scoped.items() if k[:2] in served}
            try:
                self._scoped[key] = steering.scoped(held.artifact.policy)
            except RecipeError as error:
                raise RefusedError("E_SCOPE", str(error)) from error
        return self._scoped[key]

    def _length(self, tokens: int, most: int | None) -> int:
        """How many tokens an answer may have."""
        limit = self.settings.max_new_tokens
        if most is not None and most > limit:
            raise refused(
                f"{most} tokens are asked for, and an answer may have {limit}. Ask for fewer.",
                code="max_tokens_too_large",
                param="max_tokens",
            )
        left = limit if self.context is None else self.context - tokens
        if left < 1 or (most is not None and most > left):
            raise refused(
                f"This model's context has {self.context} tokens, and the request takes "
                f"{tokens} for the prompt and {most or 1} for the answer. Ask for fewer.",
                code="context_length_exceeded",
                param="messages",
            )
        return most if most is not None else min(limit, left)

    def _decoded(self, ids: list[int]) -> str:
        return str(self._decode(ids, skip_special_tokens=True))

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[None]:
        """A place at the desk, for as long as a request may take.

        Raises:
            ApiError: as many wait as may, or it took too long.
        """
        if self._num_here > self.settings.max_queue:  # one is served, the others wait
            raise ApiError(
                429,
                f"{self._num_here} requests are being read already. Try again in a moment.",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self._num_here += 1
        seconds = self.settings.timeout
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise ApiError(
                504,
                f"The request was not read within {seconds:g} seconds. Try again later.",
                code="timeout",
            ) from None
        finally:
            self._num_here -= 1

    def _check_chars(self, chars: Sequence[int], param: str) -> None:
        """Refuses prompts that are too long, however they will be tokenized."""
        limit = self._most_tokens
        if limit is not None and max(chars) > TOKEN_CHARS * limit:
            raise refused(
                f"The prompt has {max(chars):,} characters, and {limit} tokens are allowed. "
                "Shorten it.",
                code="context_length_exceeded",
                param=param,
            )

    @property
    def _most_tokens(self) -> int | None:
        """Tokens that a prompt may have."""
        return self.settings.max_prompt_tokens or self.context

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _read_chat(self, body: ChatBody, files: Sequence[tuple[bytes, str]]) -> Asked:
        images: list[Image.Image] = decoded(files, self.settings.max_image_pixels)
        prompt = to_prompt(body.messages, images)
        return Asked(prompt, self._count(prompt, "messages"))

    def _read_plain(self, texts: Sequence[str]) -> list[Asked]:
        asked: list[Asked] = []
        for text in texts:
            prompt = Prompt(text, plain=True)
            asked.append(Asked(prompt, self._count(prompt, "prompt")))
        return asked

    def _count(self, prompt: Prompt, param: str) -> int:
        """Tokens of a prompt; what the model's own template or processor refuses is refused."""
        try:
            tokens = self._chat.rows([prompt]).prompt_length[0]
        except TemplateError as error:
            raise refused(
                f"The model's chat template refuses these messages: {error}.", param=param
            ) from error
        except RecipeError as error:
            raise refused(str(error), param=param) from error
        except ModelError as error:
            raise refused(
                "The model's processor refuses this prompt. Leave out what stands for an image in "
                "its text, and look whether the model takes such images.",
                param=param,
            ) from error
        if tokens == 0:
            raise refused("The prompt is empty. Ask something.", param=param)
        limit = self._most_tokens
        if limit is not None and tokens > limit:
            raise refused(
                f"The prompt has {tokens} tokens, and {limit} are allowed. Shorten it.",
                code="context_length_exceeded",
                param=param,
            )
        return tokens


def _check_text_only(policy: Policy) -> None:
    """Refuses a policy that could write nothing without an image."""
    if all(steerer.scope.modality == "image" for steerer in policy.steerers.values()):
        raise RefusedError(
            "E_SCOPE",
            "The scope is the tokens of images, and the prompt has no image. Bring one, or give "
            "another scope.",
        )


def _signed(seed: int) -> int:
    """Within 64 bits, however many choices follow the greatest seed."""
    return (seed + 2**63) % 2**64 - 2**63
