"""Memory disks of one's own, small enough to be filled: tmpfs in a mount namespace that the command makes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from multispin_models.errors import ConfigError

__all__ = ["empty_disk", "fill_disk", "in_own_namespace", "mounted_disk", "run_in_own_namespace"]

_INSIDE = "MULTISPIN_OWN_MOUNTS"
_BALLAST = "ballast"


def in_own_namespace() -> bool:
    """Return whether this process may mount disks that nobody else sees."""
    return os.environ.get(_INSIDE) is not None


def run_in_own_namespace(command: Sequence[str]) -> NoReturn:
    """Become a command in a mount namespace of its own, where it may mount without being root.

    Raises:
        ConfigError: there is no unshare(1).
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise ConfigError("this needs unshare(1) of util-linux, to mount a disk that it can fill")
    wrapped = [unshare, "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), *command]
    sys.stdout.flush()
    os.execve(unshare, wrapped, {**os.environ, _INSIDE: "1"})  # noqa: S606 - this program, its own arguments


@contextmanager
def mounted_disk(folder: Path, size_mb: int) -> Iterator[Path]:
    """Give a folder, made if it is not there, that is a disk of its own of so many MB.

    Raises:
        ConfigError: it cannot be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _tool("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        _tool("umount", str(folder))


def fill_disk(folder: Path) -> None:
    """Fill the disk of a folder to its last byte."""
    with (folder / _BALLAST).open("ab", buffering=0) as ballast:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)):
                    pass


def empty_disk(folder: Path) -> None:
    """Take away what `fill_disk` has written."""
    (folder / _BALLAST).unlink(missing_ok=True)


def _tool(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ConfigError(f"{' '.join(command)} failed: {done.stderr.strip()}")
