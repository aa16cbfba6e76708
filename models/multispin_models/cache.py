"""The per-user cache of model files: where it is, one writer at a time, and files that appear whole or not at all.

    $MULTISPIN_CACHE, else $XDG_CACHE_HOME/multispin, else $HOME/.cache/multispin
      models/<first 16 hex of sha256>/<name>     a fetched file, checked before it got this name
      derived/<first 16 hex>-<recipe>/<name>     made from the file with that sha256, and its own sha256 beside it

Two processes that want the same file take turns on a lock (`flock`, freed by the kernel when its holder dies).
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from multispin_models.errors import ConfigError, ModelError

__all__ = [
    "Progress",
    "cache_directory",
    "cached_path",
    "derived_path",
    "file_sha256",
    "is_sha256",
    "locked",
    "recorded_sha256_path",
    "silent",
    "staging",
    "watched",
]

Progress = Callable[[str, int, int | None], None]
"""Told what is being done, how many bytes of it are done, and how many there are (null when not known)."""

_READ_BYTES: Final = 1 << 20


def silent(what: str, done_bytes: int, total_bytes: int | None) -> None:
    """Show no progress."""


def cache_directory() -> Path:
    """Return the cache's folder, made if it is not there.

    Raises:
        ConfigError: no variable says where, or the folder cannot be made or written.
    """
    path = _named_by_environment()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"model cache {path} cannot be made: {error.strerror}; set MULTISPIN_CACHE to a writable folder"
        ) from error
    return path


def _named_by_environment() -> Path:
    for variable, below in (("MULTISPIN_CACHE", ""), ("XDG_CACHE_HOME", "multispin"), ("HOME", ".cache/multispin")):
        value = os.environ.get(variable, "")
        if not value:
            continue
        if not Path(value).is_absolute():
            raise ConfigError(f"{variable} is {value!r}; it must be an absolute path")
        return Path(value) / below
    raise ConfigError(
        "no folder for the model cache: MULTISPIN_CACHE, XDG_CACHE_HOME and HOME are not set (a systemd service has no "
        "HOME); set MULTISPIN_CACHE to a writable absolute path, e.g. Environment=MULTISPIN_CACHE=/var/cache/multispin"
    )


def cached_path(sha256: str, name: str) -> Path:
    """Return where the cache keeps (or would keep) a fetched file.

    Args:
        sha256: of the file, in hex.
        name: a file name; the folder tells files of one name apart.
    """
    return cache_directory() / "models" / sha256[:16] / name


def derived_path(source_sha256: str, recipe: str, name: str) -> Path:
    """Return where the cache keeps (or would keep) what was made from a file in a recipe."""
    return cache_directory() / "derived" / f"{source_sha256[:16]}-{recipe}" / name


def recorded_sha256_path(derived: Path) -> Path:
    """Return the file that holds the sha256 of a derived file, written when it was made."""
    return derived.with_name(derived.name + ".sha256")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is to be made; waits for another process that holds it.

    Args:
        path: the file; its lock is `<name>.lock` beside it and stays there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(
            f"model cache {path.parent} cannot be written: {error.strerror}; set MULTISPIN_CACHE to a writable folder"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside `path`; on leaving without an error it becomes `path`, otherwise it goes.

    Call it under `locked(path)`: a name left by a process that was killed is taken over.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def watched(path: Path, what: str, progress: Progress, total_bytes: int | None = None) -> Iterator[None]:
    """Tell `progress` how much lies in a file or folder that another writes, five times a second until left."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            progress(what, _size_bytes(path), total_bytes)

    progress(what, 0, total_bytes)
    watcher = threading.Thread(target=watch, name="watch-growth", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _size_bytes(path: Path) -> int:
    total_bytes = 0
    for entry in [path, *path.rglob("*")]:
        try:
            total_bytes += entry.stat().st_size if entry.is_file() else 0
        except OSError:  # the writer renames and removes while we look
            continue
    return total_bytes


def file_sha256(path: Path, progress: Progress = silent) -> str:
    """Return the sha256 of a file, in hex.

    Raises:
        ModelError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            total_bytes = os.fstat(handle.fileno()).st_size
            done_bytes = 0
            while chunk := handle.read(_READ_BYTES):
                digest.update(chunk)
                done_bytes += len(chunk)
                progress(f"checking {path.name}", done_bytes, total_bytes)
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def is_sha256(text: str) -> bool:
    """Return whether a text is a sha256 in lower-case hex."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
