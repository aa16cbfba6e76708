"""An event loop whose time is virtual, and an engine that computes in it: the daemons' own code, without waiting.

When nothing is ready, time jumps to the next timer. A call of the engine runs in a greenlet, which `spend` suspends for
as long as a model would have computed; meanwhile messages come in, and the call sees them, as it would in a thread.

    def forward():                      # looks blocking to its caller, like any engine
        spend(0.020)
"""

import asyncio
import logging
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TextIO, TypeVar

import greenlet

__all__ = ["NothingLeft", "VirtualEngine", "log_by_virtual_time", "now_ns", "run_virtually", "spend"]

T = TypeVar("T")
_Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class NothingLeft(Exception):
    """Everything waits and no timer is set: a deadlock of what is simulated."""


class _VirtualSelector(selectors.SelectSelector):
    """Passes time instead of waiting for it. No descriptor is ever ready."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("all tasks wait, for nothing that could come")
        if timeout > 0:
            self.now_s += timeout
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


def now_ns() -> int:
    """Return nanoseconds of virtual time since the run began."""
    return round(asyncio.get_running_loop().time() * 1e9)


def log_by_virtual_time(stream: TextIO) -> None:
    """Write what the daemons log, from INFO on, to a stream; times are virtual seconds."""

    def at(record: logging.LogRecord) -> bool:
        try:
            record.virtual_s = asyncio.get_running_loop().time()
        except RuntimeError:
            record.virtual_s = 0.0
        return True

    handler = logging.StreamHandler(stream)
    handler.addFilter(at)
    handler.setFormatter(logging.Formatter("%(virtual_s)12.6f %(name)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns, run in virtual time from 0.

    Raises:
        NothingLeft: it can never end.
        Exception: what a callback of the loop raised, which would only be logged otherwise.
    """
    failures: list[BaseException] = []

    async def watched() -> T:
        task = asyncio.ensure_future(main)

        def fail(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            failures.append(context.get("exception") or RuntimeError(context["message"]))
            task.cancel()

        asyncio.get_running_loop().set_exception_handler(fail)
        return await task

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        try:
            return runner.run(watched())
        except asyncio.CancelledError:
            if failures:
                raise failures[0] from None
            raise


def spend(seconds: float) -> None:
    """Let virtual time pass inside a call of a `VirtualEngine`."""
    caller = greenlet.getcurrent()
    assert caller.parent is not None, "only an engine's call spends time"
    asyncio.get_running_loop().call_later(seconds, caller.switch)
    caller.parent.switch()


class VirtualEngine:
    """Runs calls one after the other in virtual time, as an engine's thread does in real time."""

    def __init__(self) -> None:
        self._jobs: deque[_Job] = deque()
        self._worker: greenlet.greenlet | None = None

    def run(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Return the future of function(*args), which takes the time that it spends."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.append((future, function, args))
        if self._worker is None:
            self._worker = greenlet.greenlet(self._work)
            self._worker.switch()
        return future

    def shutdown(self) -> None:
        """Drop what was not begun; a call under way ends in its time."""
        self._jobs.clear()

    def _work(self) -> None:
        while self._jobs:
            future, function, args = self._jobs.popleft()
            result, error = None, None
            try:
                result = function(*args)
            except Exception as raised:
                error = raised
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._worker = None
