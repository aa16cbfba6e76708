"""Records on their way: to disk, one batch at a time to the coordinator, forgotten when it has them."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models.test_records import a_round, request

from multispin_agent import upload
from multispin_agent.events import RefusedByCoordinator
from multispin_agent.spool import Spool, SpoolUnwritable
from multispin_agent.upload import Recorder
from multispin_models.messages import Records, RecordsAck, Refused
from multispin_models.records import AnyRecord, GapRecord, RoundRecord, decode_line

BYTES_PER_S = 1e9


class Coordinator:
    """What a recorder sees of its client, and a coordinator that answers as the test wants."""

    def __init__(self) -> None:
        self.on_records: Callable[[RecordsAck | Refused], None] | None = None
        self.is_serving = False
        self.refusal: Refused | None = None
        self.fails: RefusedByCoordinator | None = None
        self.deaf = 0  # batches that get lost
        self.batches: list[Records] = []
        self.kept: dict[int, AnyRecord] = {}

    async def ready(self) -> None:
        if self.fails is not None:
            raise self.fails

    def send(self, batch: Records) -> int:
        self.batches.append(batch)
        if self.deaf:
            self.deaf -= 1
            return 0
        if self.refusal is None:
            self.kept |= {record.sequence: decode_line(record.kind, record.line) for record in batch.records}
        asyncio.get_running_loop().call_soon(self.answer, batch)
        return 0

    def answer(self, batch: Records) -> None:
        if self.on_records is not None:
            ack = RecordsAck(batch.boot_id, batch.records[0].sequence, batch.records[-1].sequence)
            self.on_records(self.refusal or ack)

    @property
    def rounds(self) -> list[int]:
        return [record.round for record in self.kept.values() if isinstance(record, RoundRecord)]


def open_spool(folder: Path) -> Spool:
    return Spool(folder / "spool.sqlite", "a", "boot", 1 << 30)


def play(folder: Path, part: Callable[[Recorder, Coordinator, Spool], Awaitable[None]], rate: float = 1e9) -> None:
    async def run() -> None:
        coordinator, spool = Coordinator(), open_spool(folder)
        client: Any = coordinator
        recorder = Recorder(spool, client, "a", rate)
        try:
            await asyncio.wait_for(part(recorder, coordinator, spool), 20)
        finally:
            await recorder.close()

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, "not within 10 s"
        await asyncio.sleep(0.002)


def left_in(folder: Path) -> int:
    spool = open_spool(folder)
    count = spool.num_records
    spool.close()
    return count


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "RETRY_S", 0.02)
    monkeypatch.setattr(upload, "RETRY_MAX_S", 0.05)


def test_what_is_taken_arrives_in_order_and_is_forgotten(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        recorder.take(a_round(round=number) for number in range(1500))
        recorder.take([request()])
        assert await recorder.flush(20)
        assert coordinator.rounds == list(range(1500))
        assert request() in coordinator.kept.values()
        assert spool.num_records == 0

    play(tmp_path, part)
    assert left_in(tmp_path) == 0


def test_what_a_former_start_left_is_uploaded(tmp_path: Path) -> None:
    async def cut_off(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.deaf = 1_000_000
        recorder.take([a_round(round=1)])
        await recorder.written()

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        assert await recorder.flush(10)
        assert coordinator.rounds == [1]

    play(tmp_path, cut_off)
    assert left_in(tmp_path) == 1
    play(tmp_path, part)


def test_a_batch_that_is_not_acknowledged_is_sent_again_to_the_letter(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.deaf = 2
        recorder.take([a_round(round=1)])
        assert await recorder.flush(10)
        assert coordinator.batches == [coordinator.batches[0]] * 3

    play(tmp_path, part)


def test_an_acknowledgement_of_another_batch_forgets_nothing(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.deaf = 1_000_000
        recorder.take([a_round(round=1)])
        await until(lambda: coordinator.batches)
        assert coordinator.on_records is not None
        for ack in (RecordsAck("other", 1, 1), RecordsAck("boot", 0, 2**62)):
            coordinator.on_records(ack)
        assert not await recorder.flush(0.1)
        assert spool.num_records == 1

    play(tmp_path, part)


def test_while_a_request_is_served_batches_are_small_and_paced(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.is_serving = True
        recorder.take(a_round(round=number) for number in range(60))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        assert await recorder.flush(20)
        sizes = [sum(len(record.line) for record in batch.records) for batch in coordinator.batches]
        assert max(sizes) <= upload.BUSY_BATCH_BYTES
        # Each but the last is waited for before the next is sent.
        assert loop.time() - begun >= sum(sizes[:-1]) / 100_000

    play(tmp_path, part, rate=100_000)


def test_refused_records_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "REFUSED_S", 0.05)

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.refusal = Refused("records_schema", "update the older side")
        recorder.take([a_round(round=1)])
        assert not await recorder.flush(0.3)
        assert recorder.counters["refused_records_schema"] >= 2, "it asks again"
        assert spool.num_records == 1
        coordinator.refusal = None
        assert await recorder.flush(10)
        assert coordinator.rounds == [1]

    play(tmp_path, part)


def test_a_record_that_is_refused_as_wrong_is_set_aside_and_all_others_arrive(tmp_path: Path) -> None:
    wrong = {3, 700}

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        take = coordinator.send

        def send(batch: Records) -> int:
            rounds = {record.round for each in batch.records if (record := decode_line(each.kind, each.line))}
            coordinator.refusal = Refused("bad_record", "a line is no RoundRecord") if rounds & wrong else None
            return take(batch)

        coordinator.send = send  # type: ignore[method-assign]
        recorder.take(a_round(round=number) for number in range(1200))
        assert await recorder.flush(20)
        assert coordinator.rounds == [number for number in range(1200) if number not in wrong]
        assert recorder.counters["records_set_aside"] == 2
        assert len(coordinator.batches) < 60, "it is halved, not tried one by one"
        assert spool.num_records == 0

    play(tmp_path, part)
    with sqlite3.connect(tmp_path / "spool.sqlite") as database:
        lines = [line for (line,) in database.execute("SELECT line FROM refused ORDER BY sequence")]
    database.close()
    assert [decode_line("RoundRecord", line).round for line in lines] == sorted(wrong)
    assert left_in(tmp_path) == 0


def test_records_wait_in_memory_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = Spool.append, [3]

    def append(spool: Spool, lines: Any) -> None:
        if full[0]:
            full[0] -= 1
            raise SpoolUnwritable("spool: database or disk is full")
        real(spool, lines)

    monkeypatch.setattr(Spool, "append", append)

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        recorder.take(a_round(round=number) for number in range(10))
        await recorder.written()
        assert recorder.counters["spool_failures"] == 3
        assert await recorder.flush(10)
        assert coordinator.rounds == list(range(10))

    play(tmp_path, part)


def test_of_rounds_too_many_to_wait_the_oldest_are_dropped_and_the_gap_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_WAITING_ROUNDS", 30)
    monkeypatch.setattr(upload, "APPENDED_AT_ONCE", 10)
    real, full = Spool.append, [True]

    def append(spool: Spool, lines: Any) -> None:
        if full[0]:
            raise SpoolUnwritable("spool: database or disk is full")
        real(spool, lines)

    monkeypatch.setattr(Spool, "append", append)

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        recorder.take([request()])
        recorder.take(a_round(round=number) for number in range(50))
        await until(lambda: recorder.counters["spool_failures"])
        full[0] = False
        await recorder.written()
        assert await recorder.flush(10)
        assert coordinator.rounds == list(range(20, 50))
        assert request() in coordinator.kept.values()
        [gap] = [record for record in coordinator.kept.values() if isinstance(record, GapRecord)]
        assert (gap.num_dropped, gap.first_sequence) == (20, None)

    play(tmp_path, part)


def test_on_a_disk_that_takes_no_deletion_the_upload_goes_on_and_what_it_has_is_deleted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = Spool._delete, [True]

    def delete(spool: Spool, sequences: Any) -> None:
        if full[0]:
            raise sqlite3.OperationalError("database or disk is full")
        real(spool, sequences)

    monkeypatch.setattr(Spool, "_delete", delete)

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        for number in (1, 2, 3):
            recorder.take([a_round(round=number)])
            await until(lambda number=number: len(coordinator.rounds) == number)  # type: ignore[misc]
        assert len(coordinator.batches) == 3, "none is sent again"
        assert not await recorder.flush(0.1)
        assert spool.num_records == 3
        full[0] = False
        assert await recorder.flush(10)
        assert spool.num_records == 0

    play(tmp_path, part)


def test_closing_puts_on_disk_what_waits(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.deaf = 1_000_000
        recorder.take(a_round(round=number) for number in range(1300))

    play(tmp_path, part)
    assert left_in(tmp_path) == 1300


def test_closing_on_a_full_disk_ends_and_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def append(spool: Spool, lines: Any) -> None:
        raise SpoolUnwritable("spool: database or disk is full")

    monkeypatch.setattr(Spool, "append", append)

    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        recorder.take([a_round(round=1), request()])

    play(tmp_path, part)
    assert "2 records are lost: spool: database or disk is full" in caplog.text


def test_a_coordinator_that_refuses_the_agent_ends_the_upload_and_nothing_else(tmp_path: Path) -> None:
    async def part(recorder: Recorder, coordinator: Coordinator, spool: Spool) -> None:
        coordinator.fails = RefusedByCoordinator("never")
        recorder.take([a_round(round=1)])
        await recorder.written()
        assert spool.num_records == 1

    play(tmp_path, part)
