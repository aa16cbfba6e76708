"""A refusal as OpenAI's clients read it: {"error": {"message", "type", "param", "code"}}, and a status."""

from typing import Any

from multispin_models.errors import MultispinError

__all__ = ["ApiError", "invalid", "overloaded", "unavailable"]


class ApiError(MultispinError):
    """A request that is not served.

    Args:
        status: of HTTP.
        kind: the error's `type`, as "invalid_request_error".
        message: what, the value, what is allowed, what to do.
        param: the field that it is about.
        code: for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None, status: int = 400) -> ApiError:
    """Return the error of a request that must be asked otherwise."""
    return ApiError(status, "invalid_request_error", message, param=param, code=code)


def overloaded(message: str, retry_after_s: int) -> ApiError:
    """Return the error of a request for which there is no place now."""
    headers = {"retry-after": str(retry_after_s)}
    return ApiError(429, "rate_limit_error", message, code="too_many_requests", headers=headers)


def unavailable(message: str, code: str = "unavailable", retry_after_s: int = 5) -> ApiError:
    """Return the error of a daemon that does not serve now: it loads, it stops, or its coordinator is away or full."""
    return ApiError(503, "unavailable_error", message, code=code, headers={"retry-after": str(retry_after_s)})
