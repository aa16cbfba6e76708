"""The list of hashes of a run, and its signature: what is in the folder is what was there when it was sealed.

A cell's digest, kept in the journal when it was completed, is the sha256 over its own lines of such a list; so a cell
that was changed before the folder was sealed is found as well.

The signature is ed25519 (RFC 8032) over the bytes of hashes.txt. The key is made at the first use, in the user's
configuration, mode 0600; `*.pub` beside it is what others are given. A signature says which key sealed the folder: that
this key is whose it should be must be known from elsewhere.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from multispin.campaign.folder import HASHES, SIGNATURE, FolderError, Signature
from multispin_models.clock import wall_time
from multispin_models.errors import ConfigError
from multispin_models.records import describe_machine

__all__ = [
    "cell_digest",
    "default_key_file",
    "file_sha256",
    "hash_lines",
    "open_key",
    "public_hex",
    "read_hashes",
    "seal",
    "signature_fault",
]

_PIECE: Final = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def hash_lines(run: Path) -> list[str]:
    """Return "sha256  path" of every file of a run but the list itself and its signature, sorted by path.

    Raises:
        FolderError: something in it is neither a file nor a folder.
    """
    paths = sorted(path.relative_to(run).as_posix() for path in _files(run))
    return [f"{file_sha256(run / path)}  {path}" for path in paths if path not in (HASHES, SIGNATURE)]


def cell_digest(cell: Path) -> str:
    """Return the sha256 over the hashes of a cell's files."""
    lines = [f"{file_sha256(path)}  {path.name}\n" for path in sorted(cell.iterdir())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_hashes(run: Path) -> dict[str, str]:
    """Return the list of a run: sha256 by path.

    Raises:
        FolderError: it is not there, or a line is none of it.
    """
    path = run / HASHES
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"{path} cannot be read: {error}; `multispin campaign collect {run}` writes it") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        digest, gap, name = line.partition("  ")
        if len(digest) != 64 or not gap or not name or name in found:
            raise FolderError(f'{path} line {number} is {line[:100]!r}, allowed is "SHA256  PATH", each path once')
        found[name] = digest
    return found


def seal(run: Path, key_file: Path | None = None) -> Signature:
    """Write the list of hashes of a run and its signature.

    Args:
        run: the folder.
        key_file: null for the user's own.

    Raises:
        ConfigError: the key cannot be read or made.
    """
    text = "".join(f"{line}\n" for line in hash_lines(run)).encode()
    key = open_key(default_key_file() if key_file is None else key_file)
    signature = Signature(
        public_key=public_hex(key),
        signature=key.sign(text).hex(),
        signed_at=wall_time(),
        node=describe_machine().node,
    )
    _write(run / HASHES, text)
    _write(run / SIGNATURE, msgspec.json.encode(signature) + b"\n")
    return signature


def signature_fault(run: Path) -> str:
    """Return what is wrong with the signature of a run; "" if it is good, by the key that it names."""
    ed25519, invalid = _library()
    try:
        signature = msgspec.json.decode((run / SIGNATURE).read_bytes(), type=Signature)
        text = (run / HASHES).read_bytes()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"{run / SIGNATURE} cannot be read: {error}"
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.signature), text)
    except (invalid, ValueError):
        return (
            f"{run / SIGNATURE} is no signature of {HASHES} by {signature.public_key[:16]}...: one of them was changed"
        )
    return ""


def default_key_file() -> Path:
    """Return where the user's key is: $MULTISPIN_CAMPAIGN_KEY, else multispin/campaign.key of $XDG_CONFIG_HOME."""
    if named := os.environ.get("MULTISPIN_CAMPAIGN_KEY"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "multispin" / "campaign.key"


def open_key(path: Path) -> Any:
    """Return the private key of a file; one is made if there is none.

    Raises:
        ConfigError: it cannot be read or made, or others may read it.
    """
    ed25519, _ = _library()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_key(path, ed25519)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"key {path} may be read by others; allowed is mode 0600: chmod 600 {path}")
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"key {path} cannot be used: {error}; it holds 64 hex digits, mode 0600") from error


def public_hex(key: Any) -> str:
    """Return the public part of a key, hex."""
    return str(key.public_key().public_bytes_raw().hex())


def _make_key(path: Path, ed25519: Any) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.private_bytes_raw().hex() + "\n")
    path.with_name(path.name + ".pub").write_text(public_hex(key) + "\n", encoding="ascii")


def _library() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"signatures are not installed ({error}): pip install 'multispin[campaign]'") from error
    return ed25519, InvalidSignature


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue  # a lock, or a cell that was never completed
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise FolderError(f"{path} is a link or a device; allowed are files and folders")
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _write(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
