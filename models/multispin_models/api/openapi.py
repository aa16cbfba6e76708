"""The description of the interface at /openapi.json, generated from the Structs that requests are read into."""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

import multispin_models
from multispin_models.api.replies import ChatChunk, ChatCompletion, Completion, Health, Model, ModelList, Slot, Tokens
from multispin_models.api.requests import NEUTRAL, ChatRequest, CompletionRequest, TokenizeRequest

__all__ = ["describe"]


class _Operation(NamedTuple):
    method: str
    path: str
    summary: str
    body: type[Struct] | None
    reply: Any  # null: text
    event: type[Struct] | None = None  # of a stream
    parameter: str | None = None  # in the path


_OPERATIONS = (
    _Operation("post", "/v1/chat/completions", "Continue a conversation", ChatRequest, ChatCompletion, ChatChunk),
    _Operation("post", "/v1/completions", "Continue a text", CompletionRequest, Completion, Completion),
    _Operation("get", "/v1/models", "What is served", None, ModelList),
    _Operation("get", "/v1/models/{name}", "The same, by its name", None, Model, parameter="name"),
    _Operation("post", "/tokenize", "The tokens of a text or a conversation", TokenizeRequest, Tokens),
    _Operation("get", "/slots", "Requests that are served now", None, list[Slot]),
    _Operation("get", "/metrics", "Figures in Prometheus' text format", None, None),
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


def _described(operation: _Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    """Return the description of one operation."""
    reply: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if operation.reply is not None:
        reply = {"application/json": {"schema": schema_of[str(operation.reply)]}}
    if operation.event is not None:
        of = f"Server-sent events, each with a {operation.event.__name__} as data or an error; then [DONE]"
        reply["text/event-stream"] = {"schema": {"description": of}}
    refused = {"application/json": {"schema": schema_of[str(Refusal)]}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            "200": {"description": "Done", "content": reply},
            "default": {"description": "Refused", "content": refused},
        },
    }
    if operation.parameter is not None:
        parameter = {"name": operation.parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        described["parameters"] = [parameter]
    if operation.body is not None:
        content = {"application/json": {"schema": schema_of[str(operation.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.path == "/health":
        described["security"] = []
    return described


def describe(*, with_keys: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description.

    Args:
        with_keys: whether bearer keys are asked for.
    """
    kinds: list[Any] = [Refusal]
    for operation in _OPERATIONS:
        kinds += [kind for kind in (operation.body, operation.reply, operation.event) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, Any] = {}
    for operation in _OPERATIONS:
        paths[operation.path] = {operation.method: _described(operation, schema_of)}
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
