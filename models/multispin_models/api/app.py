"""The routes: bodies in, text out; what a client asked for ends when the client leaves."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from multispin_models.api.errors import ApiError, invalid, unavailable
from multispin_models.api.framing import KEEP_ALIVE, Reply, error_event
from multispin_models.api.keys import Keys
from multispin_models.api.openapi import describe
from multispin_models.api.outbox import Outbox
from multispin_models.api.prepare import Prepared, prepare_text, prepare_tokens
from multispin_models.api.replies import Health, Model, ModelList
from multispin_models.api.requests import ChatRequest, CompletionRequest
from multispin_models.api.service import Bounds, Generated, TextService
from multispin_models.api.settings import HttpSettings
from multispin_models.api.slots import Slots

__all__ = ["Api"]

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0  # a stream without text says so: proxies cut off what is silent for a minute
DRAINED_BODIES = 4  # a body that is too long is read on for so many limits: who still sends would not hear the answer

T = TypeVar("T")


class _Serving:
    """A service with its slots."""

    def __init__(self, service: TextService, max_waiting: int) -> None:
        self.service = service
        self.slots = Slots(service.num_slots, max_waiting)


class Api:
    """The interface of one daemon; answers 503 until `open`.

    Args:
        settings: bounds.
        model_name: as clients name what is served.
        keys: of those who are let in; null lets in everybody.
    """

    def __init__(self, settings: HttpSettings, model_name: str, keys: Keys | None) -> None:
        self._settings = settings
        self._model_name = model_name
        self._created = int(time.time())
        self._serving: _Serving | None = None
        self._stopping = False
        self._generations: set[asyncio.Task[Generated]] = set()
        # One thread for what a long prompt costs, so that rounds go on meanwhile.
        self._encoder = ThreadPoolExecutor(1, "encoder")
        self._description = msgspec.json.encode(describe(with_keys=keys is not None))
        self.app: ASGIApp = Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/v1/chat/completions", _TextEndpoint(self, ChatRequest), methods=["POST"]),
                Route("/v1/completions", _TextEndpoint(self, CompletionRequest), methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/slots", self._slots, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
            ],
            middleware=[] if keys is None else [Middleware(_Guard, keys=keys)],
            exception_handlers={
                ApiError: _on_api_error,
                HTTPException: _on_http_error,
                ClientDisconnect: _on_disconnect,
                Exception: _on_fault,
            },
        )

    @property
    def num_present(self) -> int:
        """Requests that are served or wait."""
        return 0 if self._serving is None else self._serving.slots.num_present

    def open(self, service: TextService) -> None:
        """Serve from now on."""
        self._serving = _Serving(service, self._settings.max_waiting)

    async def stop(self) -> None:
        """Refuse new requests, give those under way `stop_grace_s` to end, then end them with an error."""
        self._stopping = True
        if self._generations:
            await asyncio.wait(self._generations, timeout=self._settings.stop_grace_s)
        for generation in self._generations:
            generation.cancel()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    # -- what the text endpoints need ---------------------------------------------------------------------------------

    def ready(self) -> tuple[_Serving, Bounds]:
        """Return what serves, and the bounds of a request.

        Raises:
            ApiError: 503, it loads, it stops, or its coordinator has not welcomed it yet.
        """
        if self._stopping:
            raise unavailable("this server is stopping", "stopping")
        if self._serving is None:
            raise unavailable("the model is being loaded; try again in a few seconds", "loading")
        bounds = self._serving.service.bounds()
        if bounds is None:
            raise unavailable(self._serving.service.why_absent(), "no_coordinator")
        return self._serving, bounds

    async def read_body(self, request: Request) -> bytes:
        """Return the body of a request.

        Raises:
            ApiError: no JSON by its header, or too long.
            ClientDisconnect: the client left, or was too slow.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise invalid(f"content-type is {kind[:80]!r}, allowed is application/json", status=415)
        limit = self._settings.max_body_bytes
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

    async def encode(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """Return function(*args, **keywords), computed beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._encoder, partial(function, *args, **keywords))

    def prepare(self, body: bytes, kind: type[Any], service: TextService, bounds: Bounds) -> Prepared:
        """Return what a body asks for; for the encoder's thread."""
        return prepare_text(
            body,
            kind,
            model_name=self._model_name,
            tokenizer=service.tokenizer,
            n_vocab=service.n_vocab,
            bounds=bounds,
        )

    def start(self, serving: _Serving, prepared: Prepared, outbox: Outbox) -> "asyncio.Task[Generated]":
        """Return the task that generates a text, once it has a slot."""

        async def generate() -> Generated:
            async with serving.slots.take(prepared.text) as queued_s:
                return await serving.service.generate(prepared.text, outbox.put, queued_s)

        generation = asyncio.create_task(generate())
        self._generations.add(generation)
        generation.add_done_callback(self._generations.discard)
        generation.add_done_callback(lambda _: outbox.close())
        return generation

    def reply(self, service: TextService, prepared: Prepared) -> Reply:
        """Return what frames the reply to a request."""
        return Reply(
            prepared.text.request_id,
            created=int(time.time()),
            model=self._model_name,
            fingerprint=service.fingerprint,
            num_prompt_tokens=len(prepared.text.prompt_ids),
            is_chat=prepared.is_chat,
            include_usage=prepared.include_usage,
            with_metrics=self._settings.metrics != "none",
        )

    # -- the other endpoints ------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Response:
        serving, _ = self.ready()
        if absent := serving.service.why_absent():
            raise unavailable(absent, "no_coordinator")
        return _json(Health())

    async def _models(self, _request: Request) -> Response:
        return _json(ModelList((self._described_model(),)))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self._model_name:
            raise invalid(
                f"model {name!r} is not served here, {self._model_name!r} is", "model", "model_not_found", status=404
            )
        return _json(self._described_model())

    def _described_model(self) -> Model:
        _, bounds = self.ready()
        return Model(self._model_name, self._created, bounds.max_context_tokens)

    async def _tokenize(self, request: Request) -> Response:
        serving, bounds = self.ready()
        body = await self.read_body(request)
        with serving.slots.enter():
            tokens = await self.encode(
                prepare_tokens,
                body,
                tokenizer=serving.service.tokenizer,
                max_model_len=bounds.max_context_tokens,
            )
        return _json(tokens)

    async def _slots(self, _request: Request) -> Response:
        serving, bounds = self.ready()
        return _json(serving.slots.describe(bounds.max_context_tokens))

    async def _openapi(self, _request: Request) -> Response:
        return Response(self._description, media_type="application/json")


class _TextEndpoint:
    """Serves one kind of completion; an ASGI application.

    Args:
        api: of which it is a part.
        kind: of its bodies.
    """

    def __init__(self, api: Api, kind: type[ChatRequest] | type[CompletionRequest]) -> None:
        self._api = api
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving, bounds = self._api.ready()
        request = Request(scope, receive)
        body = await self._api.read_body(request)
        with serving.slots.enter():
            prepared = await self._api.encode(self._api.prepare, body, self._kind, serving.service, bounds)
            outbox = Outbox()
            generation = self._api.start(serving, prepared, outbox)
            gone = asyncio.create_task(_until_gone(receive))
            gone.add_done_callback(lambda _: generation.cancel())
            reply = self._api.reply(serving.service, prepared)
            try:
                if prepared.stream:
                    await _send_stream(send, reply, outbox, generation)
                else:
                    await asyncio.wait({generation})
                    await _json(reply.whole(_outcome(generation)))(scope, receive, send)
            finally:
                gone.cancel()
                generation.cancel()
                await asyncio.gather(gone, generation, return_exceptions=True)


async def _send_stream(send: Send, reply: Reply, outbox: Outbox, generation: "asyncio.Task[Generated]") -> None:
    """Send a text while it is written. What fails before there is any has a status of its own."""
    text = await outbox.take(KEEP_ALIVE_S)
    if text is None:
        _outcome(generation)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    ahead = reply.begin()
    while text is not None:
        await _send_body(send, ahead + (reply.piece(text) if text else KEEP_ALIVE))
        ahead = b""
        text = await outbox.take(KEEP_ALIVE_S)
    try:
        end = reply.end(_outcome(generation))
    except ApiError as error:
        end = error_event(error)
    except Exception:
        log.exception("a text could not be written to its end")
        end = error_event(_fault())
    await _send_body(send, ahead + end, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _outcome(generation: "asyncio.Task[Generated]") -> Generated:
    """Return what a generation that has ended gave.

    Raises:
        ApiError: it could not be served, or the server stops. (If the client left, nobody hears it.)
    """
    if generation.cancelled():
        raise unavailable("this server is stopping; ask again, another one may answer", "stopping")
    return generation.result()


async def _until_gone(receive: Receive) -> None:
    """Return when the client has left, or has the whole reply."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Guard:
    """Lets in those with a key; everybody may ask for the health."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), None)
            try:
                self._keys.check(given)
            except ApiError as error:
                await _refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _json(data: Any) -> Response:
    return Response(msgspec.json.encode(data), media_type="application/json")


def _refusal(error: ApiError) -> Response:
    body = msgspec.json.encode(error.body)
    return Response(body, error.status, headers=error.headers, media_type="application/json")


def _fault() -> ApiError:
    return ApiError(500, "server_error", "this server failed on the request; its log says why", code="internal_error")


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _refusal(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path} is not served here: {error.detail}; /openapi.json says what is"
    refusal = _refusal(invalid(message, status=error.status_code))
    refusal.headers.update(error.headers or {})
    return refusal


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=408)  # to nobody


async def _on_fault(_request: Request, _error: Exception) -> Response:
    return _refusal(_fault())
