"""The agent's side of the wire, against a coordinator that says what the test wants."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import zmq
from tests.toy_model import END_TOKEN, ToyModel

from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import model_source
from multispin_agent.events import Answer, Reconnected, RefusedByCoordinator, Silence
from multispin_agent.generate import generate
from multispin_agent.request import Finished, Request, RequestFailed
from multispin_agent.serve_file import ServeFile
from multispin_models.channel import Channel, Security
from multispin_models.clock import monotonic_ns
from multispin_models.connections import open_coordinator_channel
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded
from multispin_models.language_model import ChatMessage
from multispin_models.messages import (
    PROTOCOL_VERSION,
    AgentMessage,
    Close,
    CoordinatorMessage,
    Draft,
    Hello,
    Open,
    Ping,
    Pong,
    Refused,
    Verdict,
    Welcome,
    decode_agent_message,
    encode,
)
from multispin_models.prompts import Job
from multispin_models.sampling import Sampling

WELCOME = Welcome(1, "1", 77, "toy", "toy", True, 96, 64, 8, 0.05)
VERDICT = Verdict(5, 0, 0, 4, 0, 0, 0, 0, 1)


class ToyTokenizer:
    """Every id but the end is a letter."""

    vocabulary_hash = "toy"
    end_token_ids = frozenset({END_TOKEN})

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == END_TOKEN else bytes([96 + token_id])

    def apply_chat_template(self, messages: list[ChatMessage], **variables: Any) -> str:
        return "".join(message.content for message in messages)


class Scene:
    """A client, and a coordinator whose part the test plays."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.heard: list[AgentMessage] = []
        self.coordinator: Channel = open_coordinator_channel(
            "tcp://127.0.0.1:*", Security(), lambda frames: self.heard.append(decode_agent_message(frames[1])), context
        )
        self.config = Config(
            agent_id="a", coordinator=self.coordinator.endpoint, retry_s=0.05, retry_max_s=0.1, deadline_s=0.5
        )
        self.draft = ToyModel(max_sequences=1)
        self.client = Client(self.config, self.draft.info, context)
        self.engine = EngineThread()

    def say(self, *messages: CoordinatorMessage | bytes) -> None:
        for message in messages:
            assert self.coordinator.send([b"a", message if isinstance(message, bytes) else encode(message)])

    async def hear(self, kind: type[AgentMessage]) -> Any:
        """Return the next message of a kind, once it comes; those before it are passed over."""

        def found() -> AgentMessage | None:
            while self.heard and not isinstance(self.heard[0], kind):
                self.heard.pop(0)
            return self.heard[0] if self.heard else None

        await until(found, f"a {kind.__name__} comes")
        return self.heard.pop(0)

    async def welcome(self) -> None:
        await self.hear(Hello)
        self.say(WELCOME)
        assert await asyncio.wait_for(self.client.ready(), 10) == WELCOME

    def generate(self, max_tokens: int = 8, num_draft_tokens: int = 4) -> "asyncio.Task[Finished]":
        return asyncio.create_task(
            generate(
                Request(5, [1, 2, 3], Sampling(), max_tokens),
                config=msgspec.structs.replace(self.config, num_draft_tokens=num_draft_tokens),
                client=self.client,
                drafts=model_source(Loaded(self.draft, ToyTokenizer())),
                engine=self.engine,
            )
        )

    async def close(self) -> None:
        await self.client.close()
        self.coordinator.close()
        self.engine.shutdown()


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Let the loop run until a condition holds."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.002)


def play(part: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        with zmq.Context() as context:
            scene = Scene(context)
            try:
                await part(scene)
            finally:
                await scene.close()

    asyncio.run(run())


async def take(inbox: "asyncio.Queue[Answer | Reconnected]") -> Answer | Reconnected:
    return await asyncio.wait_for(inbox.get(), 10)


# -- the handshake --


def test_it_says_who_it_is_and_is_ready_when_welcomed() -> None:
    async def part(scene: Scene) -> None:
        hello = await scene.hear(Hello)
        assert (hello.agent_id, hello.vocabulary_hash, hello.draft_fingerprint) == ("a", "toy", "toy")
        scene.say(WELCOME)
        assert await asyncio.wait_for(scene.client.ready(), 10) == WELCOME

    play(part)


def test_it_says_hello_again_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multispin_agent.client.HELLO_RETRY_S", 0.05)

    async def part(scene: Scene) -> None:
        first, second = await scene.hear(Hello), await scene.hear(Hello)
        assert first == second, "the same instance"
        scene.say(Refused("too_many_agents", "come back later"))
        await scene.welcome()

    play(part)


def test_it_says_so_when_it_begins_or_ends_to_draft_ahead() -> None:
    async def part(scene: Scene) -> None:
        scene.client.set_draft_ahead(False)  # before anybody has welcomed it: the next Hello says it
        await scene.welcome()
        for draft_ahead in (True, False):
            scene.client.set_draft_ahead(draft_ahead)
            assert (await scene.hear(Hello)).draft_ahead is draft_ahead

    play(part)


def test_it_pings_as_often_as_it_is_told() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        pings = [await scene.hear(Ping) for _ in range(3)]
        assert [ping.sequence_number for ping in pings] == [1, 2, 3]

    play(part)


@pytest.mark.parametrize("code", ["protocol_version", "vocabulary_mismatch", "bad_agent_id"])
def test_a_refusal_for_good_ends_the_waiting_with_its_reason(code: str) -> None:
    async def part(scene: Scene) -> None:
        await scene.hear(Hello)
        scene.say(Refused(code, "give both ends the same pair"))
        with pytest.raises(RefusedByCoordinator, match=f"{code}.*give both ends the same pair"):
            await asyncio.wait_for(scene.client.ready(), 10)

    play(part)


# Not with a group of errors, which the daemon would show as a trace in place of what to do.
@pytest.mark.parametrize("welcomed_before", [False, True])
def test_a_file_that_cannot_be_served_ends_with_the_refusal_itself(welcomed_before: bool) -> None:
    async def part(scene: Scene) -> None:
        serving = ServeFile(
            scene.config,
            scene.client,
            model_source(Loaded(scene.draft, ToyTokenizer())),
            scene.engine,
            "none",
            None,
            "run",
        )
        jobs = [Job("1", "abc", 4, Sampling()), Job("2", "abc", 4, Sampling())]
        running = asyncio.create_task(serving.run(jobs))
        if welcomed_before:
            await scene.welcome()
            await scene.hear(Open)
            scene.say(Refused("hello_required", "say Hello first"))
        await scene.hear(Hello)
        scene.say(Refused("vocabulary_mismatch", "give both ends the same pair"))
        with pytest.raises(RefusedByCoordinator, match="give both ends the same pair"):
            await asyncio.wait_for(running, 10)

    play(part)


# -- answers --


def test_answers_go_to_the_request_that_they_are_about() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        five, six = scene.client.subscribe(5), scene.client.subscribe(6)
        refused = Refused("busy", "later", 6, 0)
        scene.say(VERDICT, refused)
        answers = [await take(five), await take(six)]
        assert [answer.message for answer in answers if isinstance(answer, Answer)] == [VERDICT, refused]
        assert isinstance(answers[0], Answer)
        assert answers[0].num_bytes == len(encode(VERDICT))

    play(part)


def test_what_is_no_message_or_for_no_request_is_counted() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        scene.say(b"\x01\xff", b"", b"\x09\x01", VERDICT)
        await until(lambda: scene.client.counters["ignored_unknown_request"] == 1, "the verdict is counted")
        assert scene.client.counters["ignored_malformed_frame"] == 1
        assert scene.client.counters["ignored_other_version"] == 2

    play(part)


def test_a_coordinator_of_an_older_version_is_told_once_and_asked_on_until_it_is_updated(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multispin_agent.client.HELLO_RETRY_S", 0.02)

    async def part(scene: Scene) -> None:
        for _ in range(3):
            await scene.hear(Hello)
            scene.say(encode(Refused("protocol_version", "update the older side"), PROTOCOL_VERSION - 1))
        await until(lambda: scene.client.counters["ignored_other_version"] == 3, "it has heard them")
        assert "speaks another protocol" in scene.client.why_absent(scene.client.now_ns())
        await scene.welcome()
        assert scene.client.why_absent(scene.client.now_ns()) == ""

    play(part)
    assert caplog.text.count("update the coordinator first") == 1


def test_dropping_a_request_closes_it_once() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        scene.client.subscribe(5)
        scene.client.unsubscribe(5)
        scene.client.unsubscribe(5)
        scene.client.subscribe(6)
        scene.client.unsubscribe(6)
        assert await scene.hear(Close) == Close(5)
        assert await scene.hear(Close) == Close(6)

    play(part)


# -- coordinators that come back --


def test_a_coordinator_that_has_forgotten_it_is_greeted_and_its_requests_are_told() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        inbox = scene.client.subscribe(5)
        scene.say(Refused("hello_required", "say Hello first"))
        await scene.hear(Hello)
        scene.say(WELCOME)
        assert isinstance(await take(inbox), Reconnected)

    play(part)


def test_a_new_epoch_in_a_pong_means_a_new_coordinator() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        inbox = scene.client.subscribe(5)
        scene.say(Pong(1, 77), Pong(2, 78))
        await scene.hear(Hello)
        scene.say(msgspec.structs.replace(WELCOME, epoch=78))
        assert isinstance(await take(inbox), Reconnected)
        assert inbox.empty(), "the Pong of the old epoch meant nothing"

    play(part)


def test_the_same_welcome_again_disturbs_no_request() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        inbox = scene.client.subscribe(5)
        scene.say(WELCOME, VERDICT)
        assert isinstance(await take(inbox), Answer)

    play(part)


# -- a request over it --


def test_a_request_that_is_refused_for_good_fails_with_the_reason_and_is_closed() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        task = scene.generate()
        await scene.hear(Open)
        scene.say(Refused("prompt_too_long", "prompt has 3 tokens, allowed are 2", 5, 0))
        with pytest.raises(RequestFailed, match=r"prompt_too_long.*allowed are 2"):
            await asyncio.wait_for(task, 10)
        assert await scene.hear(Close) == Close(5)
        assert scene.draft.num_open == 0

    play(part)


def test_a_request_that_is_refused_for_now_is_asked_again() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        task = scene.generate(max_tokens=1)
        opened = await scene.hear(Open)
        scene.say(Refused("busy", "later", 5, 0))
        assert await scene.hear(Open) == opened
        scene.say(msgspec.structs.replace(VERDICT, finish=2))
        finished = await asyncio.wait_for(task, 10)
        assert (finished.token_ids, finished.text, finished.finish) == ([4], "d", "length")

    play(part)


def test_a_lost_request_is_opened_again_from_its_committed_tokens() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        task = scene.generate(max_tokens=2)
        await scene.hear(Open)
        scene.say(VERDICT)
        draft = await scene.hear(Draft)
        scene.say(Refused("unknown_request", "of an older round: nothing is done", 5, 0))
        scene.say(Refused("unknown_request", "open it again", 5, draft.round))
        again = await scene.hear(Open)
        assert (again.round, again.token_ids, again.num_prompt_tokens) == (2, (1, 2, 3, 4), 3)
        scene.say(msgspec.structs.replace(VERDICT, round=2, next_token_id=6, finish=2))
        finished = await asyncio.wait_for(task, 10)
        assert (finished.token_ids, finished.num_reopens) == ([4, 6], 1)

    play(part)


def test_after_a_new_coordinator_with_a_lower_limit_drafts_are_shorter() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        task = scene.generate(max_tokens=20, num_draft_tokens=4)
        await scene.hear(Open)
        scene.say(VERDICT)
        assert len((await scene.hear(Draft)).draft_token_ids) == 4
        scene.say(Refused("hello_required", "say Hello first"))
        await scene.hear(Hello)
        scene.say(msgspec.structs.replace(WELCOME, max_draft_tokens=1, epoch=78))
        again = await scene.hear(Open)
        scene.say(msgspec.structs.replace(VERDICT, round=again.round, next_token_id=6))
        assert len((await scene.hear(Draft)).draft_token_ids) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(part)


def test_after_an_interruption_a_request_asks_at_once_however_long_it_would_have_waited() -> None:
    later_ns = 0

    async def part(scene: Scene) -> None:
        nonlocal later_ns
        await scene.hear(Hello)
        scene.client.now_ns = lambda: monotonic_ns() + later_ns
        scene.say(msgspec.structs.replace(WELCOME, ping_interval_s=100.0))
        await asyncio.wait_for(scene.client.ready(), 10)
        scene.config = msgspec.structs.replace(scene.config, retry_s=600.0, retry_max_s=600.0, deadline_s=6000.0)
        task = scene.generate()
        opened = await scene.hear(Open)
        scene.say(Pong(1, WELCOME.epoch), Pong(2, WELCOME.epoch))
        later_ns += 200 * 10**9
        scene.say(Pong(3, WELCOME.epoch))
        assert await scene.hear(Open) == opened
        later_ns += 200 * 10**9
        scene.say(VERDICT)  # the answer itself is what ends the silence
        first = await scene.hear(Draft)
        later_ns += 200 * 10**9
        scene.say(Pong(4, WELCOME.epoch))
        assert await scene.hear(Draft) == first, "asked again after the third, and not after the second"
        assert not [message for message in scene.heard if isinstance(message, Open | Draft)]
        assert scene.client.counters["interruptions"] >= 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(part)


def test_an_answer_that_came_before_the_last_repeat_answers_an_earlier_one() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        scene.config = msgspec.structs.replace(scene.config, retry_s=60.0, retry_max_s=60.0)
        task = scene.generate(max_tokens=1)
        await scene.hear(Open)
        inbox = scene.client._inboxes[5]
        received_ns = monotonic_ns()
        # A process that was stopped wakes up with both: its alarm, and the answer that had come meanwhile.
        inbox.put_nowait(Silence(inbox_heard_ns(task)))
        inbox.put_nowait(Answer(msgspec.structs.replace(VERDICT, finish=2), received_ns, 50))
        finished = await asyncio.wait_for(task, 10)
        assert [await scene.hear(Open)], "it had asked again"
        [timing] = finished.rounds
        assert 0.0 <= timing.round_trip_s < 5.0
        assert timing.sent_ns <= received_ns

    play(part)


def inbox_heard_ns(task: "asyncio.Task[Finished]") -> int:
    """Return when the request of a task has heard something last, as its alarm would say."""
    serving = task.get_coro().cr_await.cr_frame.f_locals["self"]  # type: ignore[union-attr]
    heard_ns: int = serving._heard_ns
    return heard_ns


def test_a_coordinator_that_is_silent_past_the_deadline_fails_the_request_and_keeps_its_text() -> None:
    async def part(scene: Scene) -> None:
        await scene.welcome()
        task = scene.generate()
        await scene.hear(Open)
        scene.say(VERDICT)
        first = await scene.hear(Draft)
        assert await scene.hear(Draft) == first, "asked again before it gives up"
        with pytest.raises(RequestFailed, match="deadline_s") as failure:
            await asyncio.wait_for(task, 10)
        assert failure.value.finished is not None
        assert (failure.value.finished.token_ids, failure.value.finished.finish) == ([4], "error")

    play(part)
