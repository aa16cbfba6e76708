"""What llama.cpp says: sent to Python's logging at debug level, and kept where an error has to be explained.

llama.cpp has one log callback a process. It is set when this module is imported, after llama_cpp set its own.
"""

import ctypes
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp.llama_cpp as lib

__all__ = ["recorded_log", "recent_errors"]

_logger = logging.getLogger(__name__)
_LEVEL_ERROR, _LEVEL_CONTINUED = 4, 5  # enum ggml_log_level in ggml.h; the binding's own table is out of date
_last_level = [0]
_recent_errors: deque[str] = deque(maxlen=8)
_recordings: dict[int, list[str]] = {}  # by id: recordings nest, and lists are equal when their lines are


def _on_log(level: int, text: bytes | None, _user_data: object) -> None:
    """Take one line; exceptions cannot leave a C callback, so nothing in here may raise."""
    line = (text or b"").decode("utf-8", "replace").rstrip("\n")
    if level == _LEVEL_CONTINUED:
        level = _last_level[0]
    _last_level[0] = level
    if not line.strip(" ."):
        return
    if level == _LEVEL_ERROR:
        _recent_errors.append(line)
    for recording in tuple(_recordings.values()):
        recording.append(line)
    _logger.debug("%s", line)


_callback = lib.llama_log_callback(_on_log)  # referenced for as long as the process lives
lib.llama_log_set(_callback, ctypes.c_void_p(0))


@contextmanager
def recorded_log() -> Iterator[list[str]]:
    """Collect all lines written inside the block, and forget errors from before it."""
    lines: list[str] = []
    _recent_errors.clear()
    _recordings[id(lines)] = lines
    try:
        yield lines
    finally:
        del _recordings[id(lines)]


def recent_errors() -> str:
    """Return llama.cpp's last error lines as one text, and forget them."""
    text = "; ".join(_recent_errors)
    _recent_errors.clear()
    return text or "llama.cpp gave no reason"
