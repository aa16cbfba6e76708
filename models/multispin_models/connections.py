"""Opens the two ends of the wire: the coordinator's ROUTER and an agent's DEALER, with CURVE keys or on loopback."""

import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import zmq

from multispin_models.channel import Channel, Security, check_endpoint, new_socket
from multispin_models.errors import ConfigError
from multispin_models.keys.gate import AGENTS_DOMAIN, Gate, GuardedChannel
from multispin_models.keys.key_files import read_public, read_secret
from multispin_models.keys.registry import Registry

__all__ = ["open_agent_channel", "open_coordinator_channel"]


def open_coordinator_channel(
    endpoint: str,
    security: Security,
    on_frames: Callable[[list[bytes]], None],
    context: zmq.Context[Any],
    counters: Counter[str] | None = None,
) -> Channel:
    """Return the bound ROUTER of a coordinator.

    With keys the first frame of a message is the device id that the peer's key proves, whatever it calls itself.

    Args:
        endpoint: to bind.
        security: keys; none on loopback.
        on_frames: called with every message: the agent's name, its frames.
        context: of ZeroMQ.
        counters: of peers that were refused.

    Raises:
        ConfigError: the address is taken or no address of this machine, off loopback without keys, or keys that
            cannot be read.
    """
    check_endpoint(endpoint, security)
    socket = new_socket(context, zmq.ROUTER)
    gate = None
    with ExitStack() as undo:
        undo.callback(socket.close, 0)
        socket.router_mandatory = True
        socket.router_handover = True
        if security.secret_key_file is not None:
            pair = read_secret(security.secret_key_file)
            if security.authorized_keys_dir is None:
                raise ConfigError("security.authorized_keys_dir is missing: the folder of the agents' public keys")
            gate = Gate(
                context, Registry(Path(security.authorized_keys_dir)), pair, Counter() if counters is None else counters
            )
            undo.callback(gate.close)
            gate.guard(socket, AGENTS_DOMAIN)
        elif security.enrol_bind is not None:
            raise ConfigError("security.enrol_bind is set and secret_key_file is not: there is no key to enrol under")
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot listen on {endpoint}: {error.strerror}; choose another --bind") from error
        undo.pop_all()
    return Channel(socket, on_frames) if gate is None else GuardedChannel(socket, on_frames, gate)


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
    socket = new_socket(context, zmq.DEALER)
    with ExitStack() as undo:
        undo.callback(socket.close, 0)
        socket.routing_id = agent_id.encode()
        socket.reconnect_ivl = 100
        socket.reconnect_ivl_max = 10_000
        if security.secret_key_file is not None:
            if security.server_key_file is None:
                raise ConfigError("security.server_key_file is missing: the coordinator's public key")
            socket.curve_publickey, socket.curve_secretkey = read_secret(security.secret_key_file)
            socket.curve_serverkey = read_public(security.server_key_file)
            # The key says who this is. A routing id that nobody can guess cannot be taken over by another agent.
            socket.routing_id = b"-" + secrets.token_bytes(16)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"cannot connect to {endpoint}: {error.strerror}; check --coordinator") from error
        undo.pop_all()
    return Channel(socket, on_frames)
