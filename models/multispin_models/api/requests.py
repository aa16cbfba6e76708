"""Request bodies, and what in them is refused.

Fields that no one here knows are passed over, as OpenAI-compatible servers do: clients send more every month. But a
field that would change the text, and that is not served, is refused by name unless it asks for nothing (`NEUTRAL`).
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from multispin_models.api.errors import invalid

__all__ = [
    "NEUTRAL",
    "ChatRequest",
    "CompletionRequest",
    "ContentPart",
    "Message",
    "Resume",
    "StreamOptions",
    "TokenizeRequest",
    "decode_request",
]

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "json_schema": ({},),
    "length_penalty": (1,),
    "logit_bias": ({}, []),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "repeat_penalty": (1,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_n_sigma": (-1,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "web_search_options": (),
    "xtc_probability": (0,),
}
"""Fields that are refused, each with the values that ask for nothing; null always does."""

NEUTRAL_IN_MESSAGE: Final[dict[str, tuple[Any, ...]]] = {"audio": (), "function_call": (), "tool_calls": ([],)}

MAX_STOPS: Final = 16

Count = Annotated[int, Meta(ge=1, lt=1 << 31)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
StopList = Annotated[tuple[StopString, ...], Meta(max_length=MAX_STOPS)]
TokenIds = Annotated[tuple[Annotated[int, Meta(ge=0, lt=1 << 24)], ...], Meta(min_length=1)]


class StreamOptions(Struct, frozen=True):
    """What a stream tells beside the text.

    Attributes:
        include_usage: a last event with the usage, without choices.
    """

    include_usage: bool = False


class Resume(Struct, frozen=True):
    """A text that was begun elsewhere.

    Attributes:
        id: of the reply that broke off, as "cmpl-...".
        text: what has come of it; it is not sent again.
    """

    id: Annotated[str, Meta(pattern=r"^(chatcmpl-|cmpl-)?[0-9a-f]{16}$")]
    text: str = ""


class _Draw(Struct, frozen=True, kw_only=True):
    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, lt=1 << 31)] | None = None
    seed: int | None = None
    stop: StopString | StopList | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    provenance: bool | None = None
    resume: Resume | None = None


class ContentPart(Struct, frozen=True):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str


class Message(Struct, frozen=True):
    """A message of a conversation; "developer" is another name of "system"."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[ContentPart, ...]


class ChatRequest(_Draw, frozen=True, kw_only=True):
    """Body of /v1/chat/completions.

    Attributes:
        messages: the conversation; the model's own chat template is put around it.
        model: name of what is served, or left out.
        max_completion_tokens, max_tokens: most tokens to generate; the first counts if both are given. Left out, the
            context is the bound.
        temperature: 0 to 2, 0 takes the likeliest token; 1 if left out.
        top_p: above 0, at most 1, which keeps all.
        top_k: 0 or -1 keeps all.
        seed: -2**63 to 2**64 - 1; random if left out, and then made from the reply's id.
        stop: a string or up to 16, before the first of which the text ends.
        stream: answer in server-sent events.
        ignore_eos: go on past end-of-text.
        provenance: tell whose every part of the text is; this project's own field.
        resume: go on with a text that broke off at another agent; likewise.
    """

    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    max_completion_tokens: Count | None = None


class CompletionRequest(_Draw, frozen=True, kw_only=True):
    """Body of /v1/completions.

    Attributes:
        prompt: a text, its tokens, or a list with one text.
        max_tokens: most tokens to generate; 16 if left out, as at OpenAI.

    The others are those of ChatRequest.
    """

    prompt: Annotated[str, Meta(min_length=1)] | Annotated[list[Any], Meta(min_length=1)]


class TokenizeRequest(Struct, frozen=True):
    """Body of /tokenize.

    Attributes:
        content: a text; or
        messages: a conversation, in the chat template.
        add_special: put the tokens around a text that its model asks for.
        parse_special: read "<|im_start|>" and the like in a text as one token.
    """

    content: str | None = None
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)] | None = None
    add_special: bool = False
    parse_special: bool = True


Body = TypeVar("Body", bound=Struct)


def decode_request(body: bytes, kind: type[Body]) -> Body:
    """Return the request in a body.

    Raises:
        ApiError: no JSON object, a field of the wrong type or out of range, or one that is not served; names it.
    """
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"body is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise invalid(f"body is a JSON {type(fields).__name__}, allowed is an object of fields")
    if not issubclass(kind, TokenizeRequest):
        _refuse_unserved(fields)
    try:
        return msgspec.convert(fields, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise invalid(str(error), _param(str(error))) from error


def _refuse_unserved(fields: dict[str, Any]) -> None:
    """Refuse what would change the text and is not served."""
    messages = fields.get("messages")
    places = [("", fields, NEUTRAL)]
    if isinstance(messages, list):
        places += [
            (f"messages[{index}].", message, NEUTRAL_IN_MESSAGE)
            for index, message in enumerate(messages)
            if isinstance(message, dict)
        ]
    for prefix, given, neutral in places:
        for name in given.keys() & neutral.keys():
            value, allowed = given[name], neutral[name]
            if value is None or value in allowed:
                continue
            instead = "".join(f", or give {msgspec.json.encode(item).decode()}" for item in allowed)
            raise invalid(
                f"{prefix}{name} is {_shown(value)}, which is not served here: leave it out{instead}",
                prefix + name,
                "unsupported_parameter",
            )


def _shown(value: Any) -> str:
    """Return a value as JSON, cut short."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


def _param(message: str) -> str | None:
    """Return the field that msgspec's message is about.

    >>> _param("Expected `int`, got `str` - at `$.messages[0].role`")
    'messages[0].role'
    >>> _param("Object missing required field `prompt`")
    'prompt'
    """
    path = re.search(r" - at `\$\.?([^`]*)`", message)
    missing = re.search(r"missing required field `([^`]*)`", message)
    parts = [found.group(1) for found in (path, missing) if found is not None]
    return ".".join(parts) or None
