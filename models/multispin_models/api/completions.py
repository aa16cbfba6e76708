"""The two text endpoints: a body in, a text out, whole or while it is written; it ends when its client leaves."""

import asyncio
import logging
import time

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from multispin_models.api.bodies import fault, json_response, read_body
from multispin_models.api.errors import ApiError
from multispin_models.api.framing import KEEP_ALIVE, Reply, error_event
from multispin_models.api.generations import Generations, Serving, outcome
from multispin_models.api.outbox import Outbox
from multispin_models.api.prepare import Prepared, prepare_text
from multispin_models.api.requests import ChatRequest, CompletionRequest
from multispin_models.api.service import Generated
from multispin_models.api.settings import HttpSettings

__all__ = ["TextEndpoint"]

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0  # a stream without text says so: proxies cut off what is silent for a minute


class TextEndpoint:
    """Serves one kind of completion; an ASGI application.

    Args:
        generations: where texts are written.
        settings: bounds.
        model_name: as clients name what is served.
        kind: of the bodies.
    """

    def __init__(
        self,
        generations: Generations,
        settings: HttpSettings,
        model_name: str,
        kind: type[ChatRequest] | type[CompletionRequest],
    ) -> None:
        self._generations = generations
        self._settings = settings
        self._model_name = model_name
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request until its text is sent, or its client has left."""
        serving = self._generations.ready()
        body = await read_body(Request(scope, receive), self._settings.max_body_bytes)
        with serving.slots.enter():
            prepared = await self._prepare(body, serving)
            outbox = Outbox()
            generation = self._generations.start(serving, prepared, outbox)
            gone = asyncio.create_task(_until_gone(receive))
            gone.add_done_callback(lambda _: generation.cancel())
            reply = self._reply(serving, prepared)
            try:
                if prepared.stream:
                    await _send_stream(send, reply, outbox, generation)
                else:
                    await asyncio.wait({generation})
                    await json_response(reply.whole(outcome(generation), outbox.take_all().spans))(scope, receive, send)
            finally:
                gone.cancel()
                generation.cancel()
                await asyncio.gather(gone, generation, return_exceptions=True)

    async def _prepare(self, body: bytes, serving: Serving) -> Prepared:
        return await self._generations.encode(
            prepare_text,
            body,
            self._kind,
            model_name=self._model_name,
            tokenizer=serving.service.tokenizer,
            n_vocab=serving.service.n_vocab,
            bounds=serving.bounds,
        )

    def _reply(self, serving: Serving, prepared: Prepared) -> Reply:
        return Reply(
            prepared.text.request_id,
            created=int(time.time()),
            model=self._model_name,
            fingerprint=serving.service.fingerprint,
            num_prompt_tokens=len(prepared.text.prompt_ids),
            is_chat=prepared.is_chat,
            include_usage=prepared.include_usage,
            with_metrics=self._settings.metrics != "none",
            with_provenance=prepared.text.provenance,
        )


async def _send_stream(send: Send, reply: Reply, outbox: Outbox, generation: "asyncio.Task[Generated]") -> None:
    """Send a text while it is written. What fails before there is any has a status of its own."""
    piece = await outbox.take(KEEP_ALIVE_S)
    if piece is None:
        outcome(generation)
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    ahead = reply.begin()
    while piece is not None:
        await _send_body(send, ahead + (reply.piece(piece) if piece.text else KEEP_ALIVE))
        ahead = b""
        piece = await outbox.take(KEEP_ALIVE_S)
    try:
        end = reply.end(outcome(generation))
    except ApiError as error:
        end = error_event(error)
    except Exception:
        log.exception("a text could not be written to its end")
        end = error_event(fault())
    await _send_body(send, ahead + end, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _until_gone(receive: Receive) -> None:
    """Return when the client has left, or has the whole reply."""
    while (await receive())["type"] != "http.disconnect":
        pass
