"""Enrolment tokens: one text that lets one box become one device, once, until it expires.

    mspin1-<base64url of msgpack: [coordinator's public key, endpoint, token id, secret]>

It works both ways. The coordinator's public key lets the box know that it talks to the right coordinator before it
says anything: CURVE fails with any other. The secret, 32 random bytes, proves to the coordinator that the box may
register the public key of the very handshake that brought it; the coordinator keeps only its SHA-256. (No slow hash is
needed: it is no password, there is nothing to guess.) Which device it is for and when it ends stands at the
coordinator alone.
"""

import base64
import hashlib
import secrets
from typing import Final

import msgspec

from multispin_models.errors import ConfigError

__all__ = ["Token", "decode_token", "encode_token", "new_token", "secret_hash"]

PREFIX: Final = "mspin1-"
SECRET_BYTES: Final = 32
LONGEST: Final = 1024  # characters of a token


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a token says.

    Attributes:
        server_key: public key of the coordinator, Z85.
        endpoint: where it enrols, tcp://HOST:PORT.
        token_id: its name in the registry; no secret.
        secret: 32 bytes.
    """

    server_key: str
    endpoint: str
    token_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Token({self.token_id}, {self.endpoint})"  # never the secret: a repr ends up in logs


def new_token(server_key: str, endpoint: str) -> Token:
    """Return a token with a new name and secret."""
    return Token(server_key, endpoint, secrets.token_hex(8), secrets.token_bytes(SECRET_BYTES))


def encode_token(token: Token) -> str:
    """Return the text of a token.

    >>> token = new_token("x" * 40, "tcp://127.0.0.1:5598")
    >>> decode_token(encode_token(token)) == token
    True
    """
    return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """Return what a token says; spaces and line ends around it do not matter.

    Raises:
        ConfigError: it is none, or not whole. The message does not repeat it.
    """
    text = text.strip()
    wrong = ConfigError(
        f"this is no enrolment token ({len(text)} characters; one begins with {PREFIX!r} and is one line of letters, "
        "digits, - and _): make one with `multispin keys token`"
    )
    if not text.startswith(PREFIX) or len(text) > LONGEST:
        raise wrong
    body = text.removeprefix(PREFIX)
    try:
        token = msgspec.msgpack.decode(
            base64.b64decode(body + "=" * (-len(body) % 4), b"-_", validate=True), type=Token
        )
    except (ValueError, msgspec.DecodeError):
        raise wrong from None
    if len(token.server_key) != 40 or len(token.secret) != SECRET_BYTES:
        raise wrong
    return token


def secret_hash(secret: bytes) -> str:
    """Return what the coordinator keeps of a secret."""
    return hashlib.sha256(secret).hexdigest()
