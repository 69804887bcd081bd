"""Who is let in, and how much one may send: pure ASGI, so that streams stay streams."""

import asyncio
import hashlib
import hmac
from collections.abc import Collection

from fastapi import HTTPException, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server.errors import ApiError, answer

OPEN_PATHS = ("/health",)
"""Paths that need no key."""
BODY_SECONDS = 60.0
"""How long a client may take to send its request."""
SEND_SECONDS = 60.0
"""How long a client may take to read what was sent, once the buffers are full."""


class Keys:
    """Keys that are compared in a time that does not tell how much of one was right."""

    def __init__(self, keys: Collection[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def holds(self, key: str) -> bool:
        """Whether this is one of them."""
        given = _digest(key)
        same = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(same)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def bearer(request: Request) -> str | None:
    """The key of a request."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


class KeyGuard:
    """Lets in only who has a key, once there are any.

    Args:
        keys: of users and of admins.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self._app, self._keys = app, Keys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        key = bearer(request)
        if key is not None and self._keys.holds(key):
            await self._app(scope, receive, send)
            return
        told = "Send an API key: Authorization: Bearer KEY."
        said = told if key is None else f"The API key is not known. {told}"
        error = ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        await answer(request, error)(scope, receive, send)


class BodyLimit:
    """Bounds what a client sends, while it sends it, and how long that takes.

    Args:
        max_body: bytes.
    """

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self._app, self._max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Request(scope).headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            await answer(Request(scope), self._too_large())(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        got, whole = 0, False

        async def bounded() -> Message:
            nonlocal got, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    ApiError(
                        408,
                        f"The request was not sent within {BODY_SECONDS:g} seconds. Send it again.",
                        code="request_timeout",
                    ).body(),
                ) from None
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > self._max_body:
                raise HTTPException(413, self._too_large().body())
            return message

        async def patient(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            await self._app(scope, bounded, patient)
        except TimeoutError:
            scope.setdefault("state", {}).setdefault("told", {})["error"] = "slow_client"

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"The request has more than {self._max_body:,} bytes. Send less, or raise --max-body.",
            code="body_too_large",
            headers={"Connection": "close"},
        )
