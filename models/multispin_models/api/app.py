"""The routes of one daemon."""

import time
from collections.abc import Sequence

import msgspec
from msgspec import UNSET
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from multispin_models.api.bodies import EXCEPTION_HANDLERS, json_response, read_body
from multispin_models.api.completions import TextEndpoint
from multispin_models.api.errors import invalid, unavailable
from multispin_models.api.generations import Generations
from multispin_models.api.guard import Guard
from multispin_models.api.keys import Keys
from multispin_models.api.openapi import describe
from multispin_models.api.prepare import prepare_tokens
from multispin_models.api.prometheus import CONTENT_TYPE
from multispin_models.api.replies import Health, Model, ModelList
from multispin_models.api.requests import ChatRequest, CompletionRequest
from multispin_models.api.service import TextService
from multispin_models.api.settings import HttpSettings

__all__ = ["Api"]


class Api:
    """The interface of one daemon; answers 503 until `open`.

    Args:
        settings: bounds.
        model_name: as clients name what is served.
        keys: of those who are let in; null lets in everybody.
        own_routes: of the daemon; they let in whom they want.
    """

    def __init__(
        self, settings: HttpSettings, model_name: str, keys: Keys | None, own_routes: Sequence[Route] = ()
    ) -> None:
        self._settings = settings
        self._model_name = model_name
        self._created = int(time.time())
        self._generations = Generations(settings.max_waiting, settings.stop_grace_s)
        self._description = msgspec.json.encode(describe(with_keys=keys is not None))
        chat, completion = (
            TextEndpoint(self._generations, settings, model_name, kind) for kind in (ChatRequest, CompletionRequest)
        )
        self.app: ASGIApp = Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/v1/models/{name:path}", self._model, methods=["GET"]),
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/completions", completion, methods=["POST"]),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/slots", self._slots, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                *own_routes,
            ],
            middleware=[]
            if keys is None
            else [Middleware(Guard, keys=keys, open_paths={route.path for route in own_routes})],
            exception_handlers=EXCEPTION_HANDLERS,
        )

    @property
    def num_present(self) -> int:
        """Requests that are served or wait."""
        return self._generations.num_present

    def open(self, service: TextService, collector: Collector) -> None:
        """Serve from now on, and tell at /metrics what the collector has counted."""
        self._generations.open(service, collector)

    async def stop(self) -> None:
        """Refuse new requests, give those under way `stop_grace_s` to end, then end them with an error."""
        await self._generations.stop()

    async def _health(self, _request: Request) -> Response:
        serving = self._generations.ready()
        if absent := serving.service.why_absent():
            raise unavailable(absent, "no_coordinator")
        return json_response(Health(serving.service.why_degraded() or UNSET))

    async def _models(self, _request: Request) -> Response:
        return json_response(ModelList((self._described_model(),)))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self._model_name:
            raise invalid(
                f"model {name!r} is not served here, {self._model_name!r} is", "model", "model_not_found", status=404
            )
        return json_response(self._described_model())

    def _described_model(self) -> Model:
        return Model(self._model_name, self._created, self._generations.ready().bounds.max_context_tokens)

    async def _tokenize(self, request: Request) -> Response:
        serving = self._generations.ready()
        body = await read_body(request, self._settings.max_body_bytes)
        with serving.slots.enter():
            tokens = await self._generations.encode(
                prepare_tokens,
                body,
                tokenizer=serving.service.tokenizer,
                max_model_len=serving.bounds.max_context_tokens,
            )
        return json_response(tokens)

    async def _slots(self, _request: Request) -> Response:
        serving = self._generations.ready()
        return json_response(serving.slots.describe(serving.bounds.max_context_tokens))

    async def _metrics(self, _request: Request) -> Response:
        return Response(await self._generations.metrics(), media_type=CONTENT_TYPE)

    async def _openapi(self, _request: Request) -> Response:
        return Response(self._description, media_type="application/json")
