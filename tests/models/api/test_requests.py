"""Bodies of requests: what they mean, and how what is wrong in them is named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toy_api import ToyTokenizer

from multispin_models.api.errors import ApiError
from multispin_models.api.prepare import Prepared, prepare_text, prepare_tokens
from multispin_models.api.requests import NEUTRAL, ChatRequest, CompletionRequest
from multispin_models.api.service import Bounds

USER = [{"role": "user", "content": "abc"}]


def chat(kind: Any = ChatRequest, /, **fields: Any) -> Prepared:
    if kind is ChatRequest:
        fields.setdefault("messages", USER)
    body = json.dumps(fields).encode()
    return prepare_text(body, kind, model_name="toy", tokenizer=ToyTokenizer(), n_vocab=16, bounds=Bounds(50, 64))


def completion(**fields: Any) -> Prepared:
    return chat(CompletionRequest, **fields)


def refused(fields: dict[str, Any], kind: Any = ChatRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        chat(kind, **fields)
    return caught.value


def test_a_conversation_becomes_tokens_by_the_template() -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    assert chat(messages=messages).text.prompt_ids == tuple(ToyTokenizer().encode("saub"))


def test_a_developer_speaks_as_the_system() -> None:
    messages = [{"role": "developer", "content": "a"}, *USER]
    assert chat(messages=messages).text.prompt_ids == tuple(ToyTokenizer().encode("sauabc"))


def test_what_is_left_out_is_as_at_openai() -> None:
    prepared = chat()
    assert (prepared.text.sampling.temperature, prepared.text.sampling.top_p, prepared.text.sampling.top_k) == (1, 1, 0)
    assert (prepared.stream, prepared.include_usage, prepared.text.stop, prepared.text.ignore_end) == (
        False,
        False,
        (),
        False,
    )
    assert prepared.text.max_tokens == 60, "what the context leaves: 64 less the prompt of 4"
    assert completion(prompt="abc").text.max_tokens == 16


def test_without_a_seed_each_request_has_its_own() -> None:
    assert len({chat().text.sampling.seed for _ in range(4)}) == 4


@pytest.mark.parametrize(("seed", "expected"), [(0, 0), (-1, 2**64 - 1), (2**64 - 1, 2**64 - 1), (-(2**63), 2**63)])
def test_a_seed_is_taken_as_64_bits(seed: int, expected: int) -> None:
    assert chat(seed=seed).text.sampling.seed == expected


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5000}, 60),
    ],
)
def test_the_length_is_the_newer_field_within_the_context(fields: dict[str, int], max_tokens: int) -> None:
    assert chat(**fields).text.max_tokens == max_tokens


@pytest.mark.parametrize("prompt", ["abc", ["abc"], [1, 2, 3], [[1, 2, 3]]])
def test_a_prompt_is_a_text_or_tokens_plain_or_in_a_list(prompt: Any) -> None:
    assert completion(prompt=prompt).text.prompt_ids == (1, 2, 3)


@pytest.mark.parametrize(
    "prompt", ["", [], [""], ["a", "b"], [[1], [2]], [1, "a"], [1.5], [16], [-1], {"a": 1}, [[]], None]
)
def test_any_other_prompt_is_refused(prompt: Any) -> None:
    assert refused({"prompt": prompt}, CompletionRequest).param == "prompt"


def test_top_k_of_minus_one_keeps_all() -> None:
    assert chat(top_k=-1).text.sampling.top_k == 0
    assert chat(top_k=3).text.sampling.top_k == 3


@pytest.mark.parametrize(("stop", "expected"), [("x", ("x",)), (["x", "yz"], ("x", "yz")), (None, ()), ([], ())])
def test_stop_is_one_or_several(stop: Any, expected: tuple[str, ...]) -> None:
    assert chat(stop=stop).text.stop == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ["a", ""]}, "stop[1]"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
        ({"messages": [{"role": "user", "content": "a" * 50}]}, "messages"),
        ({"model": "gpt"}, "model"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    error = refused(fields)
    assert error.param == param
    assert 400 <= error.status < 500
    assert error.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_is_not_served_may_ask_for_nothing_and_for_nothing_else(name: str) -> None:
    for nothing in (None, *NEUTRAL[name]):
        chat(**{name: nothing})
    error = refused({name: {"type": "something"}})
    assert (error.param, error.code) == (name, "unsupported_parameter")


def test_fields_that_nobody_knows_are_passed_over() -> None:
    assert chat(user="me", metadata={"a": "b"}, brand_new=[1]).text.prompt_ids


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    for kind in (ChatRequest, CompletionRequest):
        with pytest.raises(ApiError):
            prepare_text(body, kind, model_name="toy", tokenizer=ToyTokenizer(), n_vocab=16, bounds=Bounds(50, 64))


def test_a_long_value_is_not_repeated_in_full() -> None:
    assert len(str(refused({"grammar": "x" * 10_000}))) < 250


def test_tokens_are_of_a_text_or_of_a_conversation() -> None:
    tokenizer = ToyTokenizer()
    assert prepare_tokens(b'{"content": ""}', tokenizer=tokenizer, max_model_len=64).count == 0
    asked = json.dumps({"messages": USER}).encode()
    assert prepare_tokens(asked, tokenizer=tokenizer, max_model_len=64).tokens == tuple(tokenizer.encode("uabc"))
    for body in (b"{}", json.dumps({"messages": USER, "content": "a"}).encode()):
        with pytest.raises(ApiError, match="either content"):
            prepare_tokens(body, tokenizer=tokenizer, max_model_len=64)
