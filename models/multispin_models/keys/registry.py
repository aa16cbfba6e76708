"""The coordinator's folder of who may connect: a file a device, a file a revoked key, a file a token.

    DEVICE.key                the public key of a device; its name is the agent id that the key proves
    revoked/DEVICE.HASH.key   keys that were taken away; they are never taken again
    tokens/ID.json            enrolment tokens: whose, until when, SHA-256 of the secret, used by which key

`multispin keys` writes it and the daemon reads it again when it has changed; both change it by renaming whole files.
"""

import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Final

import msgspec
from zmq.auth.certs import load_certificate
from zmq.utils import z85

from multispin_models.errors import ConfigError, MultispinError
from multispin_models.keys.key_files import make_folder, public_text, write_file
from multispin_models.keys.token import Token, secret_hash

__all__ = ["Device", "Registry", "RegistryRefusal", "TokenRecord", "fingerprint"]

DEVICE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
TOKEN_ID: Final = re.compile(r"[0-9a-f]{16}")
NO_SECRET: Final = "0" * 64  # the hash that an unknown token is compared with, so that it takes as long
SETTLED_NS: Final = 2_000_000_000  # a folder changed less than this before it was read may have changed again unseen


class RegistryRefusal(MultispinError):
    """A key is not registered; `code` is for programs and for counters.

    Args:
        code: token_unknown, token_used, token_expired, key_revoked, key_unknown, key_taken, bad_key.
        message: for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TokenRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a token.

    Attributes:
        device_id: whom it makes.
        secret_sha256: of its secret, hexadecimal.
        expires_s: wall clock.
        used_by: the public key that it has registered; null while it has not.
    """

    device_id: str
    secret_sha256: str
    expires_s: float
    used_by: str | None = None


class Device(msgspec.Struct, frozen=True):
    """A key in the folder.

    Attributes:
        device_id: its device.
        fingerprint: of the key.
        registered_s: wall clock, when its file was written.
    """

    device_id: str
    fingerprint: str
    registered_s: float


def fingerprint(public_key: str) -> str:
    """Return the short name of a public key, for lists and logs."""
    return hashlib.sha256(public_key.encode()).hexdigest()[:16]


class Registry:
    """Who may connect, as the folder says.

    Args:
        folder: must be there.

    Raises:
        ConfigError: it cannot be read, or a certificate in it cannot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: tuple[int, ...] | None = None
        self._devices: dict[str, str] = {}
        self._revoked: frozenset[str] = frozenset()
        self.refresh()

    def refresh(self) -> bool:
        """Read the folder again if it may have changed; return whether it was read.

        Raises:
            ConfigError: it cannot be read; what was known before stays.
        """
        try:
            changed_ns = [path.stat().st_mtime_ns for path in (self._folder, self._folder / "revoked") if path.exists()]
            state = (*changed_ns, self._folder.stat().st_ino)
            if state == self._state:
                return False
            settled = time.time_ns() - max(changed_ns) > SETTLED_NS
            self._devices = {key: path.stem for path, key in self._keys(self._folder)}
            self._revoked = frozenset(key for _, key in self._keys(self._folder / "revoked"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"security.authorized_keys_dir {self._folder} cannot be read: {error}") from error
        self._state = state if settled else None
        return True

    @staticmethod
    def _keys(folder: Path) -> list[tuple[Path, str]]:
        if not folder.is_dir():
            return []
        return [(path, load_certificate(path)[0].decode()) for path in sorted(folder.glob("*.key"))]

    def device_of(self, public_key: str) -> str | None:
        """Return the device that a key proves; None if it is revoked or not known."""
        return None if public_key in self._revoked else self._devices.get(public_key)

    def is_revoked(self, public_key: str) -> bool:
        """Return whether a key was taken away."""
        return public_key in self._revoked

    def devices(self) -> list[Device]:
        """Return the devices that may connect."""
        return [
            Device(path.stem, fingerprint(key), path.stat().st_mtime)
            for path, key in self._keys(self._folder)
            if key not in self._revoked
        ]

    def revoked(self) -> list[Device]:
        """Return the keys that were taken away."""
        return [
            Device(path.stem.rsplit(".", 1)[0], fingerprint(key), path.stat().st_mtime)
            for path, key in self._keys(self._folder / "revoked")
        ]

    def tokens(self) -> dict[str, TokenRecord]:
        """Return the tokens by id."""
        return {path.stem: self._token(path.stem) for path in sorted((self._folder / "tokens").glob("*.json"))}

    def _token(self, token_id: str) -> TokenRecord:
        path = self._folder / "tokens" / f"{token_id}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=TokenRecord)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"token file {path} cannot be read: {error}") from error

    def _subfolder(self, name: str) -> Path:
        """Return a folder of this one, made if it is not there."""
        folder = self._folder / name
        make_folder(folder)
        return folder

    # -- what `multispin keys` does --------------------------------------------------------------------------------

    def add_token(self, token: Token, device_id: str, expires_s: float, *, replace: bool = False) -> None:
        """Let a token make a device.

        Raises:
            ConfigError: no device id, or the device has a key and `replace` is not set.
        """
        if not DEVICE_ID.fullmatch(device_id) or device_id.startswith("."):
            raise ConfigError(f"device is {device_id!r}, allowed are 1 to 64 letters, digits and . _ -, no . in front")
        self.refresh()
        if device_id in self._devices.values() and not replace:
            raise ConfigError(f"device {device_id} has a key: --replace makes a token that replaces it when it is used")
        record = TokenRecord(device_id, secret_hash(token.secret), expires_s)
        write_file(self._subfolder("tokens") / f"{token.token_id}.json", msgspec.json.encode(record).decode())

    def revoke(self, device_id: str) -> int:
        """Take away a device's key and its unused tokens; return how many of both there were."""
        taken = 0
        for token_id, record in self.tokens().items():
            if record.device_id == device_id and record.used_by is None:
                (self._folder / "tokens" / f"{token_id}.json").unlink(missing_ok=True)
                taken += 1
        for path, key in self._keys(self._folder):
            if path.stem == device_id:
                self._retire(path, key)
                taken += 1
        self._state = None
        self.refresh()
        return taken

    def _retire(self, path: Path, key: str) -> None:
        path.rename(self._subfolder("revoked") / f"{path.stem}.{fingerprint(key)}.key")

    # -- what the enrolment of the daemon does ---------------------------------------------------------------------

    def redeem(self, token_id: str, secret: bytes, public_key: str, now_s: float) -> str:
        """Register a key by a token; return the device. The same key may ask again, if the answer was lost.

        Args:
            token_id, secret: of the token.
            public_key: that the handshake has proven.
            now_s: wall clock.

        Raises:
            RegistryRefusal: see there.
        """
        self.refresh()
        record = self._token(token_id) if self._has_token(token_id) else None
        expected = NO_SECRET if record is None else record.secret_sha256
        if not hmac.compare_digest(secret_hash(secret), expected) or record is None:
            raise RegistryRefusal("token_unknown", "no such token: make a new one with `multispin keys token`")
        if record.used_by is not None and record.used_by != public_key:
            raise RegistryRefusal(
                "token_used",
                "this token was used by another key: if that was not you, `multispin keys revoke` the device",
            )
        if record.used_by is None and now_s >= record.expires_s:
            raise RegistryRefusal("token_expired", "this token has expired: make a new one with `multispin keys token`")
        self._check_new(public_key, record.device_id)
        if record.used_by is None:  # first: whatever happens after it, no other key can use it
            used = msgspec.structs.replace(record, used_by=public_key)
            path = self._folder / "tokens" / f"{token_id}.json"
            write_file(path, msgspec.json.encode(used).decode(), replace=True)
        self._register(record.device_id, public_key)
        return record.device_id

    def _has_token(self, token_id: str) -> bool:
        return bool(TOKEN_ID.fullmatch(token_id)) and (self._folder / "tokens" / f"{token_id}.json").exists()

    def rotate(self, old_key: str, new_key: str) -> str:
        """Put a new key in the place of a registered one; return the device. Asked again with the new one, it is done.

        Raises:
            RegistryRefusal: see there.
        """
        self.refresh()
        device_id = self.device_of(old_key)
        if device_id is None:
            code = "key_revoked" if self.is_revoked(old_key) else "key_unknown"
            raise RegistryRefusal(code, "the key of this connection is not registered: enrol with a token")
        self._check_new(new_key, device_id)
        self._register(device_id, new_key)
        return device_id

    def _check_new(self, public_key: str, device_id: str) -> None:
        try:
            is_key = len(z85.decode(public_key)) == 32
        except (ValueError, KeyError, TypeError, AssertionError, OverflowError):
            is_key = False
        if not is_key:
            raise RegistryRefusal("bad_key", "no public key: 40 characters of Z85")
        if self.is_revoked(public_key):
            raise RegistryRefusal("key_revoked", "this key was revoked: remove it on the box, and enrol with a new one")
        if self._devices.get(public_key, device_id) != device_id:
            raise RegistryRefusal("key_taken", "this key is another device's")

    def _register(self, device_id: str, public_key: str) -> None:
        path = self._folder / f"{device_id}.key"
        old_key = next((key for key, device in self._devices.items() if device == device_id), None)
        if old_key == public_key:
            return
        if old_key is not None:
            self._retire(path, old_key)
        write_file(path, public_text(public_key.encode()), 0o644, replace=True)
        self._state = None
        self.refresh()
