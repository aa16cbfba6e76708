"""One ZeroMQ socket in an asyncio loop: frames in by callback, frames out at once, bounded both ways.

The settings that bite (`man zmq_setsockopt`): heartbeats find a dead peer behind a silent link, MAXMSGSIZE cuts off a
peer that sends more, the high-water marks bound the queues, ROUTER_MANDATORY turns a silent drop into an error,
ROUTER_HANDOVER lets an agent come back under its own id after its link died, LINGER ends a close.

Reading is by the socket's edge-triggered descriptor: it is drained after every wake-up and after every send, since a
send can consume the edge that announced a message.
"""

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
import zmq

from multispin_models.errors import ConfigError
from multispin_models.messages import MAX_FRAME_BYTES

__all__ = [
    "Channel",
    "FrameChannel",
    "Security",
    "check_endpoint",
    "is_loopback",
    "new_socket",
]

HEARTBEAT_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 10_000
QUEUED_MESSAGES: Final = 1_000  # a peer, each way
LINGER_MS: Final = 500
BACKLOG: Final = 4_096  # connections that wait to be taken; the kernel's own bound is net.core.somaxconn
DRAINED_AT_ONCE: Final = 256  # messages before the loop gets its turn again


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE keys. Needed for every address that is not loopback.

    Attributes:
        secret_key_file: this side's certificate with secret key (`*.key_secret`), mode 0600; "credential:NAME" is what
            systemd's LoadCredential has brought under that name.
        server_key_file: agent only: the coordinator's public certificate (`*.key`).
        authorized_keys_dir: coordinator only: the registry of agents that may connect, DEVICE.key each.
        enrol_bind: coordinator only: where boxes register their keys with a token, tcp://ADDRESS:PORT; null lets none.
    """

    secret_key_file: str | None = None
    server_key_file: str | None = None
    authorized_keys_dir: str | None = None
    enrol_bind: str | None = None


def is_loopback(endpoint: str) -> bool:
    """Return whether a tcp:// endpoint names a loopback address.

    Raises:
        ConfigError: not tcp://HOST:PORT.
    """
    parts = urlsplit(endpoint)
    try:
        port = parts.port
    except ValueError:
        port = None
    host = parts.hostname
    wildcard_port = endpoint.endswith(":*")
    if parts.scheme != "tcp" or not host or (port is None and not wildcard_port):
        raise ConfigError(f"endpoint is {endpoint!r}, allowed is tcp://HOST:PORT, as tcp://127.0.0.1:5599")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_endpoint(endpoint: str, security: Security) -> None:
    """Refuse an address that this side must not use; a daemon asks before it loads its model.

    Raises:
        ConfigError: no tcp://HOST:PORT, or off loopback without keys.
    """
    if not is_loopback(endpoint) and security.secret_key_file is None:
        raise ConfigError(
            f"{endpoint} is not loopback and no keys are set: give security.secret_key_file, and server_key_file "
            "(agent) or authorized_keys_dir (coordinator; `multispin keys --help`), or use tcp://127.0.0.1:PORT"
        )


class FrameChannel(Protocol):
    """What the daemons need of a channel; the simulator has another, over a modelled network."""

    @property
    def endpoint(self) -> str:
        """The address."""
        ...

    def send(self, frames: list[bytes]) -> bool:
        """Queue a message; return False if it was dropped at once."""
        ...

    def close(self) -> None:
        """Neither send nor hear any more."""
        ...


class Channel:
    """A socket of one event loop.

    Args:
        socket: configured, connected or bound.
        on_frames: called with the list of frames of every message.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[bytes]], None],
    ) -> None:
        self._socket = socket
        self._on_frames = on_frames
        self._loop = asyncio.get_running_loop()
        self._drain_due = False
        self._closed = False
        self._loop.add_reader(socket.FD, self._drain)
        self._drain_soon()

    @property
    def endpoint(self) -> str:
        """The address bound or connected to, with the port that was found for ":*"."""
        return self._socket.get_string(zmq.LAST_ENDPOINT)

    def send(self, frames: list[bytes]) -> bool:
        """Queue a message; return False if the peer is unknown or its queue is full (the message is dropped)."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        finally:
            self._drain_soon()
        return True

    def close(self) -> None:
        """Stop reading, give queued messages half a second to leave, close."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.FD)
        self._socket.close(LINGER_MS)

    def _drain_soon(self) -> None:
        if not self._drain_due and not self._closed:
            self._drain_due = True
            self._loop.call_soon(self._drain_deferred)

    def _drain_deferred(self) -> None:
        self._drain_due = False
        self._drain()

    def _drain(self) -> None:
        for _ in range(DRAINED_AT_ONCE):
            if self._closed or not self._has_message():
                return
            frames = self._receive()
            if frames is not None:
                self._on_frames(frames)
        self._drain_soon()

    def _receive(self) -> list[bytes] | None:
        """Return the frames of the message that waits; None if it is not to be heard."""
        return self._socket.recv_multipart(zmq.NOBLOCK)

    def _has_message(self) -> bool:
        """Return whether a message waits; to try and catch zmq.Again costs ten times as much, in every round."""
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)


def new_socket(context: zmq.Context[Any], kind: int, max_frame_bytes: int = MAX_FRAME_BYTES) -> zmq.Socket[bytes]:
    """Return a socket of one end, with every bound set, neither bound nor connected."""
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = LINGER_MS
    socket.maxmsgsize = max_frame_bytes
    socket.sndhwm = socket.rcvhwm = QUEUED_MESSAGES
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    socket.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
    socket.backlog = BACKLOG
    socket.handshake_ivl = HEARTBEAT_TIMEOUT_MS
    return socket
