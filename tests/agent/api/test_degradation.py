"""What users see when something is missing: the coordinator, room at it, the draft, or the agent they began at."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.agent.api.test_service import LONG, PROMPT, alone, events
from tests.toy_api import Loopback, ToyTokenizer, play, until
from tests.toy_model import ToyModel

from multispin_agent.config import Config
from multispin_agent.draft_source import no_source, open_draft_source
from multispin_coordinator.admission import Reject
from multispin_models.errors import ModelError
from multispin_models.records import RequestRecord
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone


def change(loopback: Loopback, **settings: Any) -> None:
    loopback.service.reconfigure(msgspec.structs.replace(loopback.service._config, **settings))


class Silenced:
    """Holds the target in mid-text: to the agent its coordinator is silent."""

    def __init__(self, loopback: Loopback, num_passes: int) -> None:
        self._loopback = loopback
        loopback.target.num_passes_left = num_passes

    async def __aenter__(self) -> None:
        await until(lambda: not self._loopback.target.gate.is_set(), "the target is held")

    async def __aexit__(self, *_error: object) -> None:
        self._loopback.target.gate.set()


def expected_alone(verified: str, count: int) -> str:
    """Return what the draft of the agent writes after a text, greedily."""
    draft = ToyModel(n_ctx=512, noise=0.5)
    tokens = [1, 2, 3, *(ord(letter) - 96 for letter in verified)]
    return "".join(
        ToyTokenizer().token_bytes(token).decode()
        for token in generate_alone(draft, tokens, Sampling(), count, frozenset())
    )


@pytest.mark.parametrize("stream", [True, False])
def test_past_the_deadline_a_text_goes_on_with_the_draft_alone_where_the_settings_have_it_and_says_so(
    stream: bool,
) -> None:
    async def part(loopback: Loopback) -> None:
        change(loopback, on_deadline="draft", deadline_s=0.4, retry_s=0.05, retry_max_s=0.1)
        body = {**PROMPT, "temperature": 0, "stream": stream, "provenance": True}
        recorded: list[Any] = []
        loopback.service._recorder = type("Recorder", (), {"take": staticmethod(recorded.extend)})()
        asking = asyncio.create_task(loopback.ask("POST", "/v1/completions", body))
        async with Silenced(loopback, 6):
            status, answer = await asking
        assert status == 200
        got = events(answer)[:-1] if stream else [msgspec.json.decode(answer)]
        text = "".join(event["choices"][0]["text"] for event in got)
        spans = [span for event in got for span in event.get("provenance", ())]
        degraded = got[-1]["degraded"]
        assert len(text) == 40
        assert "deadline_s" in degraded["reason"]
        unverified = "".join(span["text"] for span in spans if span["source"] == "unverified")
        verified = text[: 40 - degraded["num_tokens"]]
        assert 0 < len(verified) < 40
        assert verified == alone(40, 0.0)[: len(verified)], "up to there it is the target's"
        assert unverified == text[len(verified) :] == expected_alone(verified, 40 - len(verified))
        [record] = [each for each in recorded if isinstance(each, RequestRecord)]
        assert (record.num_unverified, record.finish) == (len(unverified), "length")
        assert record.num_generated == len(verified)

    play(part)


def test_without_that_setting_it_fails_past_the_deadline() -> None:
    async def part(loopback: Loopback) -> None:
        change(loopback, deadline_s=0.3, retry_s=0.05, retry_max_s=0.1)
        asking = asyncio.create_task(loopback.ask("POST", "/v1/completions", LONG))
        async with Silenced(loopback, 6):
            status, answer = await asking
        assert (status, msgspec.json.decode(answer)["error"]["code"]) == (502, "coordinator_failed")

    play(part)


@pytest.mark.parametrize(("when_absent", "status"), [("wait", 200), ("refuse", 503)])
def test_new_requests_wait_for_a_silent_coordinator_or_are_refused_with_the_time_to_come_back(
    when_absent: str, status: int
) -> None:
    async def part(loopback: Loopback) -> None:
        change(loopback, when_absent=when_absent)
        loopback.service.why_absent = lambda: "silent"  # type: ignore[method-assign]
        reader, writer = await loopback.send("POST", "/v1/completions", PROMPT)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert (b"retry-after: 5" in head) == (status == 503)
        writer.close()

    play(part)


def test_a_request_for_which_the_coordinator_has_no_room_is_refused_with_the_time_to_come_back() -> None:
    async def part(loopback: Loopback) -> None:
        change(loopback, busy_s=0.3, retry_s=0.05, retry_max_s=0.1)

        dispatcher = loopback.coordinator.dispatcher
        check = dispatcher._check_room

        def refuse(agent: bytes, opened: Any) -> None:
            raise Reject("busy", "64 requests wait", opened.request_id, opened.round)

        dispatcher._check_room = refuse  # type: ignore[method-assign]
        reader, writer = await loopback.send("POST", "/v1/completions", PROMPT)
        head = await reader.readuntil(b"\r\n\r\n")
        answer = msgspec.json.decode(await reader.read())
        writer.close()
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 10" in head
        assert answer["error"]["code"] == "coordinator_busy"
        assert "64 requests wait" in answer["error"]["message"]
        dispatcher._check_room = check  # type: ignore[method-assign]
        await until(loopback.is_idle, "nothing is left")

    play(part)


# -- without a draft ---------------------------------------------------------------------------------------------------


def test_an_agent_without_a_draft_serves_the_targets_text_and_its_health_says_so() -> None:
    async def part(loopback: Loopback) -> None:
        loopback.service._source = no_source(ToyTokenizer(), Config(), "draft.gguf is not there")
        status, answer = await loopback.ask("POST", "/v1/completions", PROMPT)
        reply = msgspec.json.decode(answer)
        assert (status, reply["choices"][0]["text"], reply["timings"]["draft_n"]) == (200, alone(40), 0)
        status, answer = await loopback.ask("GET", "/health")
        assert (status, msgspec.json.decode(answer)) == (
            200,
            {"status": "ok", "degraded": "nothing is drafted here: draft.gguf is not there"},
        )

    play(part)


def test_a_draft_that_is_missing_is_told_and_gone_without_by_those_who_serve_users(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_args: object, **_keywords: object) -> Any:
        raise ModelError("draft.gguf is not there")

    monkeypatch.setattr("multispin_agent.draft_source.load_side", missing)
    monkeypatch.setattr("multispin_agent.draft_source.load_tokenizer", lambda *_args: ToyTokenizer())
    source = open_draft_source(Config(), may_go_without=True)
    assert source.missing == "draft.gguf is not there"
    assert source.info.name == "none: draft.gguf is not there"
    assert "nothing is drafted here (L = 0), the coordinator writes alone: draft.gguf is not there" in caplog.text
    for config, may_go_without in ((Config(), False), (Config(without_draft="fail"), True)):
        with pytest.raises(ModelError, match="is not there"):
            open_draft_source(config, may_go_without=may_go_without)
    monkeypatch.setattr("multispin_agent.draft_source.load_tokenizer", missing)
    with pytest.raises(ModelError, match="is not there"):
        open_draft_source(Config(), may_go_without=True)


# -- at another agent --------------------------------------------------------------------------------------------------


async def begun(loopback: Loopback, body: dict[str, Any]) -> tuple[str, str, Callable[[], None]]:
    """Return the id and the text of a stream that is held in the middle, and what leaves it."""
    loopback.target.num_passes_left = 6
    reader, writer = await loopback.send("POST", "/v1/completions", {**body, "stream": True})
    await until(lambda: not loopback.target.gate.is_set(), "the target is held in mid-text")
    text, reply_id = "", ""
    while not text:
        line = await reader.readline()
        if line.startswith(b"data: "):
            event = msgspec.json.decode(line[6:])
            text, reply_id = text + event["choices"][0]["text"], event["id"]
    return reply_id, text, writer.transport.abort


@pytest.mark.parametrize("at_coordinator", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_goes_on_elsewhere_by_its_id_though_its_seed_was_nobodys(stream: bool, at_coordinator: bool) -> None:
    body = {name: value for name, value in PROMPT.items() if name != "seed"}

    async def part(loopback: Loopback) -> None:
        reply_id, text, leave = await begun(loopback, body)
        again = {**body, "resume": {"id": reply_id, "text": text}, "stream": stream}
        status, answer = await loopback.ask("POST", "/v1/completions", again)
        assert (status, msgspec.json.decode(answer)["error"]["code"]) == (409, "request_under_way")
        leave()
        loopback.target.gate.set()
        await until(loopback.is_idle, "the first one is gone")
        loopback.at_coordinator = at_coordinator
        status, answer = await loopback.ask("POST", "/v1/completions", again)
        assert status == 200
        got = events(answer)[:-1] if stream else [msgspec.json.decode(answer)]
        rest = "".join(event["choices"][0]["text"] for event in got)
        assert {event["id"] for event in got} == {reply_id}
        status, answer = await loopback.ask("POST", "/v1/completions", {**body, "resume": {"id": reply_id}})
        whole = msgspec.json.decode(answer)["choices"][0]["text"]
        assert text + rest == whole
        assert len(whole) > 30  # an end token that is passed over has no letter
        wrong = {**body, "resume": {"id": reply_id, "text": "z" + text}}
        status, answer = await loopback.ask("POST", "/v1/completions", wrong)
        assert (status, msgspec.json.decode(answer)["error"]["code"]) == (409, "resume_mismatch")

    play(part)


def test_an_id_that_is_none_is_refused() -> None:
    async def part(loopback: Loopback) -> None:
        status, answer = await loopback.ask("POST", "/v1/completions", {**PROMPT, "resume": {"id": "7"}})
        assert (status, msgspec.json.decode(answer)["error"]["param"]) == (400, "resume.id")

    play(part)
