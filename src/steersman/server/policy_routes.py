"""Routes about policies: which are served, what the engine can do, and loading more of them.

What is loaded comes from the configured folder only, and only for whoever has an admin key.
"""

import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request, Response

from steersman.core.errors import SteersmanError
from steersman.core.serving import RefusedError
from steersman.core.shelf import Held
from steersman.core.steerer import Steerer
from steersman.core.tree import Plain
from steersman.core.types import SCOPES, Read, Scope
from steersman.server.errors import ApiError, Json
from steersman.server.security import Keys, bearer

POLICIES, CAPABILITIES = "/v1/steering/policies", "/v1/steering/capabilities"
MAX_BODY = 16_384
PATH = re.compile(r"(?<![\w.])/(?:[^/\s:;,'\"()]+/)+(?=[^/\s])")


class PolicyHost(Protocol):
    """An engine that has policies. What it refuses it raises, as a `SteersmanError`."""

    async def policies(self) -> list[dict[str, Plain]]:
        """All of the folder, each as `describe` tells it, with `served`."""
        ...

    async def capabilities(self) -> dict[str, Plain]:
        """Engine, version, scopes, points, limits, and what is refused by which code."""
        ...

    async def load(self, name: str, /) -> dict[str, Plain]:
        """Serves a policy of the folder, or its new version, and describes it."""
        ...

    async def unload(self, name: str, /) -> dict[str, Plain]:
        """Serves it no longer."""
        ...


def add_policy_routes(
    app: FastAPI,
    host: Callable[[Request], PolicyHost],
    *,
    admin_keys: Collection[str],
    guard: Callable[..., object] | None = None,
) -> None:
    """Adds `GET` policies and capabilities, and `POST` and `DELETE` of policies.

    Args:
        host: whom a request is about.
        admin_keys: one of these loads and unloads, as `Authorization: Bearer KEY` or
            `X-Admin-Key: KEY`; without any, nobody does.
        guard: dependency that lets readers in; None lets in everybody whom the app lets in.
    """
    guarded = [] if guard is None else [Depends(guard)]
    lock = _Lock(admin_keys)

    async def policies(request: Request) -> Response:
        async def listed() -> dict[str, Plain]:
            return {"object": "list", "data": list(await host(request).policies())}

        return await _answer(listed)

    async def capabilities(request: Request) -> Response:
        async def told() -> dict[str, Plain]:
            return await host(request).capabilities()

        return await _answer(told)

    async def load(request: Request) -> Response:
        async def loaded() -> dict[str, Plain]:
            lock.check(request)
            return await host(request).load(await _id_in_body(request))

        return await _answer(loaded)

    async def unload(request: Request, policy: str) -> Response:
        async def unloaded() -> dict[str, Plain]:
            lock.check(request)
            return await host(request).unload(policy)

        return await _answer(unloaded)

    app.add_api_route(POLICIES, policies, methods=["GET"], dependencies=guarded)
    app.add_api_route(CAPABILITIES, capabilities, methods=["GET"], dependencies=guarded)
    app.add_api_route(POLICIES, load, methods=["POST"])
    app.add_api_route(POLICIES + "/{policy}", unload, methods=["DELETE"])


def describe(held: Held, *, served: bool = True) -> dict[str, Plain]:
    """A policy as clients are told of it; tensors and recipes stay where they are."""
    artifact = held.artifact
    provenance = artifact.provenance
    return {
        "id": held.id,
        "object": "steering.policy",
        "served": served,
        "digest": held.digest,
        "method": provenance.get("method"),
        "model": artifact.model.id,
        "data_hash": provenance.get("data_hash"),
        "library_version": artifact.library_version,
        "max_relative_norm": artifact.policy.max_relative_norm,
        "steerers": {name: _steerer(s) for name, s in artifact.policy.steerers.items()},
        "metrics": provenance.get("metrics") or {},
    }


def without_paths(message: str) -> str:
    """A message with the folders cut off paths, which are nobody's business outside."""
    return PATH.sub("", message)


def _steerer(steerer: Steerer) -> dict[str, Plain]:
    return {
        "sites": [str(site) for site in steerer.sites],
        "reads": [_read(read) for read in steerer.reads],
        "scope": _scope(steerer.scope),
        "strength": steerer.strength,
        "gate": steerer.gate.part_name,
        "synthesizer": steerer.synthesizer.part_name,
        "operator": steerer.operator.part_name,
    }


def _read(read: Read) -> dict[str, Plain]:
    return {
        "site": str(read.site),
        "token": read.offset,
        "generation_prompt": read.generation_prompt,
        "every": read.every,
    }


def _scope(scope: Scope) -> dict[str, Plain]:
    names = [name for name, known in SCOPES.items() if known == scope]
    return {
        "name": names[0] if names else None,
        "start": scope.start,
        "stop": scope.stop,
        "modality": scope.modality,
        "outside": [[span.start, span.end] for span in scope.outside],
    }


class EngineError(SteersmanError):
    """The engine does not answer, or not as it should.

    Attributes:
        code: why, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _AdminError(SteersmanError):
    """Somebody without the key wants to change what is served."""


class _Lock:
    """What keeps out whoever has no admin key."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = Keys([key for key in keys if key])

    def check(self, request: Request) -> None:
        """Raises `_AdminError` unless the request has an admin key."""
        if not self._keys:
            raise _AdminError(
                "Policies cannot be changed: the server was started without an admin key."
            )
        given = (request.headers.get("x-admin-key"), bearer(request))
        if not any([self._keys.holds(key) for key in given if key is not None]):
            raise _AdminError(
                "Changing policies needs an admin key: the header X-Admin-Key: KEY, or "
                "Authorization: Bearer KEY."
            )


async def _id_in_body(request: Request) -> str:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise RefusedError("E_BODY", f"The body has more than {MAX_BODY} bytes; give one id.")
    try:
        given: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("E_BODY", 'The body is not JSON; give {"id": "..."}.') from error
    if not isinstance(given, Mapping) or set(given) != {"id"} or not isinstance(given["id"], str):
        raise RefusedError("E_BODY", 'Give the id of a policy and nothing else: {"id": "..."}.')
    return given["id"]


async def _answer(work: Callable[[], Awaitable[dict[str, Plain]]]) -> Response:
    try:
        return Json(await work())
    except _AdminError as error:
        return ApiError(403, str(error), code="E_ADMIN").response()
    except RefusedError as error:
        status = 404 if error.code == "E_UNKNOWN_POLICY" else 400
        return ApiError(status, without_paths(str(error)), code=error.code).response()
    except EngineError as error:
        return ApiError(503, str(error), code=error.code).response()
    except SteersmanError as error:
        return ApiError(400, without_paths(str(error)), code=_code(error)).response()


def _code(error: SteersmanError) -> str:
    """`E_MODEL_MISMATCH` of a ModelMismatchError."""
    name = type(error).__name__.removesuffix("Error")
    return "E_" + re.sub(r"(?<=.)(?=[A-Z])", "_", name).upper()
