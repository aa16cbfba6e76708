"""The HTTP interface of an agent with a coordinator behind it: what is served, bounded, refused, and freed again."""

import asyncio
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.toy_api import Loopback, ToyTokenizer, play, until
from tests.toy_model import ToyModel

from multispin_agent.request import RequestFailed
from multispin_models.api.settings import HttpSettings
from multispin_models.clock import monotonic_ns
from multispin_models.provenance import Piece
from multispin_models.records import AnyRecord, RequestRecord, RoundRecord
from multispin_models.records.checking import check_records
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

PROMPT = {"prompt": [1, 2, 3], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": True}
LONG = {**PROMPT, "max_tokens": 400}
KEY = b"a-key-of-one-user"
ROOT = Path(__file__).parents[3]


def alone(max_tokens: int, temperature: float = 0.8, seed: int = 5) -> str:
    target = ToyModel(n_ctx=512)
    ids = generate_alone(target, [1, 2, 3], Sampling(temperature, seed=seed), max_tokens, frozenset())
    return b"".join(map(ToyTokenizer().token_bytes, ids)).decode()


def events(body: bytes) -> list[Any]:
    """Return the JSON of every event of a stream that came in chunks, and "[DONE]" as it is."""
    text, at = b"", 0
    while at < len(body):
        size, _, _ = body[at:].partition(b"\r\n")
        start = at + len(size) + 2
        text += body[start : start + int(size, 16)]
        at = start + int(size, 16) + 2
    data = [event.removeprefix(b"data: ") for event in text.split(b"\n\n") if event.startswith(b"data: ")]
    return [item.decode() if item == b"[DONE]" else msgspec.json.decode(item) for item in data]


def test_a_text_is_the_targets_own_whole_or_streamed() -> None:
    async def part(loopback: Loopback) -> None:
        status, body = await loopback.ask("POST", "/v1/completions", PROMPT)
        assert status == NUM_DISCONNECTS
        reply = msgspec.json.decode(body)
        assert reply["choices"][0]["text"] == alone(40)
        assert reply["usage"]["completion_tokens"] == 40
        status, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "stream": True})
        got = events(body)
        assert got[-1] == "[DONE]"
        assert "".join(chunk["choices"][0]["text"] for chunk in got[:-1]) == alone(40)
        assert [chunk["choices"][0]["finish_reason"] for chunk in got[-3:-1]] == [None, "length"]
        assert got[-2]["timings"]["predicted_n"] == 40

    play(part)


def test_a_stop_string_ends_the_text_and_no_part_of_it_is_streamed() -> None:
    whole = alone(40)
    stop = whole[10:14]
    expected = whole[: whole.index(stop)]

    async def part(loopback: Loopback) -> None:
        _, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "stream": True, "stop": stop})
        got = events(body)
        pieces = [chunk["choices"][0]["text"] for chunk in got[:-1]]
        assert "".join(pieces) == expected
        assert got[-2]["choices"][0]["finish_reason"] == "stop"
        await until(loopback.is_idle, "the session at the coordinator is closed, though it could go on")

    play(part)


def test_a_client_that_leaves_in_mid_stream_frees_slot_sequences_and_session() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 8
        reader, writer = await loopback.send("POST", "/v1/completions", {**LONG, "stream": True})
        await reader.readuntil(b'"text":"')
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        assert [slot["is_processing"] for slot in await loopback.slots()] == [True, False]
        assert all(slot["speculative"] for slot in await loopback.slots())
        assert len(loopback.coordinator.dispatcher.sessions) == 1
        writer.transport.abort()
        await until(lambda: loopback.api.num_present == 0, "the slot is free while the coordinator still computes")
        loopback.target.gate.set()
        await until(loopback.is_idle, "nothing is left")
        assert [slot["is_processing"] for slot in await loopback.slots()] == [False, False]

    play(part)


def test_a_client_that_leaves_while_it_waits_for_the_whole_reply_frees_it_too() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 8
        _, writer = await loopback.send("POST", "/v1/completions", LONG)
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        writer.transport.abort()
        await until(lambda: loopback.api.num_present == 0, "the slot is free")
        loopback.target.gate.set()
        await until(loopback.is_idle, "nothing is left")

    play(part)


# Some are served when they leave, some wait for a slot, some have only begun to ask.
def test_fifty_clients_that_leave_at_once_leave_nothing_behind() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 30
        connections = await asyncio.gather(
            *(loopback.send("POST", "/v1/completions", {**LONG, "seed": n, "stream": n % 2 == 0}) for n in range(50))
        )
        await until(lambda: loopback.api.num_present == 50, "all are served or wait")
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        for _, writer in connections:
            writer.transport.abort()
        await until(lambda: loopback.api.num_present == 0, "all are gone")
        loopback.target.gate.set()
        await until(loopback.is_idle, "nothing is left")
        status, body = await loopback.ask("POST", "/v1/completions", PROMPT)
        assert (status, msgspec.json.decode(body)["choices"][0]["text"]) == (200, alone(40))

    play(part, HttpSettings(max_connections=64, max_waiting=48, stop_grace_s=0.0))


NUM_DISCONNECTS = int(os.environ.get("MULTISPIN_DISCONNECTS", "200"))  # docs/http.md tells of a thousand


# A stream each, left after its first event.
def test_waves_of_clients_that_leave_in_mid_stream_leave_nothing_behind() -> None:
    async def leave(loopback: Loopback, number: int) -> bytes:
        reader, writer = await loopback.send("POST", "/v1/completions", {**LONG, "seed": number, "stream": True})
        status = (await reader.readline())[9:12]
        if status == b"200":
            await reader.readuntil(b'"text":"')
        writer.transport.abort()
        return status

    async def part(loopback: Loopback) -> None:
        await loopback.ask("GET", "/health")
        open_files = len(os.listdir("/proc/self/fd"))
        statuses: Counter[bytes] = Counter()
        for wave in range(NUM_DISCONNECTS // 50):
            statuses.update(await asyncio.gather(*(leave(loopback, 50 * wave + number) for number in range(50))))
            await until(lambda: loopback.api.num_present == 0, "every slot of the wave is free")
        assert statuses.total() == statuses[b"200"] == NUM_DISCONNECTS
        await until(loopback.is_idle, "nothing is left")
        assert [slot["is_processing"] for slot in await loopback.slots()] == [False, False]
        assert len(os.listdir("/proc/self/fd")) <= open_files
        _, body = await loopback.ask("POST", "/v1/completions", PROMPT)
        assert msgspec.json.decode(body)["choices"][0]["text"] == alone(40)

    play(part, HttpSettings(max_connections=128, max_waiting=98, stop_grace_s=0.0))


# It can still read, but most that send no more have gone: the connection ends, and with it the text.
def test_a_client_that_closes_its_half_of_the_connection_frees_its_slot() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 8
        _, writer = await loopback.send("POST", "/v1/completions", {**LONG, "stream": True})
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        writer.write_eof()
        await until(lambda: loopback.api.num_present == 0, "the slot is free")
        loopback.target.gate.set()
        await until(loopback.is_idle, "nothing is left")

    play(part)


def can_make_namespaces() -> bool:
    """Whether this process may make a network namespace, and a link in it."""
    if not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        return False
    link = ["unshare", "-n", "ip", "link", "add", "here", "type", "veth", "peer", "name", "there"]
    return subprocess.run(link, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not can_make_namespaces(), reason="needs ip(8), nsenter(1), unshare(1) and the right to make network namespaces"
)
def test_a_client_that_vanishes_without_a_word_holds_its_slot_no_longer_than_its_text() -> None:
    command = ["unshare", "-n", sys.executable, "-m", "tests.agent.api.vanishing_client"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stderr
    assert msgspec.json.decode(ran.stdout) == {"held_then": 1, "held_at_the_end": 0}


def test_a_connection_without_a_request_is_closed() -> None:
    async def part(loopback: Loopback) -> None:
        reader, writer = await loopback.connect()
        writer.write(b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n")
        assert b"200 OK" in await asyncio.wait_for(reader.read(), 10), "and the end of the connection"
        await until(loopback.is_idle, "nothing is left")

    play(part, HttpSettings(idle_timeout_s=1, stop_grace_s=0.0))


def test_what_is_too_much_at_once_is_refused_with_the_time_to_come_back() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 4
        held = [await loopback.send("POST", "/v1/completions", LONG) for _ in range(3)]
        await until(lambda: loopback.api.num_present == 3, "two are served and one waits")
        reader, writer = await loopback.send("POST", "/v1/completions", PROMPT)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 2" in head
        writer.close()
        for _, other in held:
            other.transport.abort()

    play(part, HttpSettings(max_waiting=1, stop_grace_s=0.0))


def test_a_body_that_is_too_long_is_refused_and_its_answer_is_heard() -> None:
    async def part(loopback: Loopback) -> None:
        status, body = await loopback.ask("POST", "/v1/completions", {"prompt": "x" * 3000})
        assert status == 413
        assert msgspec.json.decode(body)["error"]["code"] == "body_too_large"
        await until(loopback.is_idle, "nothing is left")

    play(part, HttpSettings(max_body_bytes=1024, stop_grace_s=0.0))


@pytest.mark.parametrize("begun", [b"", b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nhost: t\r\n"])
def test_a_client_that_never_ends_its_headers_is_cut_off(begun: bytes) -> None:
    async def part(loopback: Loopback) -> None:
        reader, writer = await loopback.connect()
        writer.write(begun)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()
        await until(loopback.is_idle, "nothing is left")

    play(part, HttpSettings(request_timeout_s=0.05, stop_grace_s=0.0))


def test_a_client_that_never_ends_its_body_is_cut_off() -> None:
    async def part(loopback: Loopback) -> None:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
        )
        reader, writer = await loopback.connect()
        writer.write(head + b"{")
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()
        await until(loopback.is_idle, "nothing is left")

    play(part, HttpSettings(request_timeout_s=0.05, stop_grace_s=0.0))


def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async def part(loopback: Loopback) -> None:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", loopback.port))
            await until(lambda: loopback.http.num_connections == 1, "it is connected")
            # Pipelined: tens of megabytes of answers, which no buffer of the system holds.
            asking = asyncio.create_task(
                loop.sock_sendall(slow, b"GET /openapi.json HTTP/1.1\r\nhost: t\r\n\r\n" * 2000)
            )
            await until(lambda: loopback.http.num_connections == 0, "it is cut off")
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    play(part, HttpSettings(send_timeout_s=0.05, stop_grace_s=0.0))


# The text does not wait for its reader: what he has not taken is one string.
def test_a_slow_reader_does_not_hold_a_slot() -> None:
    async def part(loopback: Loopback) -> None:
        reader, _ = await loopback.send("POST", "/v1/completions", {**PROMPT, "stream": True})
        await until(
            lambda: (
                not loopback.coordinator.dispatcher.sessions and loopback.draft.num_open == loopback.drafts.num_kept()
            ),
            "it ended",
        )
        assert b"[DONE]" in await asyncio.wait_for(reader.read(), 10)

    play(part)


def test_connections_beyond_the_most_are_closed_at_once() -> None:
    async def part(loopback: Loopback) -> None:
        for _ in range(2):
            await loopback.connect()
        await until(lambda: loopback.http.num_connections == 2, "two are open")
        reader, _ = await loopback.connect()
        assert await asyncio.wait_for(reader.read(1), 10) == b""
        assert loopback.http.num_connections == 2

    play(part, HttpSettings(max_connections=2, stop_grace_s=0.0))


@pytest.mark.parametrize(
    "given", ["", "authorization: Bearer another-key-of-one\r\n", f"authorization: {KEY.decode()}\r\n"]
)
def test_without_a_key_only_the_health_is_told(given: str) -> None:
    async def part(loopback: Loopback) -> None:
        for method, path in (("POST", "/v1/completions"), ("GET", "/slots"), ("GET", "/openapi.json"), ("GET", "/no")):
            status, body = await loopback.ask(method, path, PROMPT if method == "POST" else None, given)
            assert status == 401
            assert msgspec.json.decode(body)["error"]["code"] == "invalid_api_key"
            assert b"another-key" not in body
        assert (await loopback.ask("GET", "/health"))[0] == 200

    play(part, keys=[KEY])


def test_with_a_key_all_is_served() -> None:
    async def part(loopback: Loopback) -> None:
        key = f"authorization: Bearer {KEY.decode()}\r\n"
        assert (await loopback.ask("POST", "/v1/completions", PROMPT, key))[0] == 200

    play(part, keys=[b"a-key-of-another-user", KEY])


def test_before_the_model_is_loaded_it_says_so() -> None:
    async def part(loopback: Loopback) -> None:
        for method, path, body in (("GET", "/health", None), ("POST", "/v1/completions", PROMPT)):
            status, answer = await loopback.ask(method, path, body)
            assert status == 503
            assert msgspec.json.decode(answer)["error"]["code"] == "loading"
        loopback.open()
        assert (await loopback.ask("GET", "/health"))[0] == 200

    play(part, opened=False)


def test_stopping_ends_what_is_under_way_with_an_error_that_says_so() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.target.num_passes_left = 8
        streamed, _ = await loopback.send("POST", "/v1/completions", {**LONG, "stream": True})
        whole, _ = await loopback.send("POST", "/v1/completions", LONG)
        await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
        await until(lambda: loopback.api.num_present == 2, "both are served")
        await loopback.api.stop()
        assert (await loopback.ask("GET", "/health"))[0] == 503
        loopback.target.gate.set()
        body = await asyncio.wait_for(streamed.read(), 10)
        assert b'"code":"stopping"' in body
        assert (await asyncio.wait_for(whole.read(), 10)).startswith(b"HTTP/1.1 503")

    play(part)


def test_a_prompt_that_waits_to_be_tokenized_when_the_server_stops_is_refused_as_the_others_are() -> None:
    tokenizing, go_on = threading.Event(), threading.Event()

    def encode(*_: Any, **__: Any) -> list[int]:
        tokenizing.set()
        assert go_on.wait(10)
        return [1]

    async def part(loopback: Loopback) -> None:
        loopback.service.tokenizer.encode = encode  # type: ignore[method-assign]
        for _ in range(2):
            await loopback.send("POST", "/tokenize", {"content": "a"})
        await until(tokenizing.is_set, "one is being tokenized")
        waits, _ = await loopback.send("POST", "/v1/completions", {**PROMPT, "prompt": "a"})
        await until(lambda: loopback.api.num_present == 3, "two wait for that")
        await loopback.api.stop()
        go_on.set()
        answer = await asyncio.wait_for(waits.read(), 10)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"code":"stopping"' in answer

    play(part, HttpSettings(stop_grace_s=0.0, max_waiting=4))


def test_a_prompt_beyond_the_bounds_is_refused_before_the_coordinator_hears_of_it() -> None:
    async def part(loopback: Loopback) -> None:
        status, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "prompt": [1] * 301})
        error = msgspec.json.decode(body)["error"]
        assert (status, error["param"], error["code"]) == (400, "prompt", "context_length_exceeded")
        assert "301 tokens, allowed are 300" in error["message"]
        assert not loopback.coordinator.dispatcher.counters["refused_prompt_too_long"]

    play(part)


def test_what_is_not_served_is_refused_in_the_shape_of_the_others() -> None:
    async def part(loopback: Loopback) -> None:
        for method, path, expected in (("GET", "/v1/embeddings", 404), ("GET", "/v1/completions", 405)):
            status, body = await loopback.ask(method, path)
            assert status == expected
            assert msgspec.json.decode(body)["error"]["type"] == "invalid_request_error"
        assert (await loopback.ask("POST", "/v1/completions", b"[", "content-type: text/plain\r\n"))[0] in {400, 415}
        assert (await loopback.ask("GET", "/v1/models/toy"))[0] == 200
        assert (await loopback.ask("GET", "/v1/models/gpt"))[0] == 404

    play(part)


def test_tokens_are_told() -> None:
    async def part(loopback: Loopback) -> None:
        status, body = await loopback.ask("POST", "/tokenize", {"content": "abc"})
        assert (status, msgspec.json.decode(body)) == (200, {"tokens": [1, 2, 3], "count": 3, "max_model_len": 512})

    play(part)


def test_a_coordinator_that_is_silent_is_told_by_the_health() -> None:
    async def part(loopback: Loopback) -> None:
        now_ns = monotonic_ns()
        assert loopback.client.why_absent(now_ns) == ""
        assert "has been silent for 60 s" in loopback.client.why_absent(now_ns + 60_000_000_000)
        loopback.service.why_absent = lambda: "silent"  # type: ignore[method-assign]
        status, body = await loopback.ask("GET", "/health")
        assert (status, msgspec.json.decode(body)["error"]["message"]) == (503, "silent")
        assert (await loopback.ask("POST", "/v1/completions", PROMPT))[0] == 200, "it is tried all the same"

    play(part)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(RequestFailed("no answer for 300 s"), 502, "coordinator_failed"), (RuntimeError("a bug"), 500, "internal_error")],
)
def test_what_fails_has_a_status_before_any_text_and_an_event_after_it(
    error: Exception, status: int, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    async def fail(request: Any, *, on_text: Callable[[Piece], None], **others: Any) -> Any:
        for text in said:
            on_text(Piece(text))
        raise error

    monkeypatch.setattr("multispin_agent.api.service.generate", fail)

    async def part(loopback: Loopback) -> None:
        for stream in (False, True):
            got, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "stream": stream})
            assert (got, msgspec.json.decode(body)["error"]["code"]) == (status, code)
        said.append("some text")
        got, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "stream": True})
        first, last = events(body)
        assert (got, first["choices"][0]["text"], last["error"]["code"]) == (200, "some text", code)
        await until(loopback.is_idle, "nothing is left")

    play(part)
    assert str(error) in caplog.text


def turns(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]
    return {"messages": messages, "max_tokens": 30, "temperature": 0, "ignore_eos": True}


def written(prompt: str, max_tokens: int = 30) -> str:
    ids = generate_alone(ToyModel(n_ctx=512), ToyTokenizer().encode(prompt), Sampling(), max_tokens, frozenset())
    return b"".join(map(ToyTokenizer().token_bytes, ids)).decode()


def test_the_next_turn_of_a_conversation_computes_what_is_new_at_both_ends_and_the_text_stays_the_targets() -> None:
    async def part(loopback: Loopback) -> None:
        asked = "hello" * 8
        first = written(f"u{asked}")
        for contents, prompt in (((asked,), f"u{asked}"), ((asked, first, "more"), f"u{asked}a{first}umore")):
            status, body = await loopback.ask("POST", "/v1/chat/completions", turns(*contents))
            reply = msgspec.json.decode(body)
            assert status == 200
            assert reply["choices"][0]["message"]["content"] == written(prompt)
            await until(loopback.is_idle, "nothing is left but what is kept")
        timings = reply["timings"]
        assert timings["cache_n"] + timings["prompt_n"] == len(prompt)
        # The toy's template closes no turn: what the text shares with the prompt ends at the "a" of the assistant.
        assert timings["cache_n"] == timings["draft_cache_n"] == len(f"u{asked}")
        assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": timings["cache_n"]}

    play(part)


def test_the_next_turn_of_a_text_goes_on_from_all_of_it() -> None:
    async def part(loopback: Loopback) -> None:
        await loopback.ask("POST", "/v1/completions", PROMPT)
        await until(loopback.is_idle, "the first turn is kept")
        text = [1, 2, 3, *ToyTokenizer().encode(alone(40))]
        _, body = await loopback.ask("POST", "/v1/completions", {**PROMPT, "prompt": [*text, 5, 6]})
        timings = msgspec.json.decode(body)["timings"]
        assert (timings["cache_n"], timings["prompt_n"]) == (len(text) - 1, 3), "the last token was never fed"
        assert timings["draft_cache_n"] > 30
        _, metrics = await loopback.ask("GET", "/metrics")
        assert b"multispin:sequences_kept 1.0" in metrics

    play(part)


def test_whose_every_token_is_is_told_to_those_who_ask() -> None:
    async def part(loopback: Loopback) -> None:
        ask = {**PROMPT, "provenance": True}
        status, body = await loopback.ask("POST", "/v1/completions", ask)
        whole = msgspec.json.decode(body)
        assert status == 200
        spans = whole["provenance"]
        assert "".join(span["text"] for span in spans) == whole["choices"][0]["text"] == alone(40)
        counts = Counter(span["source"] for span in spans)
        assert counts["accepted"] == whole["timings"]["draft_n_accepted"] > 0, "a letter a token"
        assert counts["recovered"] > 0
        assert counts.total() == 40
        got = events((await loopback.ask("POST", "/v1/completions", {**ask, "stream": True}))[1])
        for chunk in got[:-2]:
            assert "".join(span["text"] for span in chunk["provenance"]) == chunk["choices"][0]["text"]
        loopback.at_coordinator = True
        _, body = await loopback.ask("POST", "/v1/completions", ask)
        assert {span["source"] for span in msgspec.json.decode(body)["provenance"]} == {"target"}
        _, body = await loopback.ask("POST", "/v1/completions", PROMPT)
        assert "provenance" not in msgspec.json.decode(body)

    play(part)


class Taken(list[AnyRecord]):
    """Stands for the recorder that takes records to the coordinator."""

    def take(self, records: list[AnyRecord]) -> None:
        self.extend(records)


@pytest.mark.parametrize("record_texts", [False, True])
def test_every_request_is_recorded_with_its_rounds_and_its_text_only_if_asked(record_texts: bool) -> None:
    taken = Taken()

    async def part(loopback: Loopback) -> None:
        service = loopback.service
        service._recorder = taken  # type: ignore[assignment]
        service._config = msgspec.structs.replace(service._config, record_texts=record_texts)
        assert (await loopback.ask("POST", "/v1/completions", PROMPT))[0] == 200

    play(part)
    [request] = [record for record in taken if isinstance(record, RequestRecord)]
    rounds = [record for record in taken if isinstance(record, RoundRecord)]
    assert (request.finish, request.num_generated, request.error) == ("length", 40, None)
    assert sum(record.num_accepted + 1 for record in rounds) == 40
    assert request.energy_reason is not None
    assert "no meter" in request.energy_reason
    assert list(check_records(taken)) == []
    assert request.text == (alone(40) if record_texts else "")
    assert len(request.token_ids) == (40 if record_texts else 0)
    # three tokens, each 32 bits, little-endian
    digest = hashlib.sha256(b"\1\0\0\0\2\0\0\0\3\0\0\0").hexdigest()
    assert request.prompt_sha256 == (digest if record_texts else "")


def test_a_request_whose_user_left_is_recorded_too() -> None:
    taken = Taken()

    async def part(loopback: Loopback) -> None:
        loopback.service._recorder = taken  # type: ignore[assignment]
        loopback.target.num_passes_left = 8
        reader, writer = await loopback.send("POST", "/v1/completions", {**LONG, "stream": True})
        await reader.readuntil(b'"text":"')
        writer.close()
        await until(lambda: bool(taken), "a request that ended has no record")

    play(part)
    [request] = [record for record in taken if isinstance(record, RequestRecord)]
    assert request.finish == "error"
    assert "the user went away" in str(request.error)
