"""Chat templates: rendered as their authors meant, and harmless."""

import re

import pytest

from multispin_models.chat_template import compile_chat_template
from multispin_models.errors import ModelError
from multispin_models.language_model import ChatMessage

HELLO = [ChatMessage("user", "Hello")]


def render(source: str, **variables: object) -> str:
    return compile_chat_template(source, bos_token="<s>", eos_token="</s>")(HELLO, dict(variables))


def test_a_template_sees_messages_special_tokens_and_variables() -> None:
    source = (
        "{{ bos_token }}{% for m in messages %}\n    [{{ m['role'] }}] {{ m.content }}{{ eos_token }}\n{% endfor %}\n"
        "{% if add_generation_prompt %}{{ name | default('bot') }}:{% endif %}"
    )
    assert render(source) == "<s>    [user] Hello</s>\nbot:"
    assert render(source, name="SmolLM") == "<s>    [user] Hello</s>\nSmolLM:"
    assert render(source, add_generation_prompt=False) == "<s>    [user] Hello</s>\n"


def test_a_template_can_ask_for_the_date_and_break_out_of_loops() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ range(10 ** 9) | list }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('system role not supported') }}",
        "{{ messages[7].content }}",
    ],
)
def test_a_template_that_misbehaves_is_an_error_about_this_conversation(source: str) -> None:
    with pytest.raises(ModelError, match=r"refuses this conversation \(user\): "):
        render(source)


def test_a_template_that_is_none_is_refused_when_it_is_read() -> None:
    with pytest.raises(ModelError, match="template is not valid"):
        compile_chat_template("{% for %}", bos_token="", eos_token="")
