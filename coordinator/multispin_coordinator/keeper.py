"""Stores the records that agents send in a thread of its own, and acknowledges what is on disk."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from multispin_coordinator.dispatcher import Batch, Send
from multispin_coordinator.store import RecordStore, StoreUnwritable
from multispin_models.clock import monotonic_ns
from multispin_models.engine_thread import Engine, EngineThread
from multispin_models.messages import RecordsAck, Refused
from multispin_models.records import AnyRecord, RecordRefused, read_boot_id

__all__ = ["Keeper"]

log = logging.getLogger(__name__)


class Keeper:
    """Runs a store beside the event loop.

    Args:
        store: open; closed by `close`.
        send: takes the answer.
        on_done: called when a batch has been dealt with.
        thread: in which the store is used; null makes one.
    """

    def __init__(
        self,
        store: RecordStore,
        send: Callable[[list[Send]], None],
        on_done: Callable[[], None],
        thread: Engine | None = None,
    ) -> None:
        self._store = store
        self._send = send
        self._on_done = on_done
        self._thread = EngineThread() if thread is None else thread
        self._closed = False

    def keep(self, batch: Batch) -> None:
        """Store a batch; the answer is sent when it is on disk, and none is if the disk takes nothing."""
        name = batch.agent.decode(errors="replace")
        self._thread.run(self._store.keep, name, batch.records).add_done_callback(partial(self._answer, batch))

    def keep_own(self, records: list[AnyRecord]) -> None:
        """Store records of the coordinator itself; what the disk does not take is lost, and said so."""
        sequence = monotonic_ns()  # not used twice within a boot, whatever starts there were
        self._thread.run(self._store.keep_own, read_boot_id() or "", sequence, records).add_done_callback(_tell_own)

    def _answer(self, batch: Batch, kept: asyncio.Future[RecordsAck]) -> None:
        self._on_done()
        if self._closed:
            return
        try:
            self._send([Send(batch.agent, kept.result())])
        except RecordRefused as error:
            log.warning("records of agent %r are refused: %s", batch.agent, error)
            self._send([Send(batch.agent, Refused("bad_record", str(error)[:2048]))])
        except StoreUnwritable as error:
            log.warning("records of agent %r are not acknowledged, it sends them again: %s", batch.agent, error)

    def close(self) -> None:
        """Store what was handed in, answer nothing more, close the store."""
        self._closed = True
        self._thread.shutdown()
        self._store.close()
        store = self._store
        log.info(
            "%d records stored, %d came again, %d had another's key",
            *(store.num_kept, store.num_repeated, store.num_conflicting),
        )


def _tell_own(kept: asyncio.Future[None]) -> None:
    if not kept.cancelled() and (error := kept.exception()) is not None:
        log.error("a record of the coordinator itself is lost: %s", error)
