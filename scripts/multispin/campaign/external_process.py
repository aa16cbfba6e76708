"""The users of an external server, in a process of their own: any that speaks OpenAI's chat completions with streaming.

    python -m multispin.campaign.external_process PARENT

With a command it starts the server too, and ends it. Times are the users': from sending the request to its first and
last piece of text. Bytes are those of the bodies. What llama.cpp tells of drafted and accepted tokens is kept.
"""

import asyncio
import hashlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import psutil

from multispin.access import authorization
from multispin.campaign.asking import Ask, ExternalStart, Ready, Told, Window
from multispin.campaign.lines import Lines, serve_lines
from multispin_models.clock import monotonic_ns
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.prompts import Job
from multispin_models.records import RequestRecord

__all__ = ["main"]

SILENCE_S: Final = 300.0
MOST_EVENT_BYTES: Final = 1 << 20
POLL_S: Final = 0.2
END_S: Final = 10.0
UNKNOWN_TOKENS = "the server does not tell how many tokens it wrote: give it stream_options.include_usage"


class _Failed(MultispinError):
    """A request that got no answer."""


class _Server:
    """How it is asked."""

    def __init__(self, start: ExternalStart) -> None:
        parts = urlsplit(start.url)
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._netloc = parts.netloc
        self._path = parts.path.rstrip("/")
        self._headers = {} if start.key_file is None else authorization(start.key_file)
        self._ignores_end = start.ignores_end
        self._body = start.body
        self.url = start.url
        self.model = start.model or ""

    def find_model(self, ready_s: float) -> None:
        """Wait until it answers, and take the first model that it lists.

        Raises:
            ConfigError: it does not within that time.
        """
        deadline_s = time.monotonic() + ready_s
        while True:
            try:
                with closing(self._kind(self._netloc, timeout=SILENCE_S)) as connection:
                    connection.request("GET", f"{self._path}/models", headers=self._headers)
                    answer = connection.getresponse()
                    body = answer.read(MOST_EVENT_BYTES)
                    if answer.status == 200:
                        models = [str(each["id"]) for each in msgspec.json.decode(body)["data"]]
                        self.model = self.model or models[0]
                        return
                    said = f"status {answer.status}"
            except (OSError, http.client.HTTPException, msgspec.DecodeError, KeyError, TypeError, IndexError) as error:
                said = repr(error)
            if time.monotonic() > deadline_s:
                raise ConfigError(f"{self.url}/models gave no list of models within {ready_s:.0f} s: {said}")
            time.sleep(POLL_S)

    def body(self, job: Job) -> bytes:
        """Return what is asked for a prompt."""
        sampling = job.sampling
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": job.prompt}],
            "max_tokens": job.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed & 0x7FFFFFFF,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._body,
        }
        if sampling.top_k:
            asked["top_k"] = sampling.top_k
        if sampling.top_p < 1.0:
            asked["top_p"] = sampling.top_p
        if job.ignore_end and self._ignores_end:
            asked["ignore_eos"] = True
        return msgspec.json.encode(asked)

    def events(self, body: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (bytes, event) of an answer. Raises _Failed."""
        headers = {"content-type": "application/json", **self._headers}
        with closing(self._kind(self._netloc, timeout=SILENCE_S)) as connection:
            try:
                connection.request("POST", f"{self._path}/chat/completions", body, headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    raise _Failed(f"{self.url} answers {answer.status}: {answer.read(500)!r}")
                while line := answer.readline(MOST_EVENT_BYTES):
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    if line.startswith(b"data:"):
                        yield len(line), msgspec.json.decode(data, type=dict)
            except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
                raise _Failed(f"{self.url}: {error or type(error).__name__}") from error


@dataclass
class _Got:
    """What has come of an answer."""

    text: str = ""
    finish: str | None = None
    first_ns: int = 0
    last_ns: int = 0
    pieces: int = 0
    down_bytes: int = 0
    usage: dict[str, Any] | None = None
    timings: dict[str, Any] | None = None

    def take(self, num_bytes: int, event: dict[str, Any]) -> None:
        """Take an event."""
        self.down_bytes += num_bytes
        if "error" in event:
            raise _Failed(str(event["error"]))
        self.usage = event.get("usage") or self.usage
        self.timings = event.get("timings") or self.timings
        for choice in event.get("choices") or ():
            self.finish = choice.get("finish_reason") or self.finish
            if piece := (choice.get("delta") or {}).get("content"):
                self.last_ns = monotonic_ns()
                self.first_ns = self.first_ns or self.last_ns
                self.text += piece
                self.pieces += 1


def _asked(server: _Server, run_id: str, user: int, job: Job) -> RequestRecord:
    body = server.body(job)
    got = _Got()
    started_ns = monotonic_ns()
    try:
        for num_bytes, event in server.events(body):
            got.take(num_bytes, event)
        error = UNKNOWN_TOKENS if got.usage is None else None
    except _Failed as failure:
        error = str(failure)
    usage, timings = got.usage or {}, got.timings or {}
    count = int(usage.get("completion_tokens", 0))
    ended_ns = got.last_ns or monotonic_ns()
    first_s = (got.first_ns - started_ns) / 1e9 if got.first_ns else None
    total_s = (ended_ns - started_ns) / 1e9
    return RequestRecord(
        run_id=run_id,
        id=job.job_id,
        wire_request_id=0,
        agent_id=f"user-{user}",
        prompt_sha256=hashlib.sha256(job.prompt.encode()).hexdigest(),
        num_prompt_tokens=int(usage.get("prompt_tokens", 0)),
        token_ids=(),
        text=got.text,
        finish="error" if error else "length" if got.finish == "length" else "end",
        error=error,
        num_rounds=0,
        num_drafted=int(timings.get("draft_n", 0)),
        num_accepted=int(timings.get("draft_n_accepted", 0)),
        num_generated=count,
        started_ns=started_ns,
        ended_ns=ended_ns,
        ttft_s=first_s,
        tpot_s=(total_s - first_s) / (count - 1) if first_s is not None and count > 1 else None,
        e2e_s=total_s,
        payload_up_bytes=len(body),
        payload_down_bytes=got.down_bytes,
        energy_reason="its joules are those of the window",
    )


def _user(server: _Server, ask: Ask, user: int, begun_ns: int) -> list[RequestRecord]:
    each = len(ask.jobs) // ask.users
    found = []
    for job in ask.jobs[user * each : (user + 1) * each]:
        due_ns = begun_ns + int(ask.due_s.get(job.job_id, 0.0) * 1e9)
        time.sleep(max(0.0, (due_ns - monotonic_ns()) / 1e9))
        found.append(_asked(server, ask.run_id, user, job))
    return found


def _serve_cell(server: _Server, ask: Ask) -> Told:
    idle = None
    if ask.idle_s:
        begun_ns = monotonic_ns()
        time.sleep(ask.idle_s)
        idle = Window(begun_ns, monotonic_ns())
    begun_ns = monotonic_ns()
    with ThreadPoolExecutor(max_workers=ask.users) as pool:
        served = list(pool.map(lambda user: _user(server, ask, user, begun_ns), range(ask.users)))
    requests = [record for own in served for record in own]
    run = Window(min(each.started_ns for each in requests), max(each.ended_ns for each in requests))
    return Told(idle=idle, run=run, requests=tuple(requests), begun_ns=begun_ns)


@contextmanager
def _running(start: ExternalStart) -> Iterator[None]:
    """Keep the server's command running, where there is one."""
    if start.command is None:
        yield
        return
    tied = [sys.executable, "-m", "multispin.campaign.tied", str(os.getpid()), *start.command]
    with Path(start.log).open("ab") as log_file:
        process = subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file)  # noqa: S603
    if start.cpus is not None:
        psutil.Process(process.pid).cpu_affinity(list(start.cpus))
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _serve(start: ExternalStart, lines: Lines) -> None:
    server = _Server(start)
    with _running(start):
        await asyncio.to_thread(server.find_model, start.ready_s)
        lines.say("ready", Ready(model=server.model))
        while line := await lines.next():
            ask = msgspec.json.decode(line, type=Ask)
            lines.say("done", await asyncio.to_thread(_serve_cell, server, ask))


def main(arguments: Sequence[str]) -> int:
    """Run the process; return its exit status."""
    return serve_lines(list(arguments), ExternalStart, _serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
