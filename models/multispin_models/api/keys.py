"""Bearer keys: read from a file that only its owner can read, kept as digests, compared in constant time."""

import hashlib
import hmac
import re

from multispin_models.api.errors import ApiError
from multispin_models.errors import ConfigError
from multispin_models.keys.key_files import CREDENTIAL, resolve

__all__ = ["Keys", "load_keys"]

_KEY = re.compile(rb"[!-~]{16,512}")


class Keys:
    """The keys that are let in.

    Args:
        keys: any number, at least one.
    """

    def __init__(self, keys: list[bytes]) -> None:
        # Digests: of one length, whatever was guessed, and no key is left in memory to be shown by mistake.
        self._digests = [hashlib.sha256(key).digest() for key in keys]

    def check(self, authorization: bytes | None) -> None:
        """Let a request pass by its Authorization header.

        Raises:
            ApiError: 401. The message does not repeat what was given.
        """
        scheme, _, given = (authorization or b"").partition(b" ")
        digest = hashlib.sha256(given.strip()).digest()
        # Every key is compared, so that the time does not tell which one came near.
        known = sum(hmac.compare_digest(digest, key) for key in self._digests)
        if scheme.lower() != b"bearer" or not known:
            what = "no key" if authorization is None else "a key that is not known here"
            raise ApiError(
                401,
                "invalid_request_error",
                f"{what} was given: send the header 'Authorization: Bearer KEY' with a key of this server",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def load_keys(path: str) -> Keys:
    """Return the keys of a file: one a line, 16 to 512 visible ASCII characters; empty lines and # lines are skipped.

    Args:
        path: of the file; "credential:NAME" is what systemd has brought to this service.

    Raises:
        ConfigError: it cannot be read, others can read it, or a line is no key. No key is repeated in the message.
    """
    file = resolve(path)
    try:
        mode = file.stat().st_mode & 0o777
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"key file {path} cannot be read: {error.strerror}") from error
    # systemd lets the service in by an access list, whose mask shows as the group's rights: 0440.
    if mode & (0o007 if path.startswith(CREDENTIAL) else 0o077):
        raise ConfigError(f"key file {path} has mode {mode:04o}, allowed is 0600: others can read the keys")
    keys = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith(b"#"):
            continue
        if not _KEY.fullmatch(key):
            raise ConfigError(
                f"key file {path}, line {number}: a key has {len(key)} characters or one that is not allowed; allowed "
                "are 16 to 512 visible ASCII characters, as `openssl rand -hex 24` gives"
            )
        keys.append(key)
    if not keys:
        raise ConfigError(f"key file {path} holds no key: put one a line, as `openssl rand -hex 24` gives")
    return Keys(keys)
