"""What a client is told when something goes wrong, in OpenAI's shape and without our insides."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as RoutingError

from steersman.core.serving import RefusedError

LOG = logging.getLogger("steersman.server")
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
MOST = 500  # characters of a message; what clients send may be long


class Json(Response):
    """JSON in ASCII: whatever a client wrote into a name can be sent back."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: why, for programs.
        param: the field of the body that is at fault, as in "messages[0].content".
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The object that OpenAI's client makes an exception of."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        said = {"message": str(self)[:MOST], "type": TYPES.get(self.status, kind)}
        return {"error": {**said, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return Json(self.body(), self.status, self.headers)


def refused(message: str, *, code: str = "invalid_value", param: str | None = None) -> ApiError:
    """What is wrong with a request, and is the client's to change."""
    return ApiError(400, message, code=code, param=param)


def of_steering(error: RefusedError) -> ApiError:
    return refused(str(error), code=error.code, param="steering")


def broken() -> ApiError:
    """Something that nobody foresaw: the log knows more, the client does not."""
    return ApiError(
        500,
        "The server failed on this request, and its log says why. Give whoever runs it the id in "
        "the header x-request-id.",
        code="internal_error",
    )


def add_error_handlers(app: FastAPI) -> None:
    """Makes every error of the app, of FastAPI and of its router one of OpenAI's shape."""

    async def told(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return answer(request, error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, from_validation(error.errors()))

    async def routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, RoutingError)
        return answer(request, from_http(request, error))

    async def steering(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return answer(request, of_steering(error))

    async def unforeseen(request: Request, _: Exception) -> Response:
        return answer(request, broken())

    app.add_exception_handler(Exception, unforeseen)
    app.add_exception_handler(ApiError, told)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(RoutingError, routed)
    app.add_exception_handler(RefusedError, steering)


def answer(request: Request, error: ApiError) -> Response:
    """The response, with its code noted for the log."""
    request.scope.setdefault("state", {}).setdefault("told", {})["error"] = error.code
    return error.response()


def from_http(request: Request, error: HTTPException | RoutingError) -> ApiError:
    """Errors that FastAPI raises itself, and those whose detail is already of OpenAI's shape."""
    inner = error.detail.get("error") if isinstance(error.detail, dict) else None
    headers = dict(error.headers or {})
    if isinstance(inner, dict):
        return ApiError(
            error.status_code, str(inner.get("message", "")), code=inner.get("code"),
            param=inner.get("param"), headers=headers,
        )  # fmt: skip
    message, code = str(error.detail), None
    if error.status_code == 404:
        message, code = f"There is no {request.method} {request.url.path}.", "not_found"
    elif error.status_code == 405:
        message, code = f"{request.url.path} takes no {request.method}.", "method_not_allowed"
    elif error.status_code == 400:
        message, code = "The body is no JSON that could be read.", "invalid_json"
    return ApiError(error.status_code, message, code=code, headers=headers)


def from_validation(errors: Sequence[Any]) -> ApiError:
    """The error that says most: where a field may be several things, what got furthest."""
    worst = max(errors, key=lambda e: (len(e["loc"]), e["type"] != "string_type"))
    kind, param, told = worst["type"], path(worst["loc"]), worst.get("ctx", {})
    if kind in ("unknown_parameter", "unsupported_parameter"):
        inside = f"{param}.{told['param']}" if param else told["param"]
        return refused(told["said"], code=kind, param=inside[:100])
    if kind == "json_invalid":
        return refused(f"The body is no JSON: {told['error']}.", code="invalid_json")
    if param is None:
        return refused(
            "The body is no JSON object. Send one, with the header content-type: application/json.",
            code="invalid_json",
        )
    if kind == "missing":
        return refused(f"{param} is missing.", code="missing_required_parameter", param=param)
    return refused(f"{param}: {worst['msg'].removesuffix('.')}.", code="invalid_value", param=param)


def path(loc: Sequence[object]) -> str | None:
    """ "messages[0].content" of a place in the body; None for the body itself.

    What pydantic says of the kinds that a value may have is left out.
    """
    said, last = "", None
    for part in loc[1:]:
        if isinstance(part, int):
            said += f"[{part}]"
        elif str(part).isidentifier() and part not in ("str", last):
            said += f".{part}" if said else str(part)
        last = part
    return said[:100] or None
