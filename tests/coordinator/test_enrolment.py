"""Who gets in: enrolment over the wire, and intruders of every kind, refused and seen in the coordinator's metrics."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.toy_model import END_TOKEN, ToyModel

from multispin.faults.strangers import strangers_at
from multispin_agent import enrolment
from multispin_agent.enrolment import Enrolled
from multispin_coordinator.api.collector import CoordinatorCollector
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config
from multispin_coordinator.server import Server
from multispin_models.channel import Channel, Security
from multispin_models.connections import open_agent_channel
from multispin_models.engines import Loaded
from multispin_models.errors import ConfigError
from multispin_models.keys.key_files import make_pair, read_public, read_secret, write_pair
from multispin_models.keys.messages import Enrol, Registered, decode_answer, encode
from multispin_models.keys.registry import Registry
from multispin_models.keys.token import Token, new_token
from multispin_models.messages import PROTOCOL_VERSION, Hello, Ping, Pong, Welcome, decode_coordinator_message
from multispin_models.messages import encode as encode_message
from multispin_models.open_files import raise_file_limit


class Tokenizer:
    end_token_ids = frozenset({END_TOKEN})


async def until(condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.002)


class Agent:
    """A connection that says Hello and keeps what it hears."""

    def __init__(self, site: "Site", name: str, security: Security, endpoint: str | None = None) -> None:
        self.heard: list[Any] = []
        self.channel: Channel = open_agent_channel(
            endpoint or site.server.endpoint, name, security, self._on_frames, site.context
        )
        site.opened.append(self.channel)
        self.name = name
        self.hello()

    def hello(self) -> None:
        self.channel.send([encode_message(Hello(PROTOCOL_VERSION, self.name, "1", "toy", "toy", f"{self.name}-1"))])

    def _on_frames(self, frames: list[bytes]) -> None:
        self.heard.append(decode_coordinator_message(b"".join(frames)))

    @property
    def is_welcome(self) -> bool:
        return any(isinstance(message, Welcome) for message in self.heard)


class Site:
    """A coordinator with keys on loopback, whose operator makes tokens and whose boxes enrol."""

    def __init__(self, folder: Path, context: zmq.Context[Any]) -> None:
        self.folder, self.context = folder, context
        self.agents_folder = folder / "agents"
        self.agents_folder.mkdir()
        write_pair(folder / "keys", "coordinator", make_pair())
        security = Security(
            secret_key_file=str(folder / "keys/coordinator.key_secret"),
            authorized_keys_dir=str(self.agents_folder),
            enrol_bind="tcp://127.0.0.1:*",
        )
        target = ToyModel()
        self.server = Server(
            Config(bind="tcp://127.0.0.1:*", security=security),
            Loaded(target, Tokenizer()),  # type: ignore[arg-type]
            target.info,
            PassMeter(None),
            context,
        )
        self.serving = asyncio.create_task(self.server.serve())
        self.opened: list[Channel] = []

    def token(self, device_id: str, *, hours: float = 1.0, replace: bool = False) -> Token:
        server_key = read_public(str(self.folder / "keys/coordinator.key")).decode()
        assert self.server.enrol_endpoint is not None
        token = new_token(server_key, self.server.enrol_endpoint)
        Registry(self.agents_folder).add_token(token, device_id, time.time() + hours * 3600, replace=replace)
        return token

    async def enrol(self, box: str, token: Token, patience_s: float = 10.0) -> Enrolled:
        return await asyncio.to_thread(enrolment.enrol, self.folder / box, token, patience_s)

    def keys_of(self, box: str) -> Security:
        folder = self.folder / box
        return Security(
            secret_key_file=str(folder / "agent.key_secret"), server_key_file=str(folder / "coordinator.key")
        )

    async def enrolled_agent(self, device_id: str) -> Agent:
        await self.enrol(device_id, self.token(device_id))
        agent = Agent(self, device_id, self.keys_of(device_id))
        await until(lambda: agent.is_welcome, f"{device_id} is welcome")
        return agent

    def metric(self, event: str) -> float:
        """Return what /metrics says of an event."""
        collected = CoordinatorCollector(self.server.dispatcher, None).collect()
        [events] = [metric for metric in collected if metric.name.endswith("events")]
        return sum(sample.value for sample in events.samples if sample.labels.get("event") == event)

    async def still_serves(self, agent: Agent) -> None:
        agent.heard.clear()
        agent.channel.send([encode_message(Ping(1))])
        await until(lambda: any(isinstance(message, Pong) for message in agent.heard), "the honest agent is answered")


def play(folder: Path, part: Callable[[Site], Awaitable[None]]) -> None:
    @asynccontextmanager
    async def site() -> AsyncIterator[Site]:
        with zmq.Context() as context:
            opened = Site(folder, context)
            try:
                yield opened
            finally:
                for channel in opened.opened:
                    channel.close()
                opened.serving.cancel()
                await asyncio.gather(opened.serving, return_exceptions=True)
                context.linger = 0

    async def playing() -> None:
        async with site() as opened:
            await part(opened)

    asyncio.run(playing())


def test_a_box_enrols_with_a_token_and_is_served_under_its_device_id(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        enrolled = await site.enrol("box", site.token("ap-07"))
        assert enrolled.device_id == "ap-07"
        assert enrolled.coordinator == site.server.endpoint
        agent = Agent(site, "ap-07", site.keys_of("box"))
        await until(lambda: agent.is_welcome, "it is welcome")
        assert list(site.server.dispatcher.agents) == [b"ap-07"]
        assert sorted(path.name for path in (site.folder / "box").iterdir()) == [
            "agent.key_secret",
            "coordinator.key",
            "enrolled.json",
        ]
        secret = read_secret(str(tmp_path / "box/agent.key_secret")).secret.decode()
        written = [path.read_text() for path in site.agents_folder.rglob("*") if path.is_file()]
        assert written
        assert not any(secret in text for text in written)

    play(tmp_path, part)


def test_an_intruder_without_a_key_and_one_with_a_key_of_his_own_are_refused(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        honest = await site.enrolled_agent("ap-07")
        keyless = Agent(site, "ap-07", Security())
        write_pair(tmp_path / "mine", "agent", make_pair())
        write_pair(tmp_path / "mine", "coordinator", make_pair())
        (tmp_path / "mine/coordinator.key").write_text((tmp_path / "keys/coordinator.key").read_text())
        stranger = Agent(site, "ap-07", site.keys_of("mine"))
        await until(lambda: site.metric("refused_handshake") >= 1, "no key is counted")
        await until(lambda: site.metric("refused_key_unknown") >= 1, "an unknown key is counted")
        await site.still_serves(honest)
        assert keyless.heard == stranger.heard == []

    play(tmp_path, part)


def test_a_revoked_key_loses_its_running_connection_and_does_not_come_back(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        honest, agent = await site.enrolled_agent("ap-07"), await site.enrolled_agent("ap-08")
        monitor = agent.channel._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        Registry(site.agents_folder).revoke("ap-08")  # as `multispin keys revoke` in a process of its own
        await until(lambda: monitor.poll(0), "its connection is dropped")
        assert site.metric("dropped_revoked_connection") == 1
        agent.heard.clear()
        agent.channel.send([encode_message(Ping(1))])
        await until(lambda: site.metric("refused_key_revoked") >= 1, "its next handshake is refused and counted")
        await site.still_serves(honest)
        assert agent.heard == []
        agent.channel._socket.disable_monitor()
        monitor.close(0)

    play(tmp_path, part)


def test_a_stolen_token_is_worth_nothing_once_it_was_used_or_has_expired(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        used = site.token("ap-07")
        await site.enrol("box", used)
        expired = site.token("ap-08", hours=-1.0)
        forged = Token(used.server_key, used.endpoint, used.token_id, bytes(32))
        for token, code in ((used, "token_used"), (expired, "token_expired"), (forged, "token_unknown")):
            with pytest.raises(ConfigError, match=code):
                await site.enrol(f"thief-{code}", token)
            assert site.metric(f"refused_enrolment_{code}") == 1
            assert not (site.folder / f"thief-{code}/agent.key_secret").exists()
        assert [device.device_id for device in Registry(site.agents_folder).devices()] == ["ap-07"]

    play(tmp_path, part)


def test_a_box_tells_its_token_to_no_other_coordinator(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        token = site.token("ap-07")
        other_key = Token(make_pair().public.decode(), token.endpoint, token.token_id, token.secret)
        with pytest.raises(ConfigError, match="not the coordinator that made"):
            await site.enrol("box", other_key, patience_s=0.3)
        assert site.metric("enrolled_keys") == 0
        await until(lambda: site.metric("refused_handshake") >= 1, "the handshake under another key is counted")
        await site.enrol("box", token)  # not used up

    play(tmp_path, part)


def test_an_agent_under_anothers_id_is_refused_and_the_other_keeps_its_connection(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        honest = await site.enrolled_agent("ap-07")
        await site.enrol("insider", site.token("ap-08"))
        insider = Agent(site, "ap-07", site.keys_of("insider"))  # says that it is ap-07
        await until(lambda: site.metric("refused_bad_agent_id") == 1, "it is refused and counted")
        raw = site.context.socket(zmq.DEALER)  # and takes its name for a routing id
        raw.linger = 0
        raw.routing_id = b"ap-07"
        raw.curve_publickey, raw.curve_secretkey = read_secret(str(tmp_path / "insider/agent.key_secret"))
        raw.curve_serverkey = read_public(str(tmp_path / "keys/coordinator.key"))
        raw.connect(site.server.endpoint)
        raw.send(encode_message(Hello(PROTOCOL_VERSION, "ap-07", "1", "toy", "toy", "ap-07-1")))
        await until(lambda: site.metric("refused_bad_agent_id") == 2, "it is refused again")
        await site.still_serves(honest)
        assert list(site.server.dispatcher.agents) == [b"ap-07"]
        assert not insider.is_welcome
        raw.close()

    play(tmp_path, part)


class Recorder:
    """A relay that keeps every byte that a box sends."""

    def __init__(self, target: str) -> None:
        self.host, _, port = target.removeprefix("tcp://").rpartition(":")
        self.port = int(port)
        self.chunks: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self.server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self.host, self.port)
        await asyncio.gather(self._copy(reader, up_writer, self.chunks), self._copy(up_reader, writer, []))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[bytes]) -> None:
        while chunk := await reader.read(65536):
            kept.append(chunk)
            writer.write(chunk)
        writer.close()


async def replay(target: str, chunks: list[bytes]) -> None:
    """Send recorded chunks, each after the answer to the one before if there is one; return when it was cut off."""
    host, _, port = target.removeprefix("tcp://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for chunk in chunks:
            writer.write(chunk)
            with suppress(TimeoutError):  # half a greeting has no answer
                await asyncio.wait_for(reader.read(65536), 0.1)
        while await asyncio.wait_for(reader.read(65536), 15.0):
            pass
    except ConnectionError:
        return
    finally:
        writer.close()


def test_a_handshake_that_was_recorded_and_is_played_again_is_refused(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        honest = await site.enrolled_agent("ap-06")
        await site.enrol("ap-07", site.token("ap-07"))
        recorder = Recorder(site.server.endpoint)
        agent = Agent(site, "ap-07", site.keys_of("ap-07"), await recorder.start())
        await until(lambda: agent.is_welcome, "the box gets in through the relay")
        agent.channel.close()
        recorder.server.close()
        await site.still_serves(honest)
        received = site.server.dispatcher.tally.received_bytes
        before = site.metric("refused_handshake")
        await replay(site.server.endpoint, recorder.chunks)
        await until(lambda: site.metric("refused_handshake") > before, "it is counted")
        assert site.server.dispatcher.tally.received_bytes == received  # nothing of it was heard
        await site.still_serves(honest)

    play(tmp_path, part)


def test_an_enrolment_that_was_recorded_and_is_played_again_registers_nothing(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        token = site.token("ap-07")
        recorder = Recorder(token.endpoint)
        relayed = Token(token.server_key, await recorder.start(), token.token_id, token.secret)
        await site.enrol("box", relayed)
        recorder.server.close()
        assert not any(token.secret in chunk for chunk in recorder.chunks)
        Registry(site.agents_folder).revoke("ap-07")
        before = site.metric("refused_handshake")
        await replay(token.endpoint, recorder.chunks)
        await until(lambda: site.metric("refused_handshake") > before, "it is counted")
        assert Registry(site.agents_folder).devices() == []
        assert site.metric("enrolled_keys") == 1

    play(tmp_path, part)


def test_a_box_changes_its_key_and_the_old_connection_is_dropped(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        old = await site.enrolled_agent("ap-07")
        stolen = (tmp_path / "ap-07/agent.key_secret").read_text()
        monitor = old.channel._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        await asyncio.to_thread(enrolment.rotate, tmp_path / "ap-07", 10.0)
        await until(lambda: monitor.poll(0), "the connection of the old key is dropped")
        new = Agent(site, "ap-07", site.keys_of("ap-07"))
        await until(lambda: new.is_welcome, "the new key gets in")
        await until(lambda: site.metric("refused_key_revoked") >= 1, "the old one does not")
        assert stolen != (tmp_path / "ap-07/agent.key_secret").read_text()
        old.channel._socket.disable_monitor()
        monitor.close(0)

    play(tmp_path, part)


@pytest.mark.parametrize("action", ["enrol", "rotate"])
def test_an_answer_that_is_lost_is_asked_for_again_with_the_same_key(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(site: Site) -> None:
        token = site.token("ap-07")
        if action == "rotate":
            await site.enrol("box", token)
        real = enrolment._ask

        def lose(*arguments: Any) -> Registered:
            real(*arguments)
            raise ConfigError("the answer is lost")

        def act() -> Enrolled:
            if action == "enrol":
                return enrolment.enrol(tmp_path / "box", token, 10.0)
            return enrolment.rotate(tmp_path / "box", 10.0)

        monkeypatch.setattr(enrolment, "_ask", lose)
        with pytest.raises(ConfigError, match="the answer is lost"):
            await asyncio.to_thread(act)
        monkeypatch.setattr(enrolment, "_ask", real)
        assert (await asyncio.to_thread(act)).device_id == "ap-07"
        agent = Agent(site, "ap-07", site.keys_of("box"))
        await until(lambda: agent.is_welcome, "the box gets in")
        assert not (tmp_path / "box/agent.key_secret.new").exists()

    play(tmp_path, part)


def test_garbage_at_the_desk_is_refused_and_the_next_box_is_served(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        token = site.token("ap-07")
        raw = site.context.socket(zmq.DEALER)
        raw.linger = 0
        raw.curve_publickey, raw.curve_secretkey = make_pair()
        raw.curve_serverkey = token.server_key.encode()
        raw.connect(token.endpoint)
        garbage = [b"", b"\xff" * 64, encode(["x"]), encode(Enrol(9, token.token_id, token.secret)), b"x" * 2000]
        for frame in garbage:
            raw.send(frame)
        codes = []
        for _ in garbage:
            await until(lambda: raw.poll(0), "an answer")
            codes.append(getattr(decode_answer(raw.recv()), "code", None))
        assert codes == ["malformed", "malformed", "malformed", "version", "malformed"]
        assert (await site.enrol("box", token)).device_id == "ap-07"
        raw.close()

    play(tmp_path, part)


def test_half_open_connections_and_a_port_scan_hold_nobody_up(tmp_path: Path) -> None:
    async def part(site: Site) -> None:
        honest = await site.enrolled_agent("ap-07")
        port = int(site.server.endpoint.rpartition(":")[2])
        half_open = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        await site.still_serves(honest)
        new = await site.enrolled_agent("ap-08")
        for _, writer in half_open:
            writer.close()
        await until(lambda: site.metric("refused_handshake") == 200, "each is counted once it is given up")
        await site.still_serves(new)

    play(tmp_path, part)


NUM_STRANGERS = int(os.environ.get("MULTISPIN_STRANGERS", "1500"))  # docs/keys.md tells of ten thousand


def test_thousands_of_half_open_connections_hold_nobody_up(tmp_path: Path) -> None:
    raise_file_limit()

    async def part(site: Site) -> None:
        honest = await site.enrolled_agent("ap-07")
        port = int(site.server.endpoint.rpartition(":")[2])
        open_files = len(os.listdir("/proc/self/fd"))
        async with strangers_at("127.0.0.1", port, NUM_STRANGERS) as flood:
            await until(lambda: flood.most_open >= 0.9 * NUM_STRANGERS, "nearly all of them are open at once", 60.0)
            assert len(os.listdir("/proc/self/fd")) >= open_files + NUM_STRANGERS // 2, "and held here"
            for number in range(3):
                await site.still_serves(honest)
                await site.enrolled_agent(f"new-{number}")
        await until(lambda: len(os.listdir("/proc/self/fd")) <= open_files + 30, "nothing is left of them", 60.0)
        await site.still_serves(honest)

    play(tmp_path, part)
