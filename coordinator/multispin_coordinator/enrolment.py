"""Registers the keys of new boxes: a CURVE socket of its own, where a one-time token opens the registry.

    box --Enrol(token)--> the key of this very handshake becomes the device's --Registered-->
    box --Rotate(new)---> the new key takes the place of this connection's    --Registered-->

The connection of the old key is dropped. Everything that is refused is counted as refused_enrolment_CODE.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import zmq

from multispin_models.channel import Channel, is_loopback, new_socket
from multispin_models.errors import ConfigError, WireError
from multispin_models.keys.gate import ENROLMENT_DOMAIN, Gate, key_of
from multispin_models.keys.messages import (
    ENROLMENT_VERSION,
    MAX_ENROLMENT_BYTES,
    Enrol,
    EnrolRefused,
    Registered,
    Rotate,
    decode_question,
    encode,
)
from multispin_models.keys.registry import Registry, RegistryRefusal, fingerprint

__all__ = ["Desk", "EnrolmentChannel", "open_enrolment"]

log = logging.getLogger(__name__)


class Desk:
    """Answers boxes.

    Args:
        registry: that is written.
        agents_port: where agents connect.
        counters: of what was refused.
        now_s: the wall clock, by which tokens expire.
    """

    def __init__(
        self, registry: Registry, agents_port: int, counters: Counter[str], now_s: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._agents_port = agents_port
        self._counters = counters
        self._now_s = now_s

    def answer(self, public_key: str, frame: bytes) -> Registered | EnrolRefused:
        """Answer a question of the connection that has proven a key."""
        try:
            question = decode_question(frame)
            if question.version != ENROLMENT_VERSION:
                return self._refuse(
                    "version", f"enrolment version {question.version}, this coordinator has {ENROLMENT_VERSION}"
                )
            device_id = self._register(public_key, question)
        except RegistryRefusal as refusal:
            return self._refuse(refusal.code, str(refusal))
        except WireError as error:
            return self._refuse("malformed", str(error))
        except ConfigError as error:  # a full disk, a folder that cannot be read
            log.error("%s", error)  # noqa: TRY400 - the message says all
            return self._refuse("unavailable", "the coordinator cannot write its registry; its log says why")
        self._counters["enrolled_keys"] += 1
        return Registered(device_id, self._agents_port)

    def _register(self, public_key: str, question: Enrol | Rotate) -> str:
        if isinstance(question, Rotate):
            device_id = self._registry.rotate(public_key, question.public_key)
            log.info("device %s has a new key, %s", device_id, fingerprint(question.public_key))
            return device_id
        device_id = self._registry.redeem(question.token_id, question.secret, public_key, self._now_s())
        fields = {"event": "enrolled", "agent_id": device_id}
        log.info("device %s is enrolled, key %s", device_id, fingerprint(public_key), extra={"fields": fields})
        return device_id

    def _refuse(self, code: str, message: str) -> EnrolRefused:
        name = f"refused_enrolment_{code}"
        self._counters[name] += 1
        level = logging.WARNING if str(self._counters[name]).strip("0") == "1" else logging.DEBUG
        log.log(level, "%s %d: %s", name, self._counters[name], message, extra={"fields": {"event": name}})
        return EnrolRefused(code, message)


class EnrolmentChannel(Channel):
    """The socket of a desk.

    Args:
        socket: a bound ROUTER, guarded.
        desk: that answers.
    """

    def __init__(self, socket: zmq.Socket[bytes], desk: Desk) -> None:
        super().__init__(socket, lambda _: None)
        self._desk = desk

    def _receive(self) -> list[bytes] | None:
        routing, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        answer = self._desk.answer(key_of(routing), b"".join(frame.bytes for frame in frames))
        self.send([routing.bytes, encode(answer)])
        return None


def open_enrolment(endpoint: str, agents_endpoint: str, gate: Gate) -> EnrolmentChannel:
    """Return the bound socket where boxes register their keys.

    Args:
        endpoint: to bind.
        agents_endpoint: where agents connect, as bound.
        gate: of the coordinator.

    Raises:
        ConfigError: the address is taken, or no address of this machine.
    """
    is_loopback(endpoint)  # refuses what is no address
    socket = new_socket(gate.context, zmq.ROUTER, MAX_ENROLMENT_BYTES)
    with ExitStack() as undo:
        undo.callback(socket.close, 0)
        socket.router_mandatory = True
        gate.guard(socket, ENROLMENT_DOMAIN)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot listen on {endpoint}: {error.strerror}; choose another security.enrol_bind"
            ) from error
        undo.pop_all()
    desk = Desk(gate.registry, int(agents_endpoint.rpartition(":")[2]), gate.counters)
    return EnrolmentChannel(socket, desk)
