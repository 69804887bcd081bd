"""Logs: one line of JSON a request, and never what was asked or answered unless that is wanted."""

import json
import logging
import re
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOG = logging.getLogger("steersman.server")
QUIET = ("/health", "/metrics")
"""Paths that are asked every few seconds, and say nothing new."""
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class JsonLines(logging.Formatter):
    """One object a line.

    Args:
        private: leave out messages of exceptions, which may cite a prompt.
    """

    def __init__(self, *, private: bool = True) -> None:
        super().__init__()
        self._private = private

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        fields = record.__dict__.get("fields")
        if isinstance(fields, dict):
            told |= fields
        if record.exc_info and record.exc_info[1] is not None:
            told["exception"] = self._exception(record.exc_info[1])
        return json.dumps(told, default=str)

    def _exception(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        told: dict[str, Any] = {
            "type": type(error).__name__,
            "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in frames],
        }
        if not self._private:
            told["message"] = str(error)
        return told


def set_up_logs(*, log_prompts: bool, stream: Any = None) -> None:
    """Makes the server's log, and uvicorn's, lines of JSON on stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(private=not log_prompts))
    for name in ("steersman.server", "uvicorn", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers = [handler] if name != "uvicorn.error" else []
        log.propagate = name == "uvicorn.error"
        log.setLevel(logging.INFO)


class RequestLog:
    """Gives every request an id, and writes its line when it is over.

    What routes want in the line they put into `scope["state"]["told"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = given if ID.fullmatch(given) else uuid.uuid4().hex
        told: dict[str, Any] = {}
        scope.setdefault("state", {})
        scope["state"]["id"], scope["state"]["told"] = name, told
        began, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:  # the app has answered; here it ends
            told["error"] = told.get("error") or "internal_error"
            LOG.error("a request failed", exc_info=error, extra={"fields": {"id": name}})
        finally:
            if scope["path"] not in QUIET:
                seconds = time.monotonic() - began
                line = {"id": name, "method": scope["method"], "path": scope["path"][:200]}
                line |= {"status": status or None, "seconds": round(seconds, 4)} | told
                LOG.info("request", extra={"fields": line})
