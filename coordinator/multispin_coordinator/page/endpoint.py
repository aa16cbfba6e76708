"""The page over HTTP: files that are the same for everybody, and events for those whom `Access` lets in."""

import asyncio
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from multispin_coordinator.page.access import Access
from multispin_coordinator.page.feed import Feed
from multispin_models.api.errors import ApiError, unavailable
from multispin_models.clock import monotonic_ns

__all__ = ["Page"]

MAX_VIEWERS = 8
INTERVAL_S = 0.5
RETRY_AFTER_S = 5
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
HEADERS = {
    # Nothing from elsewhere, nothing in line: also what a text might carry would not be run.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Page:
    """The routes; events are answered with 503 until `open`.

    Args:
        access: who is let in.
        interval_s: between the events of a viewer.
        max_viewers: at once; the next one is refused.
    """

    def __init__(self, access: Access, interval_s: float = INTERVAL_S, max_viewers: int = MAX_VIEWERS) -> None:
        self._access = access
        self._interval_s = interval_s
        self._max_viewers = max_viewers
        self._feed: Feed | None = None
        self._stopping = asyncio.Event()
        self.num_viewers = 0
        static = files("multispin_coordinator.page") / "static"
        self._files = {
            "/page" if file.name == "index.html" else f"/page/{file.name}": (
                file.read_bytes(),
                KINDS[file.name.rpartition(".")[2]],
            )
            for file in static.iterdir()
        }

    @property
    def routes(self) -> list[Route]:
        """For the application of the coordinator's own users."""
        return [
            *(Route(path, self._file, methods=["GET"]) for path in self._files),
            Route("/page/events", _Events(self), methods=["GET"]),
        ]

    def open(self, feed: Feed) -> None:
        """Tell viewers from now on."""
        self._feed = feed

    def stop(self) -> None:
        """End the streams of all viewers."""
        self._stopping.set()

    async def _file(self, request: Request) -> Response:
        body, kind = self._files[request.url.path]
        return Response(body, media_type=kind, headers=HEADERS)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the viewer has left, or the coordinator stops.

        Raises:
            ApiError: no access, too many viewers, or nothing to tell yet.
        """
        texts_reason = self._access.check(Request(scope).headers)
        if self._feed is None or self._stopping.is_set():
            raise unavailable("the target is being loaded, or the coordinator stops; try again", "loading")
        if self.num_viewers >= self._max_viewers:
            raise ApiError(
                503,
                "server_error",
                f"{self.num_viewers} viewers look at this page, the most allowed: close one, or try again later",
                code="too_many_viewers",
                headers={"retry-after": str(RETRY_AFTER_S)},
            )
        self.num_viewers += 1
        ended = {asyncio.create_task(_until_gone(receive)), asyncio.create_task(self._wait_stop())}
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            await self._tell(self._feed, texts_reason, ended, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.num_viewers -= 1
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)

    async def _tell(self, feed: Feed, texts_reason: str | None, ended: "set[asyncio.Task[None]]", send: Send) -> None:
        cursor = None
        while not any(task.done() for task in ended):
            event, cursor = feed.since(cursor, monotonic_ns(), texts_reason=texts_reason)
            body = b"data: " + msgspec.json.encode(event) + b"\n\n"
            # A viewer that takes nothing holds this up, and is cut off by the connection's time-out.
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.wait(ended, timeout=self._interval_s, return_when=asyncio.FIRST_COMPLETED)

    async def _wait_stop(self) -> None:
        await self._stopping.wait()


class _Events:
    """The stream as an ASGI application of its own, which a route takes as it is."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._page.stream(scope, receive, send)


_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
