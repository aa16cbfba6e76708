"""`multispin chat` against the daemons' own interface: what streams, whose the tokens are, what is said of failures."""

import asyncio
import io
import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.toy_api import Loopback, ToyTokenizer, play, until
from tests.toy_model import ToyModel

from multispin.chat_turn import Turn, TurnFailed, painted, shown
from multispin.cli import main
from multispin_models.provenance import Span
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

KEY = "a-key-of-one-user"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(prompt: str, max_tokens: int = 30) -> str:
    ids = ToyTokenizer().encode(prompt)
    token_ids = generate_alone(ToyModel(n_ctx=512), ids, Sampling(), max_tokens, ToyTokenizer.end_token_ids)
    return b"".join(map(ToyTokenizer().token_bytes, token_ids)).decode()


def chat(*arguments: str) -> "asyncio.Future[int]":
    """Run the command in a thread of its own."""
    return asyncio.get_running_loop().run_in_executor(None, main, ["chat", *arguments])


def url(loopback: Loopback) -> str:
    return f"http://127.0.0.1:{loopback.port}/v1"


def test_piped_lines_are_the_turns_of_one_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = written("sbriefuhello")

    async def part(loopback: Loopback) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\nmore\n"))
        flags = ("--json", "--temperature", "0", "--max-tokens", "30", "--system", "brief")
        assert await chat(url(loopback), *flags) == 0
        await until(loopback.is_idle, "nothing is left")

    play(part)
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["text"] == "".join(span["text"] for span in one["spans"]) == first
    assert two["text"] == written(f"sbriefuhelloa{first}umore")
    assert one["timings"]["draft_n_accepted"] > 0
    assert {span["source"] for span in one["spans"]} > {"accepted"}


@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_tokens_have_colours_unless_they_are_not_wanted(
    no_color: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("NO_COLOR", no_color)

    async def part(loopback: Loopback) -> None:
        assert await chat(url(loopback), "--prompt", "hello", "--temperature", "0", "--max-tokens", "30") == 0

    play(part)
    text, said = out.getvalue(), err.getvalue()
    assert COLOUR.sub("", text) == written("uhello") + "\n"
    assert bool(COLOUR.search(text)) == bool(COLOUR.search(said)) == (not no_color)
    assert ("\x1b[32m" in text) == (not no_color)
    assert "drafted ones accepted, first after" in said
    assert "prompt 6 tokens, 0 of them known" in said


def test_without_a_terminal_only_the_text_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    async def part(loopback: Loopback) -> None:
        loopback.at_coordinator = True
        assert await chat(url(loopback), "--prompt", "hello", "--temperature", "0", "--max-tokens", "30") == 0

    play(part)
    got = capsys.readouterr()
    assert got.out == written("uhello") + "\n"
    assert got.err.startswith("[")
    assert "drafted" not in got.err, "the target alone"


def test_in_a_dialogue_a_refusal_ends_nothing_and_a_new_conversation_forgets_the_old_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["hello", "more", "x" * 400, "", "/new", "hello"])

    def answer(prompt: str) -> str:
        assert prompt == "> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    async def part(loopback: Loopback) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", answer)
        assert await chat(url(loopback), "--temperature", "0", "--max-tokens", "30") == 0

    play(part)
    got = capsys.readouterr()
    first = written("uhello")
    assert got.out.splitlines() == [first, written(f"uhelloa{first}umore"), first, ""]
    assert "allowed are 300" in got.err


def test_a_key_comes_from_a_file_or_the_environment_and_is_never_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    one = ("--prompt", "hello", "--max-tokens", "1")

    async def part(loopback: Loopback) -> None:
        assert await chat(url(loopback), *one) == 1
        assert "key" in capsys.readouterr().err
        assert await chat(url(loopback), *one, "--key-file", str(key_file)) == 0
        monkeypatch.setenv("MULTISPIN_API_KEY", KEY)
        assert await chat(url(loopback), *one) == 0
        monkeypatch.setenv("MULTISPIN_API_KEY", f"{KEY}\nx-forged: 1")
        assert await chat(url(loopback), *one) == 1
        assert await chat(url(loopback), *one, "--key-file", str(tmp_path / "none")) == 1

    play(part, keys=[KEY.encode()])
    got = capsys.readouterr()
    assert KEY not in got.out + got.err
    assert "other than printable ASCII" in got.err
    assert "cannot be read" in got.err


def test_what_is_refused_is_told_as_the_server_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def part(loopback: Loopback) -> None:
        assert await chat(url(loopback), "--prompt", "hello", "--temperature", "7") == 1
        assert "temperature" in capsys.readouterr().err
        assert await chat("ftp://somewhere", "--prompt", "hello") == 1
        assert "allowed is http://HOST:PORT" in capsys.readouterr().err

    play(part)


@pytest.fixture
def broken_server() -> Any:
    """Return a function that serves one connection with some bytes, and hangs up."""
    threads = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(answer: bytes) -> str:
            def once() -> None:
                connection, _ = server.accept()
                with connection:
                    while b"}" not in connection.recv(1 << 16):
                        pass
                    connection.sendall(answer)

            threads.append(threading.Thread(target=once))
            threads[-1].start()
            return f"http://127.0.0.1:{server.getsockname()[1]}"

        yield serve
        for thread in threads:
            thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (HEAD + b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', "broke off in mid-answer"),
        (HEAD + b'data: {"error":{"message":"the coordinator is gone"}}\n\n', "the coordinator is gone"),
        (HEAD + b"data: [1]\n\n", "none of a chat"),
        (HEAD + b"data: {\n\n", "truncated"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nno", "status 502"),
        (b"SSH-2.0\r\n\r\n", "127.0.0.1"),
    ],
)
def test_an_answer_without_an_end_is_a_failure_with_its_reason(
    answer: bytes, said: str, broken_server: Callable[[bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", broken_server(answer), "--prompt", "hello"]) == 1
    assert said in capsys.readouterr().err


def test_a_server_that_does_not_tell_whose_tokens_are_is_shown_plainly() -> None:
    turn = Turn()
    assert turn.take({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}) == [Span("a", "target")]
    turn.take({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    assert turn.take({"choices": [], "usage": {"total_tokens": 5}}) == []
    assert turn.result == {"text": "a", "finish_reason": "stop", "spans": [], "usage": {"total_tokens": 5}}
    assert turn.summary() == "stop; the server tells no timings"
    with pytest.raises(TurnFailed, match="none of a chat"):
        turn.take({"choices": [{}]})


def test_a_text_does_not_steer_the_terminal_and_joules_have_their_label() -> None:
    assert painted(Span("a\x1b[2Jb\x9b1m\n\tc", "accepted"), colour=True) == "\x1b[32ma\ufffd[2Jb\ufffd1m\n\tc\x1b[0m"
    assert painted(Span("a", "of a newer server"), colour=True) == "a"  # type: ignore[arg-type]
    assert shown("x", {"bonus"}, colour=True) == "\x1b[2m[x]\x1b[0m \x1b[36mbonus\x1b[0m"
    turn = Turn()
    timings = {"predicted_n": 9, "prompt_ms": 250.0, "prompt_n": 3, "cache_n": 4, "predicted_per_second": 20.0}
    energy = {"agent": {"joules": 2.5, "label": "measured"}, "coordinator": {"joules": None, "label": None}}
    turn.take({"choices": [], "timings": timings, "energy": energy})
    assert turn.summary() == (
        "9 tokens, first after 0.25 s, then 20.0 tokens/s, prompt 7 tokens, 4 of them known, "
        "agent 2.50 J (measured), None"
    )
