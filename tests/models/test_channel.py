"""Sockets: addresses, keys, and what is refused before a byte is sent."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.auth import create_certificates

from multispin_models.channel import Channel, Security, is_loopback
from multispin_models.connections import open_agent_channel, open_coordinator_channel
from multispin_models.errors import ConfigError
from multispin_models.messages import MAX_FRAME_BYTES

ANY_PORT = "tcp://127.0.0.1:*"


async def until(condition: Callable[[], object], what: str, timeout_s: float = 10.0) -> None:
    """Let the loop run until a condition holds."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, f"{what} within {timeout_s} s"
        await asyncio.sleep(0.002)


class Ends:
    """Both ends of a connection, and the messages that came through."""

    def __init__(self, context: zmq.Context[Any], server: Security, agent: Security | None = None) -> None:
        self.up: list[list[bytes]] = []
        self.down: list[list[bytes]] = []
        self.context = context
        self.coordinator = open_coordinator_channel(ANY_PORT, server, self.up.append, context)
        self.agents: list[Channel] = []
        if agent is not None:
            self.connect("a", agent)

    def connect(self, name: str, keys: Security) -> Channel:
        agent = open_agent_channel(self.coordinator.endpoint, name, keys, self.down.append, self.context)
        self.agents.append(agent)
        return agent

    def close(self) -> None:
        for channel in (*self.agents, self.coordinator):
            channel.close()


def make_keys(folder: Path) -> dict[str, Security]:
    """Return keys of a coordinator, of an agent that it knows, and of one that it does not know."""
    known = folder / "known"
    known.mkdir()
    files = {name: create_certificates(folder, name) for name in ("coordinator", "agent", "stranger")}
    for _, secret in files.values():
        Path(secret).chmod(0o600)
    Path(files["agent"][0]).rename(known / "agent.key")
    server = Security(secret_key_file=str(files["coordinator"][1]), authorized_keys_dir=str(known))
    public = str(files["coordinator"][0])
    return {
        "coordinator": server,
        "agent": Security(secret_key_file=str(files["agent"][1]), server_key_file=public),
        "stranger": Security(secret_key_file=str(files["stranger"][1]), server_key_file=public),
    }


# -- addresses --


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        ("tcp://127.0.0.1:5599", True),
        ("tcp://127.9.9.9:1", True),
        ("tcp://127.0.0.1:*", True),
        ("tcp://localhost:5599", True),
        ("tcp://[::1]:5599", True),
        ("tcp://0.0.0.0:5599", False),
        ("tcp://*:5599", False),
        ("tcp://192.168.1.7:5599", False),
        ("tcp://127.0.0.1.example.org:5599", False),
        ("tcp://localhost.example.org:5599", False),
        ("tcp://[::]:5599", False),
    ],
)
def test_only_loopback_addresses_are_loopback(endpoint: str, answer: bool) -> None:
    assert is_loopback(endpoint) is answer


@pytest.mark.parametrize(
    "endpoint",
    ["", "127.0.0.1:5599", "tcp://127.0.0.1", "tcp://:5599", "ipc:///x", "udp://127.0.0.1:1", "tcp://127.0.0.1:99999"],
)
def test_what_is_no_address_is_refused_with_an_example_of_one(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"allowed is tcp://HOST:PORT"):
        is_loopback(endpoint)


@pytest.mark.parametrize("endpoint", ["tcp://10.1.2.3:5599", "tcp://coordinator.example.org:5599"])
def test_off_loopback_an_agent_without_keys_does_not_connect(endpoint: str) -> None:
    async def connect() -> None:
        with zmq.Context() as context, pytest.raises(ConfigError, match="is not loopback and no keys are set"):
            open_agent_channel(endpoint, "a", Security(), lambda _: None, context)

    asyncio.run(connect())


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://*:*"])
def test_off_loopback_a_coordinator_without_keys_does_not_listen(endpoint: str) -> None:
    async def listen() -> None:
        with zmq.Context() as context, pytest.raises(ConfigError, match="is not loopback and no keys are set"):
            open_coordinator_channel(endpoint, Security(), lambda _: None, context)

    asyncio.run(listen())


def test_an_address_that_cannot_be_connected_to_is_a_config_error() -> None:
    async def connect() -> None:
        with zmq.Context() as context, pytest.raises(ConfigError, match=r"cannot connect to tcp://127.0.0.1:\*"):
            open_agent_channel(ANY_PORT, "a", Security(), lambda _: None, context)

    asyncio.run(connect())


@pytest.mark.parametrize("with_keys", [False, True])
def test_a_port_that_is_taken_is_a_config_error(with_keys: bool, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)["coordinator"] if with_keys else Security()

    async def listen(endpoint: str) -> None:
        with zmq.Context() as context:
            with pytest.raises(ConfigError, match="choose another --bind"):
                open_coordinator_channel(endpoint, keys, lambda _: None, context)
            # Nothing is left behind: the next one, with keys, can start its authenticator.
            open_coordinator_channel(ANY_PORT, keys, lambda _: None, context).close()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        asyncio.run(listen(f"tcp://127.0.0.1:{taken.getsockname()[1]}"))


# -- messages --


def test_messages_go_both_ways_and_carry_the_agents_name() -> None:
    async def exchange() -> None:
        with zmq.Context() as context:
            ends = Ends(context, Security(), Security())
            assert ends.agents[0].send([b"up"])
            await until(lambda: ends.up, "a message comes up")
            assert ends.coordinator.send([b"a", b"down"])
            await until(lambda: ends.down, "a message comes down")
            assert (ends.up, ends.down) == ([[b"a", b"up"]], [[b"down"]])
            ends.close()

    asyncio.run(exchange())


def test_a_burst_of_messages_comes_through_in_order() -> None:
    async def exchange() -> None:
        with zmq.Context() as context:
            ends = Ends(context, Security(), Security())
            sent = [b"%d" % number for number in range(900)]
            assert all(ends.agents[0].send([frame]) for frame in sent)
            await until(lambda: len(ends.up) == 900, "all come up")
            assert [frame for _, frame in ends.up] == sent
            ends.close()

    asyncio.run(exchange())


def test_a_message_to_an_agent_that_is_not_there_is_told_and_dropped() -> None:
    async def exchange() -> None:
        with zmq.Context() as context:
            ends = Ends(context, Security())
            assert ends.coordinator.send([b"nobody", b"x"]) is False
            ends.close()

    asyncio.run(exchange())


def test_a_full_queue_is_told_and_drops_the_message() -> None:
    async def fill() -> None:
        with zmq.Context() as context, socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))  # nobody listens: all stays in the queue
            agent = open_agent_channel(
                f"tcp://127.0.0.1:{deaf.getsockname()[1]}", "a", Security(), lambda _: None, context
            )
            sent = sum(agent.send([b"x"]) for _ in range(2000))
            assert sent == 1000
            agent.close()
            context.linger = 0

    asyncio.run(fill())


def test_a_frame_above_the_limit_never_arrives_and_others_do() -> None:
    async def exchange() -> None:
        with zmq.Context() as context:
            ends = Ends(context, Security())
            hostile = context.socket(zmq.DEALER)
            hostile.linger = 0
            hostile.connect(ends.coordinator.endpoint)
            hostile.send(b"x" * (MAX_FRAME_BYTES + 1))
            ends.connect("honest", Security()).send([b"y" * MAX_FRAME_BYTES])
            await until(lambda: ends.up, "the honest message comes up")
            assert [(name, len(frame)) for name, frame in ends.up] == [(b"honest", MAX_FRAME_BYTES)]
            hostile.close()
            ends.close()

    asyncio.run(exchange())


def test_closing_twice_is_no_error() -> None:
    async def close() -> None:
        with zmq.Context() as context:
            ends = Ends(context, Security(), Security())
            ends.close()
            ends.close()

    asyncio.run(close())


# -- keys --


def test_with_keys_messages_go_both_ways_and_a_strangers_do_not(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)

    async def exchange() -> None:
        with zmq.Context() as context:
            ends = Ends(context, keys["coordinator"])
            stranger = ends.connect("stranger", keys["stranger"])
            keyless = context.socket(zmq.DEALER)
            keyless.linger = 0
            # Before it connects: a thread of libzmq refuses it once and for all, and does not wait for this one.
            refused = [watch(stranger._socket), watch(keyless)]
            keyless.connect(ends.coordinator.endpoint)
            stranger.send([b"let me in"])
            keyless.send(b"let me in")
            await until(lambda: all(poll(monitor) for monitor in refused), "both handshakes fail")
            ends.connect("a", keys["agent"]).send([b"up"])
            await until(lambda: ends.up, "the agent's message comes up")
            assert ends.coordinator.send([b"agent", b"down"])
            await until(lambda: ends.down, "the answer comes down")
            # The name is the key's, not the one that the peer gives itself.
            assert (ends.up, ends.down) == ([[b"agent", b"up"]], [[b"down"]])
            for watched, monitor in zip((stranger._socket, keyless), refused, strict=True):
                watched.disable_monitor()
                monitor.close(0)
            keyless.close()
            ends.close()

    asyncio.run(exchange())


def watch(watched: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Return the socket of events that says when a connection of another one was refused or cut."""
    refusals = (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    )
    return watched.get_monitor_socket(refusals | zmq.EVENT_DISCONNECTED)


def poll(monitor: zmq.Socket[bytes]) -> bool:
    return bool(monitor.poll(0))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
@pytest.mark.parametrize("side", ["agent", "coordinator"])
def test_a_secret_key_that_others_can_read_is_refused(side: str, mode: int, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)[side]
    assert keys.secret_key_file is not None
    Path(keys.secret_key_file).chmod(mode)
    assert_refused(side, keys, rf"mode {mode:04o}, allowed is 0600")


@pytest.mark.parametrize("side", ["agent", "coordinator"])
def test_a_public_key_in_place_of_a_secret_one_is_refused(side: str, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    public = keys["agent"].server_key_file
    assert_refused(side, replace(keys[side], secret_key_file=public), "holds no secret key")


@pytest.mark.parametrize("side", ["agent", "coordinator"])
def test_a_key_file_that_is_not_there_is_refused_by_its_name(side: str, tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    assert_refused(side, replace(keys[side], secret_key_file=str(tmp_path / "gone")), "gone cannot be read")


def test_keys_are_needed_in_full(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    assert_refused("agent", replace(keys["agent"], server_key_file=None), "server_key_file is missing")
    assert_refused("coordinator", replace(keys["coordinator"], authorized_keys_dir=None), "authorized_keys_dir")


@pytest.mark.parametrize("folder", ["/gone", "*"])  # to pyzmq "*" means that every key is welcome
def test_a_folder_of_agents_keys_that_is_not_there_is_refused_by_its_name(folder: str, tmp_path: Path) -> None:
    keys = replace(make_keys(tmp_path)["coordinator"], authorized_keys_dir=folder)
    assert_refused("coordinator", keys, r"authorized_keys_dir (/gone|\*) cannot be read")


def replace(keys: Security, **changes: str | None) -> Security:
    values = {name: getattr(keys, name) for name in Security.__struct_fields__}
    return Security(**{**values, **changes})


def assert_refused(side: str, keys: Security, reason: str) -> None:
    def open_side(context: zmq.Context[Any]) -> Channel:
        if side == "agent":
            return open_agent_channel("tcp://127.0.0.1:5599", "a", keys, lambda _: None, context)
        return open_coordinator_channel(ANY_PORT, keys, lambda _: None, context)

    async def opening() -> None:
        with zmq.Context() as context, pytest.raises(ConfigError, match=reason):
            open_side(context)

    asyncio.run(opening())
