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
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import msgspec
import zmq
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.auth.certs import load_certificate, load_certificates

from multispin_models.errors import ConfigError
from multispin_models.messages import MAX_FRAME_BYTES

__all__ = [
    "Channel",
    "FrameChannel",
    "Security",
    "check_endpoint",
    "is_loopback",
    "open_agent_channel",
    "open_coordinator_channel",
]

HEARTBEAT_MS: Final = 2_000
HEARTBEAT_TIMEOUT_MS: Final = 10_000
QUEUED_MESSAGES: Final = 1_000  # a peer, each way
LINGER_MS: Final = 500
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"  # where libzmq asks for the keys of a peer (RFC 27/ZAP)
DRAINED_AT_ONCE: Final = 256  # messages before the loop gets its turn again


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """CURVE keys. Needed for every address that is not loopback.

    Attributes:
        secret_key_file: this side's certificate with secret key (`*.key_secret`), mode 0600.
        server_key_file: agent only: the coordinator's public certificate (`*.key`).
        authorized_keys_dir: coordinator only: the public certificates of the agents that may connect.
    """

    secret_key_file: str | None = None
    server_key_file: str | None = None
    authorized_keys_dir: str | None = None


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
            "(agent) or authorized_keys_dir (coordinator), or use tcp://127.0.0.1:PORT"
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
        authenticator: closed with the channel.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        on_frames: Callable[[list[bytes]], None],
        authenticator: AsyncioAuthenticator | None = None,
    ) -> None:
        self._socket = socket
        self._on_frames = on_frames
        self._authenticator = authenticator
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
        if self._authenticator is not None:
            _stop(self._authenticator)
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
            self._on_frames(self._socket.recv_multipart(zmq.NOBLOCK))
        self._drain_soon()

    def _has_message(self) -> bool:
        """Return whether a message waits; to try and catch zmq.Again costs ten times as much, in every round."""
        events = self._socket.getsockopt(zmq.EVENTS)
        assert isinstance(events, int)
        return bool(events & zmq.POLLIN)


def open_coordinator_channel(
    endpoint: str, security: Security, on_frames: Callable[[list[bytes]], None], context: zmq.Context[Any]
) -> Channel:
    """Return the bound ROUTER of a coordinator.

    Raises:
        ConfigError: the address is taken or no address of this machine, or off loopback without keys.
    """
    check_endpoint(endpoint, security)
    socket = _socket(context, zmq.ROUTER)
    authenticator = None
    with ExitStack() as undo:
        undo.callback(socket.close, 0)
        socket.router_mandatory = True
        socket.router_handover = True
        if security.secret_key_file is not None:
            socket.curve_publickey, socket.curve_secretkey = _secret_certificate(security.secret_key_file)
            socket.curve_server = True
            authenticator = _authenticator(context, security.authorized_keys_dir)
            undo.callback(_stop, authenticator)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}; choose another --bind") from error
        undo.pop_all()
    return Channel(socket, on_frames, authenticator)


def open_agent_channel(
    endpoint: str,
    agent_id: str,
    security: Security,
    on_frames: Callable[[list[bytes]], None],
    context: zmq.Context[Any],
) -> Channel:
    """Return the DEALER of an agent, connecting and reconnecting by itself.

    Raises:
        ConfigError: a bad address, or off loopback without keys.
    """
    check_endpoint(endpoint, security)
    socket = _socket(context, zmq.DEALER)
    with ExitStack() as undo:
        undo.callback(socket.close, 0)
        socket.routing_id = agent_id.encode()
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 10_000
        if security.secret_key_file is not None:
            if security.server_key_file is None:
                raise ConfigError("security.server_key_file is missing: the coordinator's public key")
            socket.curve_publickey, socket.curve_secretkey = _secret_certificate(security.secret_key_file)
            socket.curve_serverkey = _certificate(security.server_key_file)[0]
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot connect to {endpoint}: {error.strerror}; check --coordinator") from error
        undo.pop_all()
    return Channel(socket, on_frames)


def _socket(context: zmq.Context[Any], kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.linger = LINGER_MS
    socket.maxmsgsize = MAX_FRAME_BYTES
    socket.sndhwm = socket.rcvhwm = QUEUED_MESSAGES
    socket.heartbeat_ivl = HEARTBEAT_MS
    socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    socket.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS
    socket.handshake_ivl = HEARTBEAT_TIMEOUT_MS
    return socket


def _authenticator(context: zmq.Context[Any], keys_dir: str | None) -> AsyncioAuthenticator:
    """Return the running authenticator that lets in the agents whose public keys are in a folder."""
    if keys_dir is None:
        raise ConfigError("security.authorized_keys_dir is missing: the folder of the agents' public keys")
    try:
        load_certificates(keys_dir)  # pyzmq would only log that it cannot
    except (OSError, ValueError) as error:
        raise ConfigError(f"security.authorized_keys_dir {keys_dir} cannot be read: {error}") from error
    authenticator = AsyncioAuthenticator(context)
    with ExitStack() as undo:
        undo.callback(authenticator.stop)
        authenticator.start()
        authenticator.configure_curve(domain="*", location=keys_dir)
        undo.pop_all()
    return authenticator


def _stop(authenticator: AsyncioAuthenticator) -> None:
    # Unbound first: closing alone frees the name later, in a thread of libzmq, and the next one may find it taken.
    authenticator.zap_socket.unbind(ZAP_ENDPOINT)
    authenticator.stop()


def _certificate(path: str) -> tuple[bytes, bytes | None]:
    try:
        return load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"key file {path} cannot be read: {error}") from error


def _secret_certificate(path: str) -> tuple[bytes, bytes]:
    public, secret = _certificate(path)
    if secret is None:
        raise ConfigError(f"key file {path} holds no secret key: give the *.key_secret file")
    mode = Path(path).stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"key file {path} has mode {mode:04o}, allowed is 0600: others can read the secret key")
    return public, secret
