"""Key pairs in files: made with mode 0600 from their first byte on, written whole or not at all.

The format is pyzmq's certificate (ZPL), so that keys made by `zmq.auth.create_certificates` are read as well.
"""

import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import zmq
from zmq.auth.certs import load_certificate

from multispin_models.errors import ConfigError

__all__ = [
    "CREDENTIAL",
    "KeyPair",
    "make_folder",
    "make_pair",
    "write_file",
    "public_text",
    "secret_text",
    "write_pair",
    "resolve",
    "read_public",
    "read_secret",
]

CREDENTIAL: Final = "credential:"  # "credential:NAME" is a file that systemd's LoadCredential has brought


class KeyPair(NamedTuple):
    """A CURVE pair in Z85, 40 characters each."""

    public: bytes
    secret: bytes


def make_pair() -> KeyPair:
    """Return a new pair."""
    return KeyPair(*zmq.curve_keypair())


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, and those above it; root gives each to the owner of the one above.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        if folder.is_dir():
            return
        if not folder.parent.is_dir():
            make_folder(folder.parent)
        folder.mkdir(mode=0o700)
        owner = folder.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(folder, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise ConfigError(f"folder {folder} cannot be made: {error}") from error


def write_file(path: Path, text: str, mode: int = 0o600, *, replace: bool = False) -> None:
    """Write a file that appears whole, with its mode; root gives it to the owner of its folder.

    The file has its mode (narrowed by the umask) before it has a byte, and its name after its last byte is on disk.

    Raises:
        ConfigError: it is there already and `replace` is not set, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                owner = path.parent.stat()
                if os.geteuid() == 0 and owner.st_uid != 0:
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            if replace:
                temporary.rename(path)
            else:
                os.link(temporary, path)  # fails if the name is taken, unlike a renaming
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: it is not overwritten; say --replace, or remove it") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def public_text(public: bytes) -> str:
    """Return the text of a public certificate."""
    return f'curve\n    public-key = "{public.decode()}"\n'


def secret_text(pair: KeyPair) -> str:
    """Return the text of a certificate with its secret key."""
    return public_text(pair.public) + f'    secret-key = "{pair.secret.decode()}"\n'


def write_pair(folder: Path, name: str, pair: KeyPair, *, replace: bool = False) -> None:
    """Write NAME.key_secret, then NAME.key.

    Raises:
        ConfigError: one is there already and `replace` is not set, or the folder cannot be written.
    """
    make_folder(folder)
    write_file(folder / f"{name}.key_secret", secret_text(pair), replace=replace)
    write_file(folder / f"{name}.key", public_text(pair.public), 0o644, replace=replace)


def resolve(path: str) -> Path:
    """Return the path of a key file; "credential:NAME" is in the folder that systemd made for this service.

    Raises:
        ConfigError: a credential, and systemd has brought none.
    """
    if not path.startswith(CREDENTIAL):
        return Path(path)
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ConfigError(
            f"key file {path}: $CREDENTIALS_DIRECTORY is not set; credentials are there only in a systemd service "
            "with LoadCredential=; elsewhere give the path of the file"
        )
    return Path(folder) / path.removeprefix(CREDENTIAL)


def read_public(path: str) -> bytes:
    """Return the public key of a certificate.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    return _read(path)[0]


def read_secret(path: str) -> KeyPair:
    """Return the pair of a certificate that only its owner can read.

    Raises:
        ConfigError: it cannot be read, holds no secret key, or others can read it.
    """
    public, secret = _read(path)
    if secret is None:
        raise ConfigError(f"key file {path} holds no secret key: give the *.key_secret file")
    mode = resolve(path).stat().st_mode & 0o777
    # systemd lets the service in by an access list, whose mask shows as the group's rights: 0440.
    shut = 0o007 if path.startswith(CREDENTIAL) else 0o077
    if mode & shut:
        raise ConfigError(f"key file {path} has mode {mode:04o}, allowed is 0600: others can read the secret key")
    return KeyPair(public, secret)


def _read(path: str) -> tuple[bytes, bytes | None]:
    file = resolve(path)
    try:
        return load_certificate(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"key file {path} cannot be read: {error}") from error
