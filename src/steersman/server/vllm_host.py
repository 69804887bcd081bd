"""Policies and traces of a vLLM engine, which lives in other processes: asked by its own RPC."""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from steersman import __version__
from steersman.core.errors import SteersmanError
from steersman.core.serving import MAX_STRENGTH, RefusedError
from steersman.core.shelf import Shelf
from steersman.core.tree import Plain
from steersman.server.policy_routes import EngineError, describe

METHOD = "steersman"
PATIENCE = 60.0
"""Seconds: the engine answers between two steps, and a long prompt is one of them."""
REFRESH = 1.0
"""Seconds between two questions what is served, at least."""


class EngineClient(Protocol):
    """What is used of vLLM's."""

    @property
    def errored(self) -> bool: ...

    @property
    def input_processor(self) -> object: ...

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[object, ...] = ()
    ) -> Sequence[Any]: ...


class EngineHost:
    """A `PolicyHost` whose policies are in the workers of an engine, and in this process's shelf.

    What a request asks for is checked with the shelf, which therefore follows the workers. Where
    several server processes share an engine, each has a shelf, which `refresh` brings up to date.

    Args:
        changed: is told which policies are served, whenever they may have changed.
        fixed: a policy that is not unloaded, because requests without a field of their own are
            steered by it.
        max_body: bytes of a request's body; told among the capabilities.
    """

    def __init__(
        self,
        client: EngineClient,
        shelf: Shelf,
        *,
        changed: Callable[[Collection[str]], None],
        max_body: int,
        fixed: str | None = None,
    ) -> None:
        self._client, self._shelf, self._changed = client, shelf, changed
        self._fixed, self._max_body = fixed, max_body
        self._changing = asyncio.Lock()
        self._synced_at = 0.0

    @property
    def known(self) -> tuple[str, ...]:
        """Ids of the policies that are served."""
        return self._shelf.ids

    async def policies(self) -> list[dict[str, Plain]]:
        async with self._changing:
            await self._sync()
            return await asyncio.to_thread(self._listed)

    async def refresh(self) -> bool:
        """Asks the workers what they have, unless that was done a moment ago."""
        async with self._changing:
            if time.monotonic() - self._synced_at < REFRESH:
                return False
            await self._sync()
        return True

    async def capabilities(self) -> dict[str, Plain]:
        given = (await self._ask("capabilities"))[0]
        if not isinstance(given, dict) or _error(given):
            raise _refusal(given)
        return {
            "object": "steering.capabilities",
            "version": __version__,
            "shadow": True,
            **given,
            "limits": {"strength": MAX_STRENGTH, "max_body": self._max_body},
            "default_policy": self._fixed,
        }

    async def load(self, name: str, /) -> dict[str, Plain]:
        async with self._changing:
            held = await asyncio.to_thread(self._shelf.read, name)
            told = await self._ask("load", name)
            bad = [t for t in told if _error(t)]
            if len(bad) == len(told):
                raise _refusal(bad[0])
            if bad or any(t.get("digest") != held.digest for t in told):
                await self._ask("unload", name)
                await self._sync()
                why = str(_refusal(bad[0])) if bad else "they hold different versions of it"
                raise EngineError(
                    "E_WORKERS_DIFFER",
                    f"The workers do not agree on {name!r} ({why}), so it is not served any more. "
                    "Give all of them the same folder of policies, and load it again.",
                )
            await self._sync()
            return describe(self._shelf[name])

    async def unload(self, name: str, /) -> dict[str, Plain]:
        if name == self._fixed:
            raise RefusedError(
                "E_DEFAULT_POLICY",
                f"{name!r} steers the requests that name no policy. Start the server with another "
                "default_policy to unload it.",
            )
        async with self._changing:
            told = await self._ask("unload", name)
            await self._sync()
            if _error(told[0]):
                raise _refusal(told[0])
            return {"id": name, "object": "steering.policy", "served": False}

    async def trace(self, name: str) -> list[dict[str, Plain]]:
        """What was done to the requests of that name; empty if no worker knows.

        Raises:
            EngineError: the engine does not answer.
        """
        told = next((t for t in await self._ask("trace", name) if t), [])
        found = told if isinstance(told, list) else [told]
        return [t for t in found if isinstance(t, dict)]

    async def _sync(self) -> None:
        """Makes the shelf hold what all workers hold; what cannot be read here is not served."""
        told = await self._ask("policies")
        for answer in told:
            if not isinstance(answer, list):
                raise _refusal(answer)
        held = [{str(p["id"]): str(p["digest"]) for p in answer} for answer in told]
        served = {n: d for n, d in held[0].items() if all(h.get(n) == d for h in held[1:])}
        await asyncio.to_thread(self._follow, served)
        self._synced_at = time.monotonic()
        self._changed(self.known)

    def _follow(self, served: Mapping[str, str]) -> None:
        for name in self._shelf.ids:
            if served.get(name) != self._shelf[name].digest:
                self._shelf.unload(name)
        for name in sorted(set(served) - set(self._shelf.ids)):
            try:
                read = self._shelf.load(name)
            except SteersmanError:
                continue
            if read.digest != served[name]:
                self._shelf.unload(name)

    def _listed(self) -> list[dict[str, Plain]]:
        found: list[dict[str, Plain]] = []
        for name in sorted({*self._shelf.ids, *self._shelf.on_disk()}):
            if name in self._shelf.ids:
                found.append(describe(self._shelf[name]))
                continue
            try:
                found.append(describe(self._shelf.read(name), served=False))
            except SteersmanError as error:
                kind = type(error).__name__
                found.append(
                    {"id": name, "object": "steering.policy", "served": False, "error": kind}
                )
        return found

    async def _ask(self, *args: str) -> list[Any]:
        call = asyncio.ensure_future(self._client.collective_rpc(METHOD, args=args))
        until = time.monotonic() + PATIENCE
        try:
            while not call.done() and not self._client.errored and time.monotonic() < until:
                await asyncio.wait({call}, timeout=1.0)
        finally:
            if not call.done():
                call.cancel()
        if not call.done():
            raise EngineError("E_ENGINE", f"The engine did not answer {args[0]!r}.")
        if call.exception() is not None:
            raise EngineError(
                "E_ENGINE",
                f"The engine failed on {args[0]!r}. Its log says why; if it knows no method "
                f"{METHOD!r}, the environment variable VLLM_PLUGINS does not name the plugin.",
            ) from call.exception()
        return [json.loads(answer) for answer in call.result()]


def _error(told: object) -> Mapping[str, Any] | None:
    given = told.get("error") if isinstance(told, Mapping) else None
    return given if isinstance(given, Mapping) else None


def _refusal(told: object) -> RefusedError:
    error = _error(told) or {}
    code = str(error.get("code") or "E_ENGINE")
    said = str(error.get("message", "The engine gave an answer that means nothing."))
    return RefusedError(code, said.removeprefix(f"{code}: "))
