"""The description of the interface at /openapi.json, generated from the Structs that requests are read into."""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

import multispin_models
from multispin_models.api.replies import ChatCompletion, Completion, Health, ModelList, Slot, Tokens
from multispin_models.api.requests import NEUTRAL, ChatRequest, CompletionRequest, TokenizeRequest

__all__ = ["describe"]


class _Operation(NamedTuple):
    method: str
    path: str
    summary: str
    body: type[Struct] | None
    reply: Any
    streams: bool = False


_OPERATIONS = (
    _Operation("post", "/v1/chat/completions", "Continue a conversation", ChatRequest, ChatCompletion, streams=True),
    _Operation("post", "/v1/completions", "Continue a text", CompletionRequest, Completion, streams=True),
    _Operation("get", "/v1/models", "What is served", None, ModelList),
    _Operation("post", "/tokenize", "The tokens of a text or a conversation", TokenizeRequest, Tokens),
    _Operation("get", "/slots", "Requests that are served now", None, list[Slot]),
    _Operation("get", "/health", "Whether requests are served: 200, or 503 with the reason", None, Health),
)


class _Error(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(Struct, frozen=True):
    """A request that is not served: what, the value, what is allowed; `param` names the field."""

    error: _Error


def describe(*, with_keys: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description.

    Args:
        with_keys: whether bearer keys are asked for.
    """
    kinds: list[Any] = [Refusal]
    for operation in _OPERATIONS:
        kinds += [kind for kind in (operation.body, operation.reply) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        reply = {"application/json": {"schema": schema_of[str(operation.reply)]}}
        if operation.streams:
            reply["text/event-stream"] = {"schema": {"type": "string"}}
        described: dict[str, Any] = {
            "summary": operation.summary,
            "responses": {
                "200": {"description": "Done", "content": reply},
                "default": {
                    "description": "Refused",
                    "content": {"application/json": {"schema": schema_of[str(Refusal)]}},
                },
            },
        }
        if operation.body is not None:
            content = {"application/json": {"schema": schema_of[str(operation.body)]}}
            described["requestBody"] = {"required": True, "content": content}
        if operation.path == "/health":
            described["security"] = []
        paths[operation.path] = {operation.method: described}
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "multispin",
            "version": multispin_models.__version__,
            "description": "Fields that are not described are passed over, but for these, which are refused unless "
            f"they ask for nothing: {', '.join(sorted(NEUTRAL))}.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if with_keys:
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{"key": []}]
    return description
