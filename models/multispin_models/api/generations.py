"""The texts of one daemon that are being written: prompts in, tasks out, an end for all of them.

A body is decoded, rendered and tokenized in a thread beside the event loop, so that rounds go on meanwhile.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from multispin_models.api.errors import ApiError, unavailable
from multispin_models.api.outbox import Outbox
from multispin_models.api.prepare import Prepared
from multispin_models.api.prometheus import MachineCollector, RequestMetrics, render
from multispin_models.api.resuming import Resumption
from multispin_models.api.service import Bounds, Generated, TextService
from multispin_models.api.slots import Slots

__all__ = ["Generations", "Serving", "outcome"]

T = TypeVar("T")


class Serving(NamedTuple):
    """A service, with its slots and the bounds of a request."""

    service: TextService
    slots: Slots
    bounds: Bounds


class Generations:
    """What is under way.

    Args:
        max_waiting: requests that wait for a slot.
        stop_grace_s: in which they may end when the daemon is told to.
    """

    def __init__(self, max_waiting: int, stop_grace_s: float) -> None:
        self._max_waiting = max_waiting
        self._stop_grace_s = stop_grace_s
        self._service: TextService | None = None
        self._slots: Slots | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[Generated]] = set()
        self._registry = CollectorRegistry()
        self._machine = MachineCollector()
        self._metrics = RequestMetrics(self._registry, self._present)
        self._registry.register(self._machine)
        self._encoder = ThreadPoolExecutor(1, "encoder")

    @property
    def num_present(self) -> int:
        """Requests that are served or wait."""
        return 0 if self._slots is None else self._slots.num_present

    def _present(self) -> tuple[int, int]:
        return (0, 0) if self._slots is None else self._slots.present

    def open(self, service: TextService, collector: Collector) -> None:
        """Serve from now on, and tell what the collector has counted."""
        self._registry.register(collector)
        self._service = service
        self._slots = Slots(service.num_slots, self._max_waiting, drafts=service.drafts)

    def ready(self) -> Serving:
        """Return what serves.

        Raises:
            ApiError: 503, it loads, it stops, or its coordinator has not welcomed it yet.
        """
        if self._stopping:
            raise unavailable("this server is stopping", "stopping")
        if self._service is None or self._slots is None:
            raise unavailable("the model is being loaded; try again in a few seconds", "loading")
        bounds = self._service.bounds()
        if bounds is None:
            raise unavailable(self._service.why_absent(), "no_coordinator")
        return Serving(self._service, self._slots, bounds)

    async def encode(self, function: Callable[..., T], *args: Any, **keywords: Any) -> T:
        """Return function(*args, **keywords), computed beside the event loop.

        Raises:
            ApiError: 503, it stops.
        """
        if self._stopping:  # its body came in while it was told to
            raise unavailable("this server is stopping", "stopping")
        computing = self._encoder.submit(partial(function, *args, **keywords))
        try:
            return await asyncio.wrap_future(computing)
        except asyncio.CancelledError:
            if self._stopping and computing.cancelled():  # dropped by `stop`, not by who awaits it
                raise unavailable("this server is stopping", "stopping") from None
            raise

    def start(self, serving: Serving, prepared: Prepared, outbox: Outbox) -> "asyncio.Task[Generated]":
        """Return the task that generates a text, once it has a slot."""

        async def generate() -> Generated:
            resumption = Resumption(prepared.known, outbox.put)
            async with serving.slots.take(prepared.text) as queued_s:
                generated = await serving.service.generate(prepared.text, resumption.put, queued_s)
            resumption.check()
            return generated._replace(text=generated.text[len(prepared.known) :])

        task = asyncio.create_task(generate())
        task.add_done_callback(self._count)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: outbox.close())
        return task

    async def metrics(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        await self._machine.look()
        return render(self._registry)

    def _count(self, task: "asyncio.Task[Generated]") -> None:
        if task.cancelled():
            self._metrics.failed("stopping" if self._stopping else "client_left")
        elif (error := task.exception()) is not None:
            self._metrics.failed((isinstance(error, ApiError) and error.code) or "internal_error")
        else:
            self._metrics.succeeded(task.result())

    async def stop(self) -> None:
        """Refuse new requests, give those under way their grace, then end them with an error."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._stop_grace_s)
        for task in self._tasks:
            task.cancel()
        self._encoder.shutdown(wait=False, cancel_futures=True)


def outcome(task: "asyncio.Task[Generated]") -> Generated:
    """Return what a generation that has ended gave.

    Raises:
        ApiError: it could not be served, or the server stops. (If the client left, nobody hears it.)
    """
    if task.cancelled():
        raise unavailable("this server is stopping; ask again, another one may answer", "stopping")
    return task.result()
