"""What a box and the coordinator say when a key is registered: two questions, two answers, in msgpack.

They go over a CURVE connection of their own (`[security] enrol_bind`), so the public key that is registered is the one
that the handshake has proven; it is in no message. Only a change of keys names the new one.
"""

from typing import Final

import msgspec

from multispin_models.errors import WireError

__all__ = [
    "ENROLMENT_VERSION",
    "MAX_ENROLMENT_BYTES",
    "Enrol",
    "Registered",
    "EnrolRefused",
    "Rotate",
    "decode_answer",
    "decode_question",
    "encode",
]

ENROLMENT_VERSION: Final = 1
MAX_ENROLMENT_BYTES: Final = 2048


class Enrol(msgspec.Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    """Register the key of this connection; the secret is that of a token."""

    version: int
    token_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Enrol({self.token_id})"


class Rotate(msgspec.Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    """Put another public key (Z85) in the place of this connection's, which is registered."""

    version: int
    public_key: str


class Registered(msgspec.Struct, frozen=True, tag=1, array_like=True, forbid_unknown_fields=True):
    """Done: the key is that of `device_id`; agents connect at `agents_port` of the same host."""

    device_id: str
    agents_port: int


class EnrolRefused(msgspec.Struct, frozen=True, tag=2, array_like=True, forbid_unknown_fields=True):
    """Not done; the codes are listed in coordinator/docs/keys.md."""

    code: str
    message: str


Question = Enrol | Rotate
Answer = Registered | EnrolRefused
_QUESTIONS: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_ANSWERS: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
encode = msgspec.msgpack.Encoder().encode


def decode_question(frame: bytes) -> Question:
    """Return what a box asks.

    Raises:
        WireError: it is nothing of this protocol.
    """
    try:
        return _QUESTIONS.decode(frame)
    except msgspec.DecodeError as error:
        raise WireError(f"no message of enrolment: {error}") from error


def decode_answer(frame: bytes) -> Answer:
    """Return what a coordinator answers.

    Raises:
        WireError: it is nothing of this protocol.
    """
    try:
        return _ANSWERS.decode(frame)
    except msgspec.DecodeError as error:
        raise WireError(f"no answer of enrolment: {error}") from error
