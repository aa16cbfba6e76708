"""Ties a daemon's life to whoever started it."""

import ctypes
import os
import signal

from multispin_models.errors import ConfigError

__all__ = ["exit_with_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def exit_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent process dies, so that no daemon of a run is left behind.

    Raises:
        ConfigError: this is not Linux.
    """
    parent = os.getppid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0
    except (OSError, AttributeError) as error:
        raise ConfigError(f"--exit-with-parent needs Linux's prctl: {error}") from error
    if failed or os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGTERM)
