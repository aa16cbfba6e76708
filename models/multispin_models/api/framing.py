"""Replies and chunks of both kinds of completion, framed as server-sent events. No I/O.

    stream        role | text | text | ... | finish_reason | usage, if asked for | [DONE]

What a request took (`timings`, `metrics`, `energy`) stands on the whole reply, or on the last chunk before [DONE].
"""

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from multispin_models.api.errors import ApiError
from multispin_models.api.replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Delta,
    FinishReason,
    PromptTokensDetails,
    ReplyMessage,
    Usage,
)
from multispin_models.api.service import Generated
from multispin_models.provenance import Piece, Span

__all__ = ["DONE", "KEEP_ALIVE", "Reply", "event", "error_event"]

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting\n\n"  # a comment, which clients pass over


def event(data: Struct | dict[str, Any]) -> bytes:
    """Return a server-sent event. JSON has no line breaks of its own, so it is one line.

    >>> event({"a": "b\\n"})
    b'data: {"a":"b\\\\n"}\\n\\n'
    """
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """Return the event that ends a stream which has begun and cannot go on."""
    return event(error.body)


class Reply:
    """Makes the reply to one request, whole or in chunks.

    Args:
        request_id: on the wire.
        created: seconds since 1970.
        model: its name.
        fingerprint: of what wrote the text.
        num_prompt_tokens: of the request.
        is_chat: of which kind.
        include_usage: whether a stream ends with the usage.
        with_metrics: whether `metrics` are told.
        with_provenance: whether it is told whose every part of the text is.
    """

    def __init__(
        self,
        request_id: int,
        *,
        created: int,
        model: str,
        fingerprint: str,
        num_prompt_tokens: int,
        is_chat: bool,
        include_usage: bool = False,
        with_metrics: bool = False,
        with_provenance: bool = False,
    ) -> None:
        self._is_chat = is_chat
        self._num_prompt_tokens = num_prompt_tokens
        self._include_usage = include_usage
        self._with_metrics = with_metrics
        self._with_provenance = with_provenance
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id:016x}",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, generated: Generated, spans: tuple[Span, ...] = ()) -> ChatCompletion | Completion:
        """Return the reply in one; `spans` are of its text."""
        after = {**self._figures(generated), **self._provenance(spans), "usage": self._usage(generated)}
        if self._is_chat:
            message = ChatChoice(ReplyMessage(generated.text), generated.finish)
            return ChatCompletion(**self._head, object="chat.completion", choices=(message,), **after)
        choice = CompletionChoice(generated.text, generated.finish)
        return Completion(**self._head, object="text_completion", choices=(choice,), **after)

    def begin(self) -> bytes:
        """Return what comes before all text."""
        return event(self._chunk(Delta(role="assistant", content=""), "", None)) if self._is_chat else b""

    def piece(self, piece: Piece) -> bytes:
        """Return the event with a piece of text."""
        return event(self._chunk(Delta(content=piece.text), piece.text, None, **self._provenance(piece.spans)))

    def end(self, generated: Generated) -> bytes:
        """Return what comes after all text."""
        figures = self._figures(generated)
        if not self._include_usage:
            return event(self._chunk(Delta(), "", generated.finish, **figures)) + DONE
        last = self._chunk(Delta(), "", generated.finish)
        usage = msgspec.structs.replace(last, choices=(), usage=self._usage(generated), **figures)
        return event(last) + event(usage) + DONE

    def _chunk(self, delta: Delta, text: str, finish: FinishReason | None, **figures: Any) -> ChatChunk | Completion:
        usage: UnsetType | None = None if self._include_usage else UNSET
        if self._is_chat:
            chat_choice = ChatChunkChoice(delta, finish)
            kind = "chat.completion.chunk"
            return ChatChunk(**self._head, object=kind, choices=(chat_choice,), usage=usage, **figures)
        choice = CompletionChoice(text, finish)
        return Completion(**self._head, object="text_completion", choices=(choice,), usage=usage, **figures)

    def _figures(self, generated: Generated) -> dict[str, Any]:
        figures: dict[str, Any] = {"timings": generated.timings, "energy": generated.energy}
        if self._with_metrics:
            figures["metrics"] = generated.metrics
        if generated.degraded is not None:
            figures["degraded"] = generated.degraded
        return figures

    def _provenance(self, spans: tuple[Span, ...]) -> dict[str, Any]:
        return {"provenance": spans} if self._with_provenance else {}

    def _usage(self, generated: Generated) -> Usage:
        return Usage(
            self._num_prompt_tokens,
            generated.num_tokens,
            self._num_prompt_tokens + generated.num_tokens,
            PromptTokensDetails(generated.num_cached),
        )
