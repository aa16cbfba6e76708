"""The one thread in which an engine computes, and its results brought back to the event loop.

`Engine` is what the daemons need of it; the simulator has another, in virtual time.

An executor of the standard library would do; this one has half the hand-overs, and a round waits for four of them.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

__all__ = ["Engine", "EngineThread"]

T = TypeVar("T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Engine(Protocol):
    """Runs calls one after the other."""

    def run(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Return the future of function(*args)."""
        ...

    def shutdown(self) -> None:
        """End, once the calls handed in so far are done."""
        ...


class EngineThread:
    """Runs calls one after the other. Belongs to whoever made it, who ends it with `shutdown`."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A daemon thread: a process that fails before `shutdown` still ends.
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def run(self, function: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Return the future of function(*args), computed in the thread; to be called in an event loop.

        A future that is cancelled lets the call run on and drops its result.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, future, function, args))
        return future

    def shutdown(self) -> None:
        """Wait for the calls handed in so far, then end the thread. Calling it twice is no error."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            loop, future, function, args = job
            result, error = None, None
            try:
                result = function(*args)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody awaits any more
                loop.call_soon_threadsafe(_settle, future, result, error)
            del job, future, function, args, result, error  # nothing is kept alive while waiting


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
