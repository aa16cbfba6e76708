"""Chat with any agent or coordinator, over its HTTP interface; the text streams, and its tokens have colours.

    multispin chat                                        with http://127.0.0.1:8080
    multispin chat http://10.0.0.7:8080 --key-file FILE   with a bearer key (or in $MULTISPIN_API_KEY)
    multispin chat --prompt "Why is the sky blue?"        one question
    multispin chat --json < questions.txt                 a line a turn; one JSON object for each

Green tokens were drafted by the agent and accepted; yellow ones are the target's, in place of a drafted token that it
rejected; cyan ones the target's, after a draft that was accepted to its end; plain ones the target's, where nothing had
been drafted. Colours are left out where the output is no terminal, and with $NO_COLOR. The text goes to standard
output, what it took to standard error. Ctrl-C ends an answer, Ctrl-D the chat; /new begins a new conversation.
"""

import argparse
import http.client
import os
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec

from multispin.access import KEY_VARIABLE, authorization, checked_url
from multispin.chat_turn import Turn, TurnFailed, painted, shown
from multispin.flags import positive

__all__ = ["add_arguments", "run"]

SILENCE_S = 60.0  # a stream says every 15 s that it is alive
MOST_EVENT_BYTES = 1 << 20
MOST_REFUSAL_BYTES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin chat`."""
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080", metavar="URL", help="default %(default)s")
    parser.add_argument("--prompt", metavar="TEXT", help="ask this and end")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--max-tokens", type=positive, default=512, metavar="N", help="of an answer (default 512)")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest (default: the server's)")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens up to this probability")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text (default: random)")
    parser.add_argument("--key-file", metavar="FILE", help=f"its first line is the bearer key (else ${KEY_VARIABLE})")
    parser.add_argument("--json", action="store_true", help="print one JSON object an answer, when it is complete")


def run(args: argparse.Namespace) -> int:
    """Run `multispin chat`; return 0, 1 if an answer failed and there is nobody to ask again, 130 if interrupted."""
    chat = _Chat(checked_url(args.url), authorization(args.key_file), _options(args), args.system, as_json=args.json)
    is_dialogue = args.prompt is None and sys.stdin.isatty()
    questions = iter([args.prompt]) if args.prompt is not None else _typed() if is_dialogue else _piped()
    for question in questions:
        if question == "/new" and is_dialogue:
            chat.begin()
            continue
        try:
            chat.ask(question)
        except TurnFailed as failure:
            if not is_dialogue:
                raise
            print(f"multispin chat: {failure}", file=sys.stderr)
        except KeyboardInterrupt:
            if not is_dialogue:
                raise
            print("\n[interrupted]", file=sys.stderr)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    given = {"temperature": args.temperature, "top_p": args.top_p, "seed": args.seed}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return {"max_tokens": args.max_tokens, "stream": True, "provenance": True, **options}


def _typed() -> Iterator[str]:
    """Yield what somebody types; Ctrl-C at the prompt forgets the line."""
    with suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - lines can be edited
    while True:
        try:
            if question := input("> ").strip():
                yield question
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()


def _piped() -> Iterator[str]:
    yield from (line.strip() for line in sys.stdin if line.strip())


class _Chat:
    """A conversation.

    Args:
        url: of the daemon.
        headers: with the key.
        options: of every request.
        system: prompt, or null.
        as_json: print an object an answer.
    """

    def __init__(
        self, url: str, headers: dict[str, str], options: dict[str, Any], system: str | None, *, as_json: bool
    ) -> None:
        self._url = url
        self._headers = headers
        self._options = options
        self._system = system
        self._as_json = as_json
        self._is_terminal = sys.stdout.isatty()
        self._colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self.begin()

    def begin(self) -> None:
        """Begin a new conversation."""
        self._messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def ask(self, question: str) -> None:
        """Ask, and print the answer as it comes; an answer that was interrupted stays in the conversation.

        Raises:
            TurnFailed: there is no answer, or no end of it.
            KeyboardInterrupt: it was interrupted.
        """
        asked = {"role": "user", "content": question}
        turn = Turn()
        try:
            for event in _events(self._url, self._headers, {**self._options, "messages": [*self._messages, asked]}):
                self._print(turn, event)
        finally:
            if turn.text:
                self._messages += [asked, {"role": "assistant", "content": turn.text}]
                if not self._as_json:
                    print(flush=True)
        if self._as_json:
            print(msgspec.json.encode(turn.result).decode(), flush=True)
        else:
            sources = {span.source for span in turn.spans}
            print(shown(turn.summary(), sources, colour=self._colour and sys.stderr.isatty()), file=sys.stderr)

    def _print(self, turn: Turn, event: Any) -> None:
        spans = turn.take(event)
        if not self._as_json:
            texts = (painted(span, colour=self._colour) if self._is_terminal else span.text for span in spans)
            print("".join(texts), end="", flush=True)


def _events(url: str, headers: dict[str, str], body: dict[str, Any]) -> Iterator[Any]:
    """Yield the events of a streamed chat completion, to its end; closed before, it hangs up.

    Raises:
        TurnFailed: it is refused, or breaks off.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with closing(kind(parts.netloc, timeout=SILENCE_S)) as connection:
        try:
            sent = {"content-type": "application/json", **headers}
            connection.request("POST", "/v1/chat/completions", msgspec.json.encode(body), sent)
            answer = connection.getresponse()
            if answer.status != 200:
                raise TurnFailed(_refusal(answer.status, answer.read(MOST_REFUSAL_BYTES)))
            while line := answer.readline(MOST_EVENT_BYTES):
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield msgspec.json.decode(data)
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise TurnFailed(f"{url}: {error or type(error).__name__}") from error
    raise TurnFailed(f"{url} broke off in mid-answer")


def _refusal(status: int, body: bytes) -> str:
    """Return why a request is refused, as the server says it."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the server answers with status {status}, and no reason that is one of OpenAI's"
