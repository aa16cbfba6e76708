"""A request's body to a prompt of tokens and the way its text is drawn. Computes for as long as the prompt is long:
the shell runs it in a thread beside the event loop.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from multispin_models.api.errors import invalid
from multispin_models.api.replies import Tokens
from multispin_models.api.requests import ChatRequest, CompletionRequest, Message, TokenizeRequest, decode_request
from multispin_models.api.service import Bounds, TextRequest
from multispin_models.errors import ModelError
from multispin_models.language_model import ChatMessage, Tokenizer
from multispin_models.sampling import Sampling

__all__ = ["Prepared", "prepare_text", "prepare_tokens"]

DEFAULT_COMPLETION_TOKENS = 16
_SEED_BITS = 64


class Prepared(NamedTuple):
    """A request that can be served.

    Attributes:
        text: what is to be generated.
        is_chat: of which kind the reply is.
        stream: whether it comes in events.
        include_usage: whether the last of them tells the usage.
        known: text that the user has already; "" for none.
    """

    text: TextRequest
    is_chat: bool
    stream: bool
    include_usage: bool
    known: str = ""


def prepare_text(
    body: bytes,
    kind: type[ChatRequest] | type[CompletionRequest],
    *,
    model_name: str,
    tokenizer: Tokenizer,
    n_vocab: int,
    bounds: Bounds,
) -> Prepared:
    """Return what a body asks for.

    Raises:
        ApiError: it cannot be served; names the field.
    """
    request = decode_request(body, kind)
    if request.model is not None and request.model != model_name:
        raise invalid(
            f"model {request.model!r} is not served here, {model_name!r} is", "model", "model_not_found", status=404
        )
    room = bounds.max_context_tokens
    if isinstance(request, ChatRequest):
        prompt_ids = _encode_messages(request.messages, tokenizer)
        max_tokens = request.max_completion_tokens or request.max_tokens or room
        _check_length(len(prompt_ids), bounds, "messages")
    else:
        prompt_ids = _encode_prompt(request.prompt, tokenizer, n_vocab)
        max_tokens = request.max_tokens or DEFAULT_COMPLETION_TOKENS
        _check_length(len(prompt_ids), bounds, "prompt")
    stop = (request.stop,) if isinstance(request.stop, str) else request.stop or ()
    options = request.stream_options
    if options is not None and not request.stream:
        raise invalid("stream_options are given without stream: give stream true as well", "stream_options")
    resume = request.resume
    request_id = secrets.randbits(64) if resume is None else int(resume.id.rpartition("-")[2], 16)
    text = TextRequest(
        request_id=request_id,
        prompt_ids=tuple(prompt_ids),
        sampling=_sampling(request, request_id),
        max_tokens=min(max_tokens, room - len(prompt_ids)),
        stop=stop,
        ignore_end=bool(request.ignore_eos),
        provenance=bool(request.provenance),
    )
    include_usage = options is not None and options.include_usage
    known = "" if resume is None else resume.text
    return Prepared(text, isinstance(request, ChatRequest), bool(request.stream), include_usage, known)


def prepare_tokens(body: bytes, *, tokenizer: Tokenizer, max_model_len: int) -> Tokens:
    """Return the answer to a body of /tokenize.

    Raises:
        ApiError: it cannot be read.
    """
    request = decode_request(body, TokenizeRequest)
    if (request.content is None) == (request.messages is None):
        raise invalid("give either content, a text, or messages, a conversation", "content")
    if request.messages is not None:
        token_ids = _encode_messages(request.messages, tokenizer)
    else:
        assert request.content is not None
        token_ids = tokenizer.encode(
            request.content, parse_special=request.parse_special, add_special=request.add_special
        )
    return Tokens(tuple(token_ids), len(token_ids), max_model_len)


def _encode_messages(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    conversation = [
        ChatMessage(
            "system" if message.role == "developer" else message.role,
            message.content if isinstance(message.content, str) else "".join(part.text for part in message.content),
        )
        for message in messages
    ]
    try:
        text = tokenizer.apply_chat_template(conversation)
    except ModelError as error:
        raise invalid(str(error), "messages") from error
    return tokenizer.encode(text, parse_special=True, add_special=True)


def _encode_prompt(prompt: str | list[Any], tokenizer: Tokenizer, n_vocab: int) -> list[int]:
    """Return the tokens of a text, of a list with one text, or of a list of tokens, plain or within a list."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return tokenizer.encode(prompt, parse_special=True, add_special=True)
    try:
        token_ids = msgspec.convert(prompt, list[int])
    except msgspec.ValidationError as error:
        raise invalid(
            "prompt is neither a text nor a list of token ids: give one prompt a request", "prompt"
        ) from error
    for token_id in token_ids:
        if not 0 <= token_id < n_vocab:
            raise invalid(f"prompt has token {token_id}, allowed are 0 to {n_vocab - 1}", "prompt")
    return token_ids


def _seed_of(request_id: int) -> int:
    """Return the seed of a request without one: any agent that is told the id draws the same text."""
    digest = hashlib.blake2b(request_id.to_bytes(8, "little"), digest_size=_SEED_BITS // 8, person=b"seed").digest()
    return int.from_bytes(digest, "little")


def _check_length(num_tokens: int, bounds: Bounds, param: str) -> None:
    longest = min(bounds.max_prompt_tokens, bounds.max_context_tokens - 1)
    if num_tokens > longest:
        raise invalid(
            f"prompt has {num_tokens} tokens, allowed are {longest}: shorten it", param, "context_length_exceeded"
        )
    if num_tokens == 0:
        raise invalid("prompt has no token: give some text", param)


def _sampling(request: ChatRequest | CompletionRequest, request_id: int) -> Sampling:
    seed = _seed_of(request_id) if request.seed is None else request.seed
    if not -(1 << 63) <= seed < 1 << _SEED_BITS:
        raise invalid(f"seed is {seed}, allowed are -2**63 to 2**64 - 1", "seed")
    return Sampling(
        temperature=1.0 if request.temperature is None else request.temperature,
        top_k=max(request.top_k or 0, 0),
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=seed % (1 << _SEED_BITS),
    )
