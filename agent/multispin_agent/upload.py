"""Records to disk and on to the coordinator, beside everything else: never in the way of a round.

    record --> waiting (memory) --> spool (disk) --> one batch in flight --> coordinator's disk --> forgotten here

A batch is sent when the one before it is acknowledged. While a request is served, batches are small and paced to
`upload_bytes_per_s`, so that a draft never waits long behind one; when none is, they are large and follow each other.
What is not acknowledged in time is sent again, with back-off; the coordinator keeps each record once. A batch in which
it finds a record wrong is halved until that one is alone; it is set aside in the spool, and the others go on.

While the disk takes nothing, records wait in memory: of rounds at most `MAX_WAITING_ROUNDS`, the oldest are dropped
and a GapRecord says so; summaries wait all. What waits in memory is lost if the process dies: nobody was told that it
was kept.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from multispin_agent.client import Client
from multispin_agent.events import RefusedByCoordinator
from multispin_agent.spool import MAX_BATCH_RECORDS, Line, Spool, SpoolUnwritable, line_of
from multispin_models.engine_thread import EngineThread
from multispin_models.messages import Records, RecordsAck, Refused
from multispin_models.records import AnyRecord, GapRecord, is_summary

__all__ = ["Recorder"]

log = logging.getLogger(__name__)

MAX_WAITING_ROUNDS: Final = 20_000  # about 20 MB
APPENDED_AT_ONCE: Final = 500
IDLE_BATCH_BYTES: Final = 1 << 18
BUSY_BATCH_BYTES: Final = 1 << 12
RETRY_S: Final = 1.0
RETRY_MAX_S: Final = 30.0
REFUSED_S: Final = 60.0  # an older coordinator does not learn within seconds


class Recorder:
    """Takes records, puts them on disk in a thread of its own, and uploads them.

    Args:
        spool: open; closed by `close`.
        client: the connection; its `on_records` is taken.
        agent_id: named in gaps.
        upload_bytes_per_s: while a request is served.
    """

    def __init__(self, spool: Spool, client: Client, agent_id: str, upload_bytes_per_s: float) -> None:
        self.counters: Counter[str] = Counter()
        self._spool = spool
        self._client = client
        self._agent_id = agent_id
        self._bytes_per_s = upload_bytes_per_s
        self._waiting: deque[Line] = deque()
        self._waiting_rounds = 0
        self._dropped: Counter[str] = Counter()  # run id -> rounds that the disk did not take
        self._thread = EngineThread()
        self._taken = asyncio.Event()  # there is something to be written
        self._written = asyncio.Event()  # there is something to be uploaded
        self._written.set()
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._idle = asyncio.Event()
        self._answer: asyncio.Future[RecordsAck | Refused] | None = None
        client.on_records = self._on_answer
        self._closing = asyncio.Event()
        self._most_records = MAX_BATCH_RECORDS  # fewer while a wrong one is looked for
        self._num_writing = 0  # of those that wait, at the front
        self._writing = asyncio.create_task(self._write())
        self._uploading = asyncio.create_task(self._upload())

    def take(self, records: Iterable[AnyRecord]) -> None:
        """Take records; they are on disk soon after."""
        for record in records:
            line = line_of(record)
            self._waiting.append(line)
            self._waiting_rounds += not is_summary(line.kind)
        while self._waiting_rounds > MAX_WAITING_ROUNDS and self._drop_oldest_round():
            pass
        self._idle.clear()
        self._all_written.clear()
        self._taken.set()

    @property
    def num_spooled(self) -> int:
        """Records on this box's disk that the coordinator has not acknowledged."""
        return self._spool.num_records

    async def written(self) -> None:
        """Wait until all that was taken is on this box's disk, or was dropped for good with its gap there."""
        await self._all_written.wait()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was taken is on the coordinator's disk, or for so long; return whether it is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()

    async def close(self) -> None:
        """Put on disk what waits, if the disk takes it, and close the spool."""
        self._uploading.cancel()
        self._closing.set()
        self._taken.set()
        await asyncio.gather(self._uploading, self._writing, return_exceptions=True)
        self._client.on_records = None
        self._thread.shutdown()
        self._spool.close()

    # -- to disk ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        wait_s = RETRY_S
        while self._waiting or self._dropped or not self._closing.is_set():
            await self._taken.wait()
            try:
                await self._write_some()
                wait_s = RETRY_S
            except SpoolUnwritable as error:
                self.counters["spool_failures"] += 1
                if self._closing.is_set():
                    log.error("%d records are lost: %s", len(self._waiting), error)  # noqa: TRY400 - says it all
                    return
                log.warning("%d records wait in memory: %s", len(self._waiting), error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), wait_s)
                wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _write_some(self) -> None:
        gaps = [
            GapRecord(
                run_id=run_id,
                agent_id=self._agent_id,
                num_dropped=count,
                reason="the disk took nothing, and too many records waited in memory",
            )
            for run_id, count in self._dropped.items()
        ]
        lines = [self._waiting[index] for index in range(min(len(self._waiting), APPENDED_AT_ONCE))]
        # Nothing is dropped while it is written: what is appended is at the front of the line.
        self._num_writing = len(lines)
        try:
            await self._thread.run(self._spool.append, [*map(line_of, gaps), *lines])
        finally:
            self._num_writing = 0
        for line in lines:
            self._waiting.popleft()
            self._waiting_rounds -= not is_summary(line.kind)
        for gap in gaps:
            self._dropped[gap.run_id] -= gap.num_dropped
        self._dropped = +self._dropped
        if not self._waiting and not self._dropped:
            self._all_written.set()
            if not self._closing.is_set():
                self._taken.clear()
        self._written.set()

    def _drop_oldest_round(self) -> bool:
        for index in range(self._num_writing, len(self._waiting)):
            if not is_summary(self._waiting[index].kind):
                self._dropped[self._waiting[index].run_id] += 1
                self._waiting_rounds -= 1
                del self._waiting[index]
                return True
        return False  # all of them are being written

    # -- to the coordinator -------------------------------------------------------------------------------------------

    async def _upload(self) -> None:
        wait_s = RETRY_S
        while True:
            await self._written.wait()
            try:
                await self._client.ready()
            except RefusedByCoordinator:
                return  # who serves requests says so
            busy = self._client.is_serving
            self._written.clear()
            most_bytes = BUSY_BATCH_BYTES if busy else IDLE_BATCH_BYTES
            batch = await self._thread.run(self._spool.next_batch, most_bytes, self._most_records)
            if batch is None:
                await self._rest()
                continue
            self._written.set()
            answer = await self._send(batch, wait_s)
            if answer is None:
                wait_s = min(2 * wait_s, RETRY_MAX_S)
            elif isinstance(answer, Refused) and answer.code == "bad_record":
                await self._narrow(batch, answer.message)
            elif isinstance(answer, Refused):
                self.counters[f"refused_{answer.code}"] += 1
                log.warning("records stay here, the coordinator refuses them (%s): %s", answer.code, answer.message)
                await asyncio.sleep(REFUSED_S)
            else:
                wait_s = RETRY_S
                self._most_records = min(2 * self._most_records, MAX_BATCH_RECORDS)
                await self._forget(batch)
            if busy:
                await asyncio.sleep(sum(len(record.line) for record in batch.records) / self._bytes_per_s)

    async def _send(self, batch: Records, wait_s: float) -> RecordsAck | Refused | None:
        """Return the answer to a batch, None if none came in time."""
        self._answer = asyncio.get_running_loop().create_future()
        self._sent = batch
        self.counters["batches_sent"] += 1
        self._client.send(batch)
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._answer, wait_s)
        return None

    async def _narrow(self, batch: Records, reason: str) -> None:
        """Look for the wrong record in smaller batches; set it aside when it is alone."""
        self.counters["refused_bad_record"] += 1
        if len(batch.records) > 1:
            self._most_records = len(batch.records) // 2
            return
        log.error("record %d is set aside, the coordinator refuses it: %s", batch.records[0].sequence, reason)
        try:
            await self._thread.run(self._spool.set_aside, batch, reason)
            self.counters["records_set_aside"] += 1
        except SpoolUnwritable as error:
            self.counters["spool_failures"] += 1
            log.warning("a refused record stays in the spool for now: %s", error)
            await asyncio.sleep(REFUSED_S)

    async def _forget(self, batch: Records) -> None:
        try:
            await self._thread.run(self._spool.forget, batch)
            self.counters["records_uploaded"] += len(batch.records)
        except SpoolUnwritable as error:
            self.counters["spool_failures"] += 1
            log.warning("uploaded records stay in the spool for now: %s", error)

    def _on_answer(self, answer: RecordsAck | Refused) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(answer, RecordsAck):
            records = self._sent.records
            expected = RecordsAck(self._sent.boot_id, records[0].sequence, records[-1].sequence)
            if answer != expected:  # of a batch that was sent twice
                return
        self._answer.set_result(answer)

    async def _rest(self) -> None:
        """Delete what could not be deleted before; then all is done, unless something was taken meanwhile."""
        try:
            await self._thread.run(self._spool.forget_uploaded)
        except SpoolUnwritable:
            self._written.set()
            await asyncio.sleep(RETRY_S)
            return
        if not self._waiting and not self._dropped and not self._written.is_set():
            self._idle.set()
