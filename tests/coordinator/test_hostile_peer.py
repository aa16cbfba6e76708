"""Peers that do what they must not, against a dispatcher and over a real socket; honest agents notice nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.toy_model import END_TOKEN, ToyModel

from multispin_agent.client import Client
from multispin_agent.config import Config as AgentConfig
from multispin_agent.draft_source import model_source
from multispin_agent.generate import generate
from multispin_agent.request import Finished, Request
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config, Limits
from multispin_coordinator.dispatcher import Dispatcher
from multispin_coordinator.passes import Pass, PassTiming
from multispin_coordinator.server import Server
from multispin_coordinator.verifier import run_pass
from multispin_models import channel
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded
from multispin_models.language_model import ChatMessage
from multispin_models.messages import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    AgentMessage,
    Close,
    CoordinatorMessage,
    Draft,
    Hello,
    Open,
    Ping,
    Refused,
    Verdict,
    Welcome,
    decode_coordinator_message,
    encode,
)
from multispin_models.sampling import Sampling
from multispin_models.target_alone import generate_alone

ENDS = frozenset({END_TOKEN})
GREEDY = Sampling()
LIMITS = Limits(
    max_agents=6,
    max_sessions=4,
    max_sessions_per_agent=3,
    max_waiting=4,
    max_context_tokens=96,
    max_prompt_tokens=64,
    max_draft_tokens=8,
    max_rows=32,
    prefill_rows=8,
    agent_timeout_s=60.0,
)


def hello(name: str, **changes: Any) -> Hello:
    return msgspec.structs.replace(Hello(PROTOCOL_VERSION, name, "1", "toy", "toy", f"{name}-1"), **changes)


# -- fuzzed frames against a dispatcher, 2,500 of them -----------------------------------------------------------------

HONEST_ID, FUZZED_ID = 7, 8
NUMBERS = [-1, 0, 1, 2, 3, HONEST_ID, FUZZED_ID, 2**24, 2**31, 2**64 - 1, 1.5, None, "x", b"x", [], [1], [2**23]]
TOKENS = st.lists(st.integers(0, 20), max_size=12).map(tuple)
IDS = st.sampled_from([HONEST_ID, FUZZED_ID, 9])
ROUNDS = st.integers(1, 4)
PLAUSIBLE: st.SearchStrategy[AgentMessage] = st.one_of(
    st.builds(
        hello,
        st.sampled_from(["evil", "honest"]),
        protocol_version=st.integers(0, 2),
        vocabulary_hash=st.sampled_from(["toy", "other"]),
        instance_id=st.sampled_from(["1", "2"]),
    ),
    st.builds(
        Open,
        IDS,
        ROUNDS,
        TOKENS.filter(bool),
        st.integers(1, 12),
        st.integers(1, 12),
        st.sampled_from([GREEDY, Sampling(5e-324), Sampling(1.0, 2**31, 1e-300, 2**64 - 1)]),
    ),
    st.builds(Draft, IDS, ROUNDS, st.integers(0, 14), TOKENS),
    st.builds(Close, IDS),
    st.builds(Ping, st.integers(0, 9)),
)


@st.composite
def fuzzed_frames(draw: st.DrawFn) -> list[bytes]:
    """Draw the frames of one message: plausible, damaged, random, or in several parts."""
    frame = encode(draw(PLAUSIBLE))
    match draw(st.sampled_from(["as it is", "flip", "cut", "field", "random", "parts"])):
        case "flip":
            at = draw(st.integers(0, len(frame) * 8 - 1))
            frame = frame[: at // 8] + bytes([frame[at // 8] ^ 1 << at % 8]) + frame[at // 8 + 1 :]
        case "cut":
            frame = frame[: draw(st.integers(0, len(frame) - 1))]
        case "field":
            fields = msgspec.msgpack.decode(frame[1:])
            fields[draw(st.integers(0, len(fields) - 1))] = draw(st.sampled_from(NUMBERS))
            frame = frame[:1] + msgspec.msgpack.encode(fields)
        case "random":
            frame = frame[:1] + draw(st.binary(max_size=40))
        case "parts":
            at = draw(st.integers(0, len(frame)))
            return draw(st.sampled_from([[], [frame[:at], frame[at:]], [frame, frame], [frame, b""]]))
    return [frame]


class Desk:
    """A dispatcher, its engine, and an honest agent with a request in it."""

    def __init__(self) -> None:
        self.target = ToyModel(max_sequences=LIMITS.max_sessions)
        self.dispatcher = Dispatcher(self.target.info, ENDS, LIMITS)
        self.dispatcher.on_frame(b"honest", [encode(hello("honest"))], 0)
        self.dispatcher.on_frame(b"evil", [encode(hello("evil"))], 0)
        self.tokens = [3, 1, 4]
        self.round = 0
        self.finish = 0
        self.running: Pass | None = None
        self.tell(Open(HONEST_ID, 0, (3, 1, 4), 3, 12, GREEDY))

    def tell(self, message: AgentMessage) -> None:
        assert self.dispatcher.on_frame(b"honest", [encode(message)], 0) == []

    def step(self) -> None:
        """Begin a pass, or end the one that was begun; the honest agent takes its verdict and drafts on."""
        if self.running is None:
            self.running = self.dispatcher.next_pass()
            return
        ended, self.running = self.running, None
        timing = PassTiming(1, 1, [None] * len(ended.work))
        for send in self.dispatcher.on_pass_done(run_pass(self.target, ended), timing):
            if send.agent == b"honest":
                self.take(send.message)

    def take(self, message: CoordinatorMessage) -> None:
        assert isinstance(message, Verdict)
        assert (message.request_id, message.round) == (HONEST_ID, self.round)
        draft = [5, 6][: message.num_accepted]
        self.tokens += [*draft, message.next_token_id]
        self.round += 1
        self.finish = message.finish
        if not self.finish:
            self.tell(Draft(HONEST_ID, self.round, len(self.tokens), (5, 6)))


@settings(max_examples=250, deadline=None)
@given(messages=st.lists(fuzzed_frames(), min_size=10, max_size=10), data=st.data())
def test_every_fuzzed_frame_is_answered_or_counted_and_the_honest_text_is_the_targets(
    messages: list[list[bytes]], data: st.DataObject
) -> None:
    desk = Desk()
    dispatcher = desk.dispatcher
    for frames in messages:
        before = dispatcher.counters.total()
        sessions = set(dispatcher.sessions)
        replies = dispatcher.on_frame(b"evil", frames, 0)
        assert all(send.agent == b"evil" for send in replies)
        for send in replies:
            assert decode_coordinator_message(encode(send.message)) == send.message
        if not replies and dispatcher.counters.total() == before:
            assert set(dispatcher.sessions) != sessions or is_taken(dispatcher, frames), "a frame vanished"
        if data.draw(st.booleans()):
            desk.step()
    for _ in range(120):
        desk.step()
    assert desk.finish
    assert desk.tokens[3:] == generate_alone(ToyModel(), [3, 1, 4], GREEDY, 12, ENDS)


def is_taken(dispatcher: Dispatcher, frames: list[bytes]) -> bool:
    """Return whether a message was in order, so that its answer comes from the engine, or is none (Close)."""
    fields = msgspec.msgpack.decode(b"".join(frames)[1:])
    if fields[0] == 4:
        return True
    session = dispatcher.sessions.get(fields[1])
    return session is not None and session.agent == b"evil" and session.job is not None


@pytest.mark.parametrize("frames", [[], [b""], [b"", encode(Ping(1))], [encode(Ping(1)), b""], [encode(Ping(1))] * 2])
def test_a_message_of_other_than_one_frame_is_ignored_and_counted(frames: list[bytes]) -> None:
    desk = Desk()
    assert desk.dispatcher.on_frame(b"evil", frames, 0) == []
    assert desk.dispatcher.counters["ignored_malformed_frame"] == 1


def test_a_message_cut_into_two_frames_is_ignored_and_counted() -> None:
    desk = Desk()
    frame = encode(hello("evil"))
    assert desk.dispatcher.on_frame(b"evil", [frame[:5], frame[5:]], 0) == []
    assert desk.dispatcher.counters["ignored_malformed_frame"] == 1


# -- over a socket -----------------------------------------------------------------------------------------------------


class ToyTokenizer:
    """Every id but the end is a letter."""

    vocabulary_hash = "toy"
    end_token_ids = ENDS

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        return [ord(letter) - 96 for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == END_TOKEN else bytes([96 + token_id])

    def apply_chat_template(self, messages: list[ChatMessage], **variables: Any) -> str:
        return "".join(message.content for message in messages)


async def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    """Let the loop run until a condition holds."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.002)


class HonestAgent:
    """A client, its draft model, and as many requests as one likes."""

    def __init__(self, name: str, endpoint: str, context: zmq.Context[Any], num_draft_tokens: int) -> None:
        self.draft = ToyModel(noise=0.7, max_sequences=1)
        self.config = AgentConfig(
            agent_id=name,
            coordinator=endpoint,
            num_draft_tokens=num_draft_tokens,
            retry_s=0.2,
            retry_max_s=0.4,
            deadline_s=25.0,
        )
        self.client = Client(self.config, self.draft.info, context)
        self.engine = EngineThread()
        self.num_requests = 0
        self.num_reopens = 0

    async def write(self, prompt: list[int], sampling: Sampling, request_id: int) -> Finished:
        self.num_requests += 1
        finished = await generate(
            Request(request_id, prompt, sampling, 40, ignore_end=True),
            config=self.config,
            client=self.client,
            drafts=model_source(Loaded(self.draft, ToyTokenizer())),
            engine=self.engine,
        )
        self.num_reopens += finished.num_reopens
        assert finished.token_ids == generate_alone(ToyModel(), prompt, sampling, 40, frozenset())
        return finished

    async def close(self) -> None:
        await self.client.close()
        self.engine.shutdown()


class Scene:
    """A coordinator with two honest agents that write without pause, and the hostile sockets of a test."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.context = context
        target = ToyModel(max_sequences=LIMITS.max_sessions)
        self.server = Server(
            Config(bind="tcp://127.0.0.1:*", policy="fixed", limits=LIMITS),
            Loaded(target, ToyTokenizer()),
            target.info,
            PassMeter(None),
            context,
        )
        self.serving = asyncio.create_task(self.server.serve())
        self.honest = [HonestAgent(f"honest{i}", self.server.endpoint, context, 2 + 3 * i) for i in range(2)]
        self.sockets: list[zmq.Socket[bytes]] = []
        self.quiet = False
        self.writing = [asyncio.create_task(self.write(i, agent)) for i, agent in enumerate(self.honest)]

    async def write(self, index: int, agent: HonestAgent) -> None:
        """Write text after text until told to stop; every one is compared."""
        while not self.quiet:
            number = agent.num_requests
            sampling = Sampling(temperature=[0.0, 0.9][number % 2], seed=number)
            await agent.write([1 + index, 2, 1 + number % 15], sampling, request_id(index, number))

    @property
    def counters(self) -> dict[str, int]:
        return self.server.dispatcher.counters

    def connect(self, name: str) -> "Peer":
        peer = Peer(self, name)
        self.sockets.append(peer.socket)
        return peer

    async def end(self) -> None:
        """Have every honest agent begin and end two more texts, then close everything."""
        wanted = [agent.num_requests + 2 for agent in self.honest]
        try:
            await until(
                lambda: (
                    any(task.done() for task in (*self.writing, self.serving))
                    or all(agent.num_requests > number for agent, number in zip(self.honest, wanted, strict=True))
                ),
                "the honest agents go on",
            )
            self.quiet = True
            await asyncio.wait_for(asyncio.gather(*self.writing), 30)
            assert not self.serving.done()
        finally:
            for task in (*self.writing, self.serving):
                task.cancel()
            await asyncio.gather(*self.writing, self.serving, return_exceptions=True)
            for agent in self.honest:
                await agent.close()
            for socket in self.sockets:
                socket.close(0)


def request_id(agent: int, number: int) -> int:
    return 1 + 1000 * (agent + 1) + number


class Peer:
    """A raw socket that says what it likes."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.name = name
        self.socket: zmq.Socket[bytes] = scene.context.socket(zmq.DEALER)
        self.socket.routing_id = name.encode()
        self.socket.linger = 0
        self.socket.connect(scene.server.endpoint)

    def say(self, *frames: AgentMessage | bytes) -> None:
        self.socket.send_multipart([frame if isinstance(frame, bytes) else encode(frame) for frame in frames])

    async def hear(self) -> CoordinatorMessage:
        await until(lambda: self.socket.poll(0), f"{self.name} is answered")
        return decode_coordinator_message(self.socket.recv())

    async def hear_refusal(self) -> str:
        message = await self.hear()
        assert isinstance(message, Refused)
        return message.code

    async def join(self) -> None:
        self.say(hello(self.name))
        assert isinstance(await self.hear(), Welcome)


@asynccontextmanager
async def honest_work() -> AsyncIterator[Scene]:
    """Give a coordinator at work; afterwards the honest texts were all right, and go on."""
    with zmq.Context() as context:
        scene = Scene(context)
        try:
            await until(lambda: all(agent.num_requests >= 2 for agent in scene.honest), "the honest agents begin")
            yield scene
        finally:
            await scene.end()


def run_scene(play: Callable[[Scene], Any], *, disturbed: bool = False) -> None:
    """Play a scene; unless the honest agents may be `disturbed`, none of them had to open a request again."""

    async def run() -> None:
        async with honest_work() as scene:
            await play(scene)
        assert disturbed or [agent.num_reopens for agent in scene.honest] == [0, 0]

    asyncio.run(run())


MANY_TOKENS = Open(5, 0, (1,) * 100_000, 100_000, 8, GREEDY)
TEXT = Open(5, 0, (1, 2, 3), 3, 30, GREEDY, ignore_end=True)

# What a peer that was welcomed and has request 5 open at round 1 says, and the code of the refusal that it gets.
REFUSED_MESSAGES: dict[str, tuple[AgentMessage | bytes, str]] = {
    "wrong version": (b"\x63" + encode(Ping(1))[1:], "protocol_version"),
    "wrong version in Hello": (hello("evil", protocol_version=9), "protocol_version"),
    "wrong vocabulary": (hello("evil", vocabulary_hash="another"), "vocabulary_mismatch"),
    "another agent's name": (hello("honest0"), "bad_agent_id"),
    "a prompt of 100,000 tokens": (msgspec.structs.replace(MANY_TOKENS, request_id=6), "prompt_too_long"),
    "100,000 tokens said to be text": (Open(6, 0, (1,) * 100_000, 1, 200_000, GREEDY), "context_exceeded"),
    "a prompt that is longer than the tokens": (Open(6, 0, (1, 2), 3, 8, GREEDY), "bad_request"),
    "nothing left to generate": (Open(6, 0, (1, 2, 3), 2, 1, GREEDY), "bad_request"),
    "a prompt out of the vocabulary": (Open(6, 0, (1, 16), 2, 8, GREEDY), "unknown_token"),
    "a draft out of the vocabulary": (Draft(5, 1, 4, (1, 2**24 - 1)), "unknown_token"),
    "a draft that is too long": (Draft(5, 1, 4, (1,) * 9), "draft_too_long"),
    "an unknown request": (Draft(6, 1, 4, (1,)), "unknown_request"),
    "a round that comes too early": (Draft(5, 3, 4, (1,)), "out_of_step"),
    "a draft from where the text is not": (Draft(5, 1, 3, (1,)), "out_of_step"),
}


@pytest.mark.parametrize("what", REFUSED_MESSAGES)
def test_it_is_refused_with_its_code_and_counted(what: str) -> None:
    message, code = REFUSED_MESSAGES[what]

    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        await peer.join()
        peer.say(TEXT)
        assert isinstance(await peer.hear(), Verdict)
        before = scene.counters[f"refused_{code}"]
        peer.say(message)
        assert await peer.hear_refusal() == code
        assert scene.counters[f"refused_{code}"] == before + 1
        # The peer's own request was not touched by it either.
        peer.say(Draft(5, 1, 4, ()))
        assert isinstance(await peer.hear(), Verdict)

    run_scene(play)


IGNORED_MESSAGES: dict[str, list[AgentMessage | bytes]] = {
    "negative lengths": [bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode([3, 5, 1, -4, [1]])],
    "a negative token": [bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode([3, 5, 1, 4, [-1]])],
    "a temperature that is no number": [
        bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode([2, 6, 0, [1], 1, 8, [float("nan"), 0, 1.0, 0]])
    ],
    "no message at all": [bytes([PROTOCOL_VERSION]) + b"\xff" * 100],
    "an empty frame": [b""],
    "a message in two frames": [encode(Ping(1))[:2], encode(Ping(1))[2:]],
    "two messages at once": [Ping(1), Ping(2)],
    "a thousand frames": [b"x"] * 1000,
    "what a coordinator says": [bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode([20, 1, 1])],
}


@pytest.mark.parametrize("what", IGNORED_MESSAGES)
def test_it_is_ignored_and_counted(what: str) -> None:
    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        await peer.join()
        peer.say(*IGNORED_MESSAGES[what])
        await until(lambda: scene.counters["ignored_malformed_frame"] == 1, "it is counted")
        peer.say(Ping(77))
        answer = await peer.hear()
        assert getattr(answer, "sequence_number", None) == 77, "the first answer is to the next message"

    run_scene(play)


def test_before_hello_nothing_is_served() -> None:
    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        for message in (TEXT, Draft(5, 1, 4, ()), Close(5), Ping(1)):
            peer.say(message)
            assert await peer.hear_refusal() == "hello_required"
        assert scene.counters["refused_hello_required"] == 4

    run_scene(play)


def test_a_frame_above_the_limit_cuts_the_connection_of_its_sender() -> None:
    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        await peer.join()
        monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        peer.say(b"\x01" * (MAX_FRAME_BYTES + 1))
        await until(lambda: monitor.poll(0), "the connection is cut")
        peer.socket.disable_monitor()
        monitor.close(0)

    run_scene(play)


def test_a_round_that_is_replayed_gets_the_same_verdict_and_an_older_one_none() -> None:
    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        await peer.join()
        peer.say(TEXT)
        opened = await peer.hear()
        draft = Draft(5, 1, 4, (1, 2))
        peer.say(draft)
        verdict = await peer.hear()
        for _ in range(3):
            peer.say(draft)
            assert await peer.hear() == verdict
        assert scene.counters["repeated_verdicts"] >= 3
        stale = scene.counters["ignored_stale_round"]
        peer.say(TEXT)
        await until(lambda: scene.counters["ignored_stale_round"] > stale, "the older round is counted")
        peer.say(Draft(5, 1, 4, (7, 7)))  # the same round with another draft changes nothing
        assert await peer.hear() == verdict
        assert opened != verdict

    run_scene(play)


def test_what_is_said_of_an_honest_agents_request_has_no_effect_on_it() -> None:
    async def play(scene: Scene) -> None:
        peer = scene.connect("evil")
        await peer.join()
        for _ in range(20):
            await until(
                lambda: any(s.agent.startswith(b"honest") for s in scene.server.dispatcher.sessions.values()),
                "an honest request is open",
            )
            theirs = next(s for s in scene.server.dispatcher.sessions.values() if s.agent.startswith(b"honest"))
            number, round_number, length = theirs.request_id, theirs.round, len(theirs.tokens)
            peer.say(Close(number))
            peer.say(Draft(number, round_number + 1, length, (1, 1)))
            assert await peer.hear_refusal() == "unknown_request"
            if number in scene.server.dispatcher.sessions:
                assert scene.server.dispatcher.sessions[number].agent != b"evil"
        assert scene.counters["refused_unknown_request"] == 20

    run_scene(play)


def test_an_honest_agents_request_cannot_be_opened_by_another() -> None:
    async def play(scene: Scene) -> None:
        peer, victim = scene.connect("evil"), scene.connect("victim")
        await peer.join()
        await victim.join()
        victim.say(TEXT)
        verdict = await victim.hear()
        peer.say(msgspec.structs.replace(TEXT, round=1000, token_ids=(9, 9, 9)))
        assert await peer.hear_refusal() == "request_owned"
        victim.say(TEXT)
        assert await victim.hear() == verdict

    run_scene(play)


def test_a_flood_of_requests_is_refused_beyond_the_limits() -> None:
    async def play(scene: Scene) -> None:
        peers = [scene.connect(f"evil{i}") for i in range(3)]
        for peer in peers:
            await peer.join()
        for peer_number, peer in enumerate(peers):
            for number in range(300):
                peer.say(msgspec.structs.replace(TEXT, request_id=10**6 * (peer_number + 1) + number))
        refused = ("refused_too_many_sessions", "refused_busy")
        await until(lambda: sum(scene.counters[name] for name in refused) >= 3 * 297, "the flood is refused")
        assert len(scene.server.dispatcher.sessions) <= LIMITS.max_sessions + LIMITS.max_waiting
        for peer in peers:  # their sequences come back to the honest ones with a new instance of each agent
            peer.say(hello(peer.name, instance_id="2"))
        await until(
            lambda: not any(s.agent.startswith(b"evil") for s in scene.server.dispatcher.sessions.values()),
            "the flood's sessions are freed",
        )

    run_scene(play)


def test_a_flood_of_names_is_refused_beyond_the_limit_and_the_honest_stay() -> None:
    async def play(scene: Scene) -> None:
        peers = [scene.connect(f"evil{i}") for i in range(30)]
        for peer in peers:
            peer.say(hello(peer.name))
        answers = [await peer.hear() for peer in peers]
        codes = [answer.code for answer in answers if isinstance(answer, Refused)]
        assert codes == ["too_many_agents"] * (30 - LIMITS.max_agents + 2)
        assert len(scene.server.dispatcher.agents) == LIMITS.max_agents
        assert scene.counters["refused_too_many_agents"] == len(codes)

    run_scene(play)


@pytest.mark.parametrize("says_hello", [False, True])
def test_an_agent_whose_name_another_takes_recovers_and_its_text_is_right(
    says_hello: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without keys (loopback only) a name is anybody's: ROUTER_HANDOVER gives its answers to the newcomer, until the
    # agent's heartbeats find its connection dead and it takes the name back.
    monkeypatch.setattr(channel, "HEARTBEAT_MS", 100)
    monkeypatch.setattr(channel, "HEARTBEAT_TIMEOUT_MS", 400)

    async def play(scene: Scene) -> None:
        thief = scene.connect("honest0")
        if says_hello:
            thief.say(hello("honest0", instance_id="thief"))
            answer = await thief.hear()
            while not isinstance(answer, Welcome):  # a verdict that was meant for the agent may come first
                answer = await thief.hear()
        else:
            thief.say(Ping(1))
            await thief.hear()
        thief.say(Draft(4242, 1, 4, ()))
        thief.socket.close(0)

    run_scene(play, disturbed=True)
