"""Who gets in at the coordinator: libzmq asks here for every CURVE handshake, and a revoked key is cut off.

    handshake --ZAP--> Gate: is the key registered? ----> counted when it is not
    message   -------> GuardedChannel: whose key is it? -> on_frames([device id, payload])
    every 0.2 s -----> registry read again ------------> connections of keys that are gone are shut down

The name of a peer is what its key proves (libzmq's User-Id), never what it says. ZAP is RFC 27.
"""

import asyncio
import logging
import os
import socket as tcp
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

import zmq
from zmq.auth.asyncio import AsyncioAuthenticator

from multispin_models.channel import Channel
from multispin_models.errors import ConfigError
from multispin_models.keys.key_files import KeyPair
from multispin_models.keys.registry import Registry, fingerprint

__all__ = ["AGENTS_DOMAIN", "ENROLMENT_DOMAIN", "Gate", "GuardedChannel", "key_of"]

log = logging.getLogger(__name__)

AGENTS_DOMAIN: Final = "agents"
ENROLMENT_DOMAIN: Final = "enrolment"
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"  # where libzmq asks for the keys of a peer
REFRESH_S: Final = 0.2
# Not FAILED_AUTH: that is this gate's own no, which it has counted.
BROKEN_HANDSHAKES: Final = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


def key_of(frame: zmq.Frame) -> str:
    """Return the public key (Z85) that the handshake of a message's connection has proven."""
    return str(frame.get("User-Id"))


class Gate:
    """Answers libzmq for one ZeroMQ context.

    Args:
        context: of the guarded sockets.
        registry: of who may connect.
        pair: the coordinator's keys.
        counters: gets refused_key_unknown, refused_key_revoked, refused_handshake (no key, another protocol, a
            recorded handshake), dropped_revoked_connection.
    """

    def __init__(self, context: zmq.Context[Any], registry: Registry, pair: KeyPair, counters: Counter[str]) -> None:
        self.context = context
        self.registry = registry
        self.counters = counters
        self._pair = pair
        self._loop = asyncio.get_running_loop()
        self._monitors: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = []
        self._authenticator = AsyncioAuthenticator(context)
        with ExitStack() as undo:
            undo.callback(self._authenticator.stop)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(AGENTS_DOMAIN, _Provider(self._admits))
            # Whoever knows the coordinator's public key may ask to be enrolled; a token decides.
            self._authenticator.configure_curve_callback(ENROLMENT_DOMAIN, _Provider(lambda _: True))
            undo.pop_all()

    def guard(self, socket: zmq.Socket[bytes], domain: str) -> None:
        """Make a socket, before it is bound, one that only CURVE peers can reach, by the rules of a domain."""
        socket.curve_publickey, socket.curve_secretkey = self._pair
        socket.curve_server = True
        socket.zap_domain = domain.encode()
        monitor = socket.get_monitor_socket(BROKEN_HANDSHAKES)
        self._monitors.append((socket, monitor))
        self._loop.add_reader(monitor.FD, self._count_broken, monitor)
        self._count_broken(monitor)  # its descriptor is edge-triggered: it tells nothing before it was asked once

    def refresh(self) -> None:
        """Read the registry again; one that cannot be read leaves everything as it was, and says so."""
        try:
            self.registry.refresh()
        except ConfigError as error:
            self.counters["registry_unreadable"] += 1
            if self.counters["registry_unreadable"] == 1:
                log.error("%s: what was known stays", error)  # noqa: TRY400 - the message says all

    def close(self) -> None:
        """Stop answering; the guarded sockets must still be open."""
        for socket, monitor in self._monitors:
            self._loop.remove_reader(monitor.FD)
            socket.disable_monitor()
            monitor.close(0)
        self._monitors.clear()
        # Unbound first: closing alone frees the name later, in a thread of libzmq, and the next one may find it taken.
        self._authenticator.zap_socket.unbind(ZAP_ENDPOINT)
        self._authenticator.stop()

    def _admits(self, public_key: str) -> bool:
        self.refresh()
        if self.registry.device_of(public_key) is not None:
            return True
        name = "refused_key_revoked" if self.registry.is_revoked(public_key) else "refused_key_unknown"
        self.counters[name] += 1
        # The 1st, 10th, 100th ... are told: whoever knocks again and again must not fill the log.
        level = logging.WARNING if str(self.counters[name]).strip("0") == "1" else logging.DEBUG
        fields = {"event": name, "key": fingerprint(public_key)}
        log.log(level, "%s %d: key %s", name, self.counters[name], fields["key"], extra={"fields": fields})
        return False

    def _count_broken(self, monitor: zmq.Socket[bytes]) -> None:
        while int(monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            monitor.recv_multipart(zmq.NOBLOCK)
            self.counters["refused_handshake"] += 1


class _Provider:
    """What pyzmq asks; it wants an object with this method."""

    def __init__(self, admits: Callable[[str], bool]) -> None:
        self._admits = admits

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002 - there is a provider a domain
        return self._admits(key.decode())


@dataclass(frozen=True)
class _Peer:
    """The last connection on which a device spoke.

    Attributes:
        routing_id: of it.
        key: that it has proven, Z85.
        descriptor: of its TCP socket, which is libzmq's.
        address: of the other end.
    """

    routing_id: bytes
    key: str
    descriptor: int
    address: str


class GuardedChannel(Channel):
    """A ROUTER whose peers are named by their keys.

    Args:
        socket: guarded by the gate, bound.
        on_frames: called with [device id, frames...].
        gate: closed with the channel.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_frames: Callable[[list[bytes]], None], gate: Gate) -> None:
        self.gate = gate
        self._peers: dict[bytes, _Peer] = {}
        self._cut_off: set[str] = set()  # keys; a key that was revoked never comes back
        self._port = int(socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        super().__init__(socket, on_frames)
        self._timer = self._loop.call_later(REFRESH_S, self._refresh)

    def send(self, frames: list[bytes]) -> bool:
        """Queue a message for a device; return False if it is not connected or its queue is full."""
        peer = self._peers.get(frames[0])
        return peer is not None and super().send([peer.routing_id, *frames[1:]])

    def close(self) -> None:
        """Stop reading and asking, close."""
        if not self._closed:
            self._timer.cancel()
            self.gate.close()
        super().close()

    def _receive(self) -> list[bytes] | None:
        routing, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        key = key_of(routing)
        peer = _Peer(routing.bytes, key, int(str(routing.get("__fd"))), str(routing.get("Peer-Address")))
        device_id = self.gate.registry.device_of(key)
        if device_id is None:
            self._cut(peer)
            return None
        self._peers[device_id.encode()] = peer
        return [device_id.encode(), *(frame.bytes for frame in frames)]

    def _refresh(self) -> None:
        self._timer = self._loop.call_later(REFRESH_S, self._refresh)
        self.gate.refresh()
        for device_id, peer in list(self._peers.items()):
            if self.gate.registry.device_of(peer.key) != device_id.decode():
                del self._peers[device_id]
                self._cut(peer)

    def _cut(self, peer: _Peer) -> None:
        """Shut a connection down: libzmq has no call for that, but finds it closed, and the next handshake fails.

        The descriptor may have been given to another connection since, so it is looked at first; at worst another
        agent behind the same address has to connect anew.
        """
        if peer.key in self._cut_off:
            self.gate.counters["ignored_revoked_message"] += 1  # it was queued before
        else:
            self._cut_off.add(peer.key)
            self.gate.counters["dropped_revoked_connection"] += 1
            fields = {"event": "dropped_revoked_connection", "key": fingerprint(peer.key)}
            log.warning("key %s is revoked: its connection is dropped", fields["key"], extra={"fields": fields})
        with suppress(OSError), tcp.socket(fileno=os.dup(peer.descriptor)) as connection:
            if connection.getsockname()[1] == self._port and connection.getpeername()[0] == peer.address:
                connection.shutdown(tcp.SHUT_RDWR)
