"""How many requests are served at once, how many may wait for that, and who has which slot."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from multispin_models.api.errors import overloaded
from multispin_models.api.replies import Slot
from multispin_models.api.service import TextRequest
from multispin_models.clock import monotonic_ns

__all__ = ["Slots"]

RETRY_AFTER_S = 2


class Slots:
    """The slots of one service.

    Args:
        num_slots: requests served at once.
        max_waiting: requests that may wait; the next one is refused.
        drafts: whether what is served is drafted.
    """

    def __init__(self, num_slots: int, max_waiting: int, *, drafts: bool) -> None:
        self._drafts = drafts
        self.num_present = 0
        self._max_present = num_slots + max_waiting
        self._free = list(range(num_slots))
        self._turn = asyncio.Semaphore(num_slots)  # first come, first served
        self._running: dict[int, tuple[TextRequest, int]] = {}
        self._num_slots = num_slots

    @property
    def present(self) -> tuple[int, int]:
        """How many requests have a slot, and how many are here without one."""
        return len(self._running), self.num_present - len(self._running)

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be present: served, or waiting to be.

        Raises:
            ApiError: 429, all places are taken.
        """
        if self.num_present >= self._max_present:
            raise overloaded(
                f"{self.num_present} requests are served or wait, the most allowed here; try again later", RETRY_AFTER_S
            )
        self.num_present += 1
        try:
            yield
        finally:
            self.num_present -= 1

    @asynccontextmanager
    async def take(self, request: TextRequest) -> AsyncIterator[float]:
        """Wait for a slot and hold it; gives the seconds waited."""
        arrived_ns = monotonic_ns()
        async with self._turn:
            number = min(self._free)
            self._free.remove(number)
            started_ns = monotonic_ns()
            self._running[number] = (request, started_ns)
            try:
                yield (started_ns - arrived_ns) / 1e9
            finally:
                del self._running[number]
                self._free.append(number)

    def describe(self, n_ctx: int) -> list[Slot]:
        """Return all slots; texts and prompts are nobody's business."""
        now_ns = monotonic_ns()
        slots = []
        for number in range(self._num_slots):
            if number not in self._running:
                slots.append(Slot(number, n_ctx, is_processing=False, speculative=self._drafts))
                continue
            request, started_ns = self._running[number]
            slots.append(
                Slot(
                    number,
                    n_ctx,
                    is_processing=True,
                    speculative=self._drafts,
                    id_task=f"{request.request_id:016x}",
                    n_prompt_tokens=len(request.prompt_ids),
                    since_s=(now_ns - started_ns) / 1e9,
                )
            )
        return slots
