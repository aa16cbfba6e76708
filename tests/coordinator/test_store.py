"""The store: each record once, whatever is sent twice; nothing is acknowledged that is not on disk."""

from pathlib import Path

import pytest
from tests.models.test_records import a_round, energy, request

from multispin_coordinator.store import OWN, RecordStore, StoreUnwritable
from multispin_models.errors import ConfigError
from multispin_models.messages import Records, RecordsAck, SpooledRecord
from multispin_models.records import SCHEMA_VERSION, AnyRecord, RecordRefused, encode_line


def spooled(sequence: int, record: AnyRecord) -> SpooledRecord:
    return SpooledRecord(sequence, type(record).__name__, encode_line(record))


def batch(*records: SpooledRecord, boot_id: str = "boot") -> Records:
    return Records(boot_id, SCHEMA_VERSION, records)


BATCH = batch(spooled(5, a_round(round=1)), spooled(7, a_round(round=2)), spooled(8, request()))


def keys(store: RecordStore) -> list[tuple[str, str, int, str, str]]:
    return store._database.execute(
        "SELECT agent, boot_id, sequence, kind, run_id FROM records ORDER BY agent, boot_id, sequence"
    ).fetchall()


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "store.sqlite")


def test_a_batch_is_kept_once_and_acknowledged_as_often_as_it_comes(store: RecordStore) -> None:
    assert [store.keep("a", BATCH) for _ in range(3)] == [RecordsAck("boot", 5, 8)] * 3
    assert [key[2:4] for key in keys(store)] == [(5, "RoundRecord"), (7, "RoundRecord"), (8, "RequestRecord")]
    assert (store.num_kept, store.num_repeated, store.num_conflicting) == (3, 6, 0)
    store.close()


def test_batches_that_overlap_add_what_is_new(store: RecordStore) -> None:
    store.keep("a", BATCH)
    store.keep("a", batch(*BATCH.records[1:], spooled(9, a_round(round=3))))
    assert [key[2] for key in keys(store)] == [5, 7, 8, 9]
    store.close()


def test_agents_and_boots_have_sequences_of_their_own(store: RecordStore) -> None:
    store.keep("a", BATCH)
    store.keep("b", BATCH)
    store.keep("a", batch(*BATCH.records, boot_id="next"))
    assert len(keys(store)) == 9
    store.close()


def test_it_is_on_disk_when_keep_returns(store: RecordStore, tmp_path: Path) -> None:
    store.keep("a", BATCH)
    other = RecordStore(tmp_path / "store.sqlite")
    assert len(keys(other)) == 3
    assert other.keep("a", BATCH) == RecordsAck("boot", 5, 8)
    assert other.num_repeated == 3
    other.close()
    store.close()


def test_another_record_under_a_known_key_is_counted_and_the_first_stays(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.keep("a", batch(spooled(5, a_round(round=1))))
    store.keep("a", batch(spooled(5, a_round(round=2))))
    assert store.num_conflicting == 1
    assert "was its disk copied?" in caplog.text
    [(line,)] = store._database.execute("SELECT line FROM records")
    assert line == encode_line(a_round(round=1))
    store.close()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (SpooledRecord(9, "RoundRecord", b"{}"), "no RoundRecord: .*missing required field `run_id`"),
        (SpooledRecord(9, "Round", b"{}"), "kind 'Round' are not known, allowed are RunHeader"),
        (SpooledRecord(9, "RoundRecord", b"\xff\xff"), "a line of 2 bytes is no RoundRecord"),
        (SpooledRecord(9, "RoundRecord", b"[" * 100_000), "is no RoundRecord"),
        (SpooledRecord(9, "RequestRecord", encode_line(a_round())), "no RequestRecord"),
    ],
)
def test_a_batch_with_a_line_that_is_no_record_is_refused_whole(
    store: RecordStore, bad: SpooledRecord, message: str
) -> None:
    with pytest.raises(RecordRefused, match=message):
        store.keep("a", batch(*BATCH.records, bad))
    assert keys(store) == []
    store.close()


def test_a_full_disk_acknowledges_nothing_and_the_next_try_keeps_it(store: RecordStore) -> None:
    store.keep("a", BATCH)
    [(pages,)] = store._database.execute("PRAGMA page_count")
    store._database.execute(f"PRAGMA max_page_count = {pages + 1}")
    more = batch(*(spooled(number, a_round(round=number)) for number in range(100, 200)))
    with pytest.raises(StoreUnwritable, match="full"):
        store.keep("a", more)
    assert len(keys(store)) == 3
    store._database.execute("PRAGMA max_page_count = 1000000")
    store.keep("a", more)
    assert len(keys(store)) == 103
    store.close()


def test_records_of_its_own_stand_beside_those_of_agents(store: RecordStore) -> None:
    store.keep_own("boot", 3, [energy("coordinator", 1.0), energy("coordinator", 2.0)])
    store.keep("a", BATCH)
    assert [key[:3] for key in keys(store)[:2]] == [(OWN, "boot", 3), (OWN, "boot", 4)]
    store.close()


def test_a_file_that_is_no_store_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database" * 200)
    with pytest.raises(ConfigError, match=r"store\.sqlite cannot be used"):
        RecordStore(path)
