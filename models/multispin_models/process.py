"""Ties a daemon's life to whoever started it."""

import ctypes
import os
import signal

from multispin_models.errors import ConfigError

__all__ = ["exit_with_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def exit_with_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent process dies, so that no daemon of a run is left behind.

    Args:
        parent: its process id, told by itself: it may be dead before this process can ask.

    Raises:
        ConfigError: this is not Linux.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0
    except (OSError, AttributeError) as error:
        raise ConfigError(f"--exit-with-parent needs Linux's prctl: {error}") from error
    if failed or os.getppid() != parent:  # it died before
        os.kill(os.getpid(), signal.SIGTERM)
