"""A request's body, read within bounds, and what is answered to it: JSON, or a refusal in the shape of OpenAI's."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from multispin_models.api.errors import ApiError, invalid

__all__ = ["EXCEPTION_HANDLERS", "fault", "json_response", "read_body", "refusal"]

DRAINED_BODIES = 4  # a body that is too long is read on for so many limits: who still sends would not hear the answer


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Args:
        request: whose body was not read yet.
        limit: most bytes.

    Raises:
        ApiError: no JSON by its header, or too long.
        ClientDisconnect: the client left, or was too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise invalid(f"content-type is {kind[:80]!r}, allowed is application/json", status=415)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > DRAINED_BODIES * limit:
            break
        pieces.append(piece)
        if size > limit:
            pieces.clear()
    if size > limit:
        raise ApiError(
            413,
            "invalid_request_error",
            f"body is longer than {limit} bytes, the most allowed here: shorten the prompt",
            code="body_too_large",
            headers={"connection": "close"},
        )
    return b"".join(pieces)


def json_response(data: Any) -> Response:
    """Return a response of status 200."""
    return Response(msgspec.json.encode(data), media_type="application/json")


def refusal(error: ApiError) -> Response:
    """Return the response of a request that is not served."""
    body = msgspec.json.encode(error.body)
    return Response(body, error.status, headers=error.headers, media_type="application/json")


def fault() -> ApiError:
    """Return the error of a request on which this program failed."""
    return ApiError(500, "server_error", "this server failed on the request; its log says why", code="internal_error")


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refusal(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path} is not served here: {error.detail}; /openapi.json says what is"
    response = refusal(invalid(message, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=408)  # to nobody


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return refusal(fault())


EXCEPTION_HANDLERS: dict[Any, Any] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_disconnect,
    Exception: _on_fault,
}
