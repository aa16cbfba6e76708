"""What a long step says of itself: one line rewritten on a terminal, elsewhere a line now and then."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from multispin_models.cache import Progress

__all__ = ["counter_line", "step_line", "terminal_progress"]

LINE_EVERY_S = 15.0  # where the stream is no terminal


def terminal_progress(stream: TextIO | None = None) -> Progress:
    """Return a Progress that writes to a stream: one line rewritten on a terminal, elsewhere one line a step.

    Args:
        stream: null for stderr.
    """
    out = sys.stderr if stream is None else stream
    live = out.isatty()
    last_what, last_s = "", 0.0

    def show(what: str, done_bytes: int, total_bytes: int | None) -> None:
        nonlocal last_what, last_s
        changed = what != last_what
        finished = total_bytes is not None and done_bytes >= total_bytes
        if not live and changed:
            print(what, file=out, flush=True)
        elif live and (changed or finished or time.monotonic() - last_s > 0.1):
            done = f"{done_bytes / 1e6:.0f}" + (f" of {total_bytes / 1e6:.0f}" if total_bytes else "") + " MB"
            print(f"\r\x1b[K{what}: {done}" + ("\r\x1b[K" if finished else ""), end="", file=out, flush=True)
            last_s = time.monotonic()
        last_what = what

    return show


def step_line(what: str) -> None:
    """Say on stderr what takes a while from now on."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def counter_line(what: str, stream: TextIO | None = None) -> Callable[[int, int], None]:
    """Return a function show(done, total) that writes "what: done/total, seconds so far".

    Args:
        what: is counted.
        stream: null for stderr.
    """
    out = sys.stderr if stream is None else stream
    live = out.isatty()
    started_s = time.monotonic()
    last_s = float("-inf")

    def show(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        finished = done >= total
        if last_s == float("inf") or (not finished and now_s - last_s < (0.1 if live else LINE_EVERY_S)):
            return
        text = f"{what}: {done}/{total}, {now_s - started_s:.0f} s"
        print(f"\r\x1b[K{text}" if live else text, end="\n" if finished or not live else "", file=out, flush=True)
        last_s = float("inf") if finished else now_s

    return show
