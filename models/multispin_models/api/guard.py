"""Lets in those with a key."""

from collections.abc import Set as AbstractSet

from starlette.types import ASGIApp, Receive, Scope, Send

from multispin_models.api.bodies import refusal
from multispin_models.api.errors import ApiError
from multispin_models.api.keys import Keys

__all__ = ["Guard"]


class Guard:
    """ASGI middleware; everybody may ask for the health.

    Args:
        app: what is guarded.
        keys: of those who are let in.
        open_paths: that are not guarded here.
    """

    def __init__(self, app: ASGIApp, keys: Keys, open_paths: AbstractSet[str] = frozenset()) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths | {"/health"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            try:
                self._keys.check(given)
            except ApiError as error:
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
