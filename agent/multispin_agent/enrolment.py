"""The box's side of its own key: made here, registered by a token, changed later; the secret never leaves the box.

agent.key_secret.new   made first; it stays until the coordinator has said that it is registered, so that an answer
                       that was lost is asked for again with the same key
agent.key_secret       then, by renaming
coordinator.key        the coordinator's public key, from the token
enrolled.json          who this box is and where the coordinator is
"""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import zmq

from multispin_models.channel import new_socket
from multispin_models.errors import ConfigError, WireError
from multispin_models.keys.key_files import (
    KeyPair,
    make_folder,
    make_pair,
    public_text,
    read_public,
    read_secret,
    secret_text,
    write_file,
)
from multispin_models.keys.messages import (
    ENROLMENT_VERSION,
    MAX_ENROLMENT_BYTES,
    Enrol,
    EnrolRefused,
    Registered,
    Rotate,
    decode_answer,
    encode,
)
from multispin_models.keys.token import Token

__all__ = ["Enrolled", "enrol", "rotate"]

PATIENCE_S: Final = 15.0
SECRET, NEW_SECRET = "agent.key_secret", "agent.key_secret.new"


class Enrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a box knows of its enrolment, in enrolled.json.

    Attributes:
        device_id: whom its key proves; the agent id.
        coordinator: where agents connect.
        enrol_endpoint: where keys are changed.
    """

    device_id: str
    coordinator: str
    enrol_endpoint: str


def enrol(folder: Path, token: Token, patience_s: float = PATIENCE_S) -> Enrolled:
    """Make this box's key, register it with a token, and keep both in a folder.

    Args:
        folder: for the keys; made if it is not there.
        token: from the operator.
        patience_s: how long the coordinator may take.

    Raises:
        ConfigError: the coordinator refuses, is not there, or is not the one that made the token; or the folder cannot
            be written. Nothing but the new key, not yet registered, is left behind.
    """
    make_folder(folder)
    pair = _new_pair(folder)
    question = Enrol(ENROLMENT_VERSION, token.token_id, token.secret)
    registered = _ask(token.endpoint, token.server_key.encode(), pair, question, patience_s)
    write_file(folder / "coordinator.key", public_text(token.server_key.encode()), 0o644, replace=True)
    return _keep(folder, registered, token.endpoint)


def rotate(folder: Path, patience_s: float = PATIENCE_S) -> Enrolled:
    """Put a new key in the place of this box's, at the coordinator and here. Interrupted, it is simply done again.

    Raises:
        ConfigError: this box was not enrolled, or the coordinator refuses or is not there; the old key stays.
    """
    path = folder / "enrolled.json"
    try:
        enrolled = msgspec.json.decode(path.read_bytes(), type=Enrolled)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; enrol this box first: `multispin keys enrol`") from error
    server_key = read_public(str(folder / "coordinator.key"))
    was_begun = (folder / NEW_SECRET).exists()
    old, new = read_secret(str(folder / SECRET)), _new_pair(folder)
    question = Rotate(ENROLMENT_VERSION, new.public.decode())
    try:
        registered = _ask(enrolled.enrol_endpoint, server_key, old, question, patience_s)
    except _Refused:
        if not was_begun:
            raise
        registered = _ask(enrolled.enrol_endpoint, server_key, new, question, patience_s)  # the answer was lost
    return _keep(folder, registered, enrolled.enrol_endpoint)


class _Refused(ConfigError):
    """The coordinator has said no."""


def _new_pair(folder: Path) -> KeyPair:
    """Return the key that is to be registered: a new one, or one whose registration was interrupted."""
    path = folder / NEW_SECRET
    if path.exists():
        return read_secret(str(path))
    pair = make_pair()
    write_file(path, secret_text(pair))
    return pair


def _keep(folder: Path, registered: Registered, enrol_endpoint: str) -> Enrolled:
    host = urlsplit(enrol_endpoint).hostname or ""
    host = f"[{host}]" if ":" in host else host
    enrolled = Enrolled(registered.device_id, f"tcp://{host}:{registered.agents_port}", enrol_endpoint)
    (folder / NEW_SECRET).rename(folder / SECRET)
    write_file(folder / "enrolled.json", msgspec.json.encode(enrolled).decode(), replace=True)
    return enrolled


def _ask(endpoint: str, server_key: bytes, pair: KeyPair, question: Enrol | Rotate, patience_s: float) -> Registered:
    with zmq.Context() as context:
        socket = new_socket(context, zmq.DEALER, MAX_ENROLMENT_BYTES)
        socket.linger = 0
        try:
            socket.curve_publickey, socket.curve_secretkey = pair
            socket.curve_serverkey = server_key
            socket.connect(endpoint)
            socket.send(encode(question))
            if not socket.poll(int(patience_s * 1000)):
                raise ConfigError(
                    f"no answer from {endpoint} in {patience_s:.0f} s: it is not there, or not the coordinator that "
                    "made the token (its key would be another); is security.enrol_bind set there, and its port open?"
                )
            answer = decode_answer(socket.recv())
        except (zmq.ZMQError, WireError) as error:
            raise ConfigError(f"cannot enrol at {endpoint}: {error}") from error
        finally:
            socket.close()
    if isinstance(answer, EnrolRefused):
        raise _Refused(f"coordinator {endpoint} does not register this key ({answer.code}): {answer.message}")
    return answer
