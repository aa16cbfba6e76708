"""Replies, whole and in events; text on its way; keys; the description."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multispin_models.api.errors import ApiError, overloaded
from multispin_models.api.framing import KEEP_ALIVE, Reply, error_event, event
from multispin_models.api.keys import Keys, load_keys
from multispin_models.api.openapi import describe
from multispin_models.api.outbox import Outbox
from multispin_models.api.replies import EndEnergy, Energy, Metrics, SpeculativeDecoding, Timings
from multispin_models.api.service import Generated
from multispin_models.errors import ConfigError
from multispin_models.provenance import Piece, Span

TIMINGS = Timings(0, 3, 10.0, 3.3, 300.0, 5, 20.0, 4.0, 250.0, 4, 3)
METRICS = Metrics(10.0, 20.0, 0.0, 5.0, 166.0, SpeculativeDecoding(4.0, 0.75, (0, 0, 0, 1), 1, 3, 4, 4))
NO_ENERGY = Energy(EndEnergy(None, None, "no sensor"), EndEnergy(None, None, "no sensor"))
GENERATED = Generated("hello", 5, 0, "stop", TIMINGS, METRICS, NO_ENERGY)


def reply(**fields: Any) -> Reply:
    given = {"created": 7, "model": "toy", "fingerprint": "fp", "num_prompt_tokens": 3, "is_chat": True, **fields}
    return Reply(255, **given)


def data(events: bytes) -> list[Any]:
    """Return what a client reads: JSON of each event, comments passed over."""
    assert events.endswith(b"\n\n")
    lines = [line for line in events.split(b"\n\n")[:-1] if not line.startswith(b":")]
    assert all(line.startswith(b"data: ") and b"\n" not in line for line in lines)
    return [line[6:].decode() if line == b"data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_chat_streams_its_role_its_text_and_its_end() -> None:
    framed = reply()
    first, piece, last, done = data(framed.begin() + KEEP_ALIVE + framed.piece(Piece("hé\n")) + framed.end(GENERATED))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert piece["choices"][0] == {"delta": {"content": "hé\n"}, "finish_reason": None, "index": 0, "logprobs": None}
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
    assert last["timings"]["draft_n_accepted"] == 3
    assert "usage" not in last
    assert "metrics" not in last
    assert {first["id"], piece["id"], last["id"]} == {"chatcmpl-00000000000000ff"}
    assert first["object"] == "chat.completion.chunk"
    assert done == "[DONE]"


def test_usage_comes_in_an_event_of_its_own_without_choices() -> None:
    framed = reply(include_usage=True, with_metrics=True)
    piece, last, usage, _ = data(framed.piece(Piece("a")) + framed.end(GENERATED))
    assert piece["usage"] is None
    assert last["usage"] is None
    assert "timings" not in last
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 8
    assert usage["metrics"]["speculative_decoding"]["acceptance_histogram"] == [0, 0, 0, 1]
    assert "per_step_accepted" not in usage["metrics"]["speculative_decoding"]
    assert usage["energy"]["agent"] == {"joules": None, "label": None, "reason": "no sensor"}


def test_a_completion_streams_text() -> None:
    framed = reply(is_chat=False)
    assert framed.begin() == b""
    piece, last, _ = data(framed.piece(Piece("a")) + framed.end(GENERATED))
    assert (piece["object"], piece["choices"][0]["text"]) == ("text_completion", "a")
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "stop")


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_whole_reply_has_all_in_one(is_chat: bool) -> None:
    whole = data(event(reply(is_chat=is_chat).whole(GENERATED)))[0]
    assert whole["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    [choice] = whole["choices"]
    assert (choice["message"]["content"] if is_chat else choice["text"]) == "hello"
    assert whole["object"] == ("chat.completion" if is_chat else "text_completion")


def test_whose_the_text_is_stands_beside_it_if_it_was_asked_for() -> None:
    spans = (Span("a", "accepted"), Span("b", "recovered"))
    framed = Reply(1, created=2, model="m", fingerprint="f", num_prompt_tokens=3, is_chat=True, with_provenance=True)
    [piece] = data(framed.piece(Piece("ab", spans)))
    told = [{"text": "a", "source": "accepted"}, {"text": "b", "source": "recovered"}]
    assert piece["provenance"] == told
    assert data(event(framed.whole(GENERATED, spans)))[0]["provenance"] == told
    assert "provenance" not in data(reply().piece(Piece("ab", spans)))[0]


@given(st.lists(st.text(min_size=1)))
def test_any_text_comes_back_out_of_its_events(pieces: list[str]) -> None:
    framed = reply()
    got = data(b"".join(framed.piece(Piece(piece)) for piece in pieces) + framed.end(GENERATED))
    assert [chunk["choices"][0]["delta"]["content"] for chunk in got[: len(pieces)]] == pieces


def test_an_error_in_mid_stream_is_an_event_in_the_shape_of_a_refusal() -> None:
    [error] = data(error_event(overloaded("too many", 2)))
    shape = {"message": "too many", "type": "rate_limit_error", "param": None, "code": "too_many_requests"}
    assert error == {"error": shape}


# -- text on its way --


def test_what_was_not_taken_is_taken_at_once() -> None:
    async def part() -> None:
        outbox = Outbox()
        for piece in ("a", "b", "c"):
            outbox.put(Piece(piece, (Span(piece, "bonus"),)))
        taken = await outbox.take(10)
        assert taken == Piece("abc", tuple(Span(letter, "bonus") for letter in "abc"))
        assert await outbox.take(0.001) == Piece("")
        outbox.put(Piece("d"))
        outbox.close()
        assert await outbox.take(10) == Piece("d")
        assert await outbox.take(10) is None

    asyncio.run(part())


# -- keys --


def test_only_a_known_bearer_key_passes() -> None:
    keys = Keys([b"one-long-enough-key", b"two-long-enough-key"])
    keys.check(b"Bearer one-long-enough-key")
    keys.check(b"bearer  two-long-enough-key ")
    for wrong in (None, b"", b"Bearer", b"Bearer ", b"Bearer one-long", b"Basic one-long-enough-key", b"\xff\xfe"):
        with pytest.raises(ApiError) as refusal:
            keys.check(wrong)
        assert refusal.value.status == 401
        assert "one-long" not in str(refusal.value)


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_keys_are_lines_of_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    load_keys(key_file(tmp_path, "# of the office\n\nfirst-key-of-sixteen\n")).check(b"Bearer first-key-of-sixteen")
    with pytest.raises(ConfigError, match=r"0640.*0600"):
        load_keys(key_file(tmp_path, "first-key-of-sixteen", 0o640))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="holds no key"):
        load_keys(key_file(tmp_path, "# nothing\n"))


def test_keys_come_as_a_credential_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service under a user of its own cannot read a file of root's; systemd brings it, readable by an access list."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    key_file(tmp_path, "first-key-of-sixteen\n", 0o440)
    load_keys("credential:keys").check(b"Bearer first-key-of-sixteen")
    key_file(tmp_path, "first-key-of-sixteen\n", 0o444)
    with pytest.raises(ConfigError, match="0444"):
        load_keys("credential:keys")


def test_a_line_that_is_no_key_is_told_by_its_number_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 2") as refusal:
        load_keys(key_file(tmp_path, "first-key-of-sixteen\nsecret\n"))
    assert "secret" not in str(refusal.value)


# -- the description --


def test_the_description_names_every_path_and_resolves_every_reference() -> None:
    description = json.loads(json.dumps(describe(with_keys=True)))
    paths = {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{name}"}
    assert set(description["paths"]) == paths | {"/tokenize", "/slots", "/metrics", "/health"}
    schemas = description["components"]["schemas"]
    assert "messages" in schemas["ChatRequest"]["required"]
    references = {part.split('"')[0] for part in json.dumps(description).split('"#/components/schemas/')[1:]}
    assert references <= set(schemas)
    assert description["security"] == [{"key": []}]
    assert "security" not in describe(with_keys=False)
