"""A conversation as prompt text: the model's own Jinja template, rendered in a sandbox.

Templates come out of model files, so they are code from strangers: no attribute of Python is reachable and nothing
can be changed. The environment is the one that Hugging Face's templates are written for.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import msgspec
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from multispin_models.errors import ModelError
from multispin_models.language_model import ChatMessage

__all__ = ["RenderChat", "compile_chat_template"]

RenderChat = Callable[[Sequence[ChatMessage], dict[str, Any]], str]


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateRuntimeError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().astimezone().strftime(pattern)


def compile_chat_template(source: str, *, bos_token: str, eos_token: str) -> RenderChat:
    """Return the function that renders conversations with a template.

    Args:
        source: Jinja text, as in GGUF's `tokenizer.chat_template`.
        bos_token, eos_token: text of these tokens, "" where the vocabulary has none.

    Returns:
        render(messages, variables) -> text that ends with the generation prompt. Raises ModelError where the template
        refuses the messages (for instance two user turns in a row).

    Raises:
        ModelError: the template is not valid.
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        template = environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ModelError(f"the model's chat template is not valid: {error}; send plain text instead") from error

    def render(messages: Sequence[ChatMessage], variables: dict[str, Any]) -> str:
        context = {"bos_token": bos_token, "eos_token": eos_token, "add_generation_prompt": True, **variables}
        try:
            return template.render(messages=[msgspec.to_builtins(message) for message in messages], **context)
        except Exception as error:  # a template is a program of a stranger: it can fail in any way
            roles = ", ".join(message.role for message in messages)
            raise ModelError(f"the model's chat template refuses this conversation ({roles}): {error}") from error

    return render
