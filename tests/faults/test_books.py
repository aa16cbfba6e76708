"""What the harness must notice: records that are lost, changed and doubled, and figures that are not right."""

import sqlite3
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from multispin.faults.books import Books, RecordsFound
from multispin.faults.figures import DaemonFigures, LegFigures, by_kind, table, wrongs
from multispin.faults.outages import OutageFigures
from multispin.faults.users import Served
from multispin_agent.spool import Spool, line_of
from multispin_coordinator.store import RecordStore
from multispin_models.messages import Records
from multispin_models.records import GapRecord


class Disks:
    """A spool with three records, and a store."""

    def __init__(self, folder: Path) -> None:
        self.paths = folder / "spool.sqlite", folder / "store.sqlite"
        self.spool = Spool(self.paths[0], "agent-0", "boot", 1 << 20)
        self.store = RecordStore(self.paths[1])
        self.spool.append(
            [line_of(GapRecord(run_id="r", agent_id="agent-0", num_dropped=n, reason="x")) for n in range(1, 4)]
        )
        self.books = Books({"agent-0": self.paths[0]}, self.paths[1])
        self.books.look()

    def upload(self, count: int = 3) -> None:
        batch = self.spool.next_batch(1 << 20)
        assert batch is not None
        batch = Records(batch.boot_id, batch.schema_version, batch.records[:count])
        self.store.keep("agent-0", batch)
        self.spool.forget(batch)

    def change(self, statement: str, which: int = 1) -> None:
        with sqlite3.connect(self.paths[which], isolation_level=None) as database:
            database.execute(statement)
        database.close()

    def found(self) -> RecordsFound:
        self.spool.close()
        self.store.close()
        return self.books.close({}, ())


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path)


def test_what_was_seen_on_an_agents_disk_is_looked_for_in_the_store(disks: Disks) -> None:
    disks.upload()
    found = disks.found()
    assert (found.num_seen, found.num_stored, found.num_missing, found.num_left) == (3, 3, 0, 0)


def test_a_record_that_vanished_from_the_store_is_missing(disks: Disks) -> None:
    disks.upload()
    disks.books.look()
    disks.change("DELETE FROM records WHERE rowid = 2")
    assert disks.found().num_missing == 1


def test_a_record_that_an_agent_forgot_without_sending_it_is_missing(disks: Disks) -> None:
    disks.upload(2)
    disks.change("DELETE FROM records", which=0)
    assert disks.found().num_missing == 1


def test_a_record_that_is_still_in_the_spool_is_left(disks: Disks) -> None:
    disks.upload(2)
    found = disks.found()
    assert (found.num_left, found.num_missing) == (1, 1)


def test_a_record_that_was_changed_is_told(disks: Disks) -> None:
    disks.upload()
    disks.change("UPDATE records SET line = CAST(line || ' ' AS BLOB) WHERE rowid = 1")
    assert disks.found().num_changed == 1


def test_a_request_without_a_record_counts_against_an_agent_that_was_never_killed(disks: Disks) -> None:
    disks.spool.close()
    disks.store.close()
    found = disks.books.close({"1": (5,), "2": (6,)}, {"1"})
    assert (found.num_unrecorded, found.num_untold) == (1, 1)


# -- figures -----------------------------------------------------------------------------------------------------------

RIGHT = RecordsFound(9, 9, 0, 0, 0, 0, 0, 2, 100, 0)
STEADY = DaemonFigures("agent-0", 1, 900.0, 400.0, 430.0, 20, 24)
LEG = LegFigures(1800.0, {}, 50, 0, 3, 999, 0, 4.0, (), (), 0, RIGHT, (STEADY,), (), 1)


def served(**changes: object) -> Served:
    return msgspec.structs.replace(Served("a", "1", "agent-0", 2.0, ("cut",), 0, 0, 0, ""), **changes)


def test_a_leg_in_which_all_went_well_is_as_promised() -> None:
    assert wrongs([LEG]) == []


@pytest.mark.parametrize(
    ("leg", "said"),
    [
        (msgspec.structs.replace(LEG, num_failed=1), "1 requests were not served"),
        (msgspec.structs.replace(LEG, num_different=2), "2 characters differ"),
        (msgspec.structs.replace(LEG, died=("agent-1",)), "1 daemons died by themselves"),
        *(
            (msgspec.structs.replace(LEG, records=msgspec.structs.replace(RIGHT, **{field: 1})), said)
            for field, said in {
                "num_missing": "acknowledged records are missing",
                "num_changed": "records are changed",
                "num_twice": "records are there twice",
                "num_left": "records are left",
                "num_different": "tokens in records differ",
                "num_unrecorded": "have no record",
            }.items()
        ),
        (
            msgspec.structs.replace(LEG, daemons=(msgspec.structs.replace(STEADY, memory_end_mb=500.0),)),
            "agent-0 has grown",
        ),
        (msgspec.structs.replace(LEG, daemons=(msgspec.structs.replace(STEADY, files_end=40),)), "agent-0 has grown"),
    ],
)
def test_whatever_is_not_as_promised_is_said(leg: LegFigures, said: str) -> None:
    [wrong] = wrongs([LEG, leg])
    assert said in wrong
    assert wrong.startswith("leg 2: ")


def test_what_came_by_turns_is_measured_by_the_time_with_links() -> None:
    outages = OutageFigures(60.0, 300.0, 3000, 1800.0, 8100, 900.0)
    assert outages.of_expected == pytest.approx(0.9)
    assert msgspec.structs.replace(outages, baseline_characters=0).of_expected is None
    [line] = [
        line for line in table([msgspec.structs.replace(LEG, outages=outages)]).splitlines() if "by turns" in line
    ]
    assert "900 s of them with links: 0.90 of what these are worth" in line


def test_requests_count_for_every_kind_that_they_met() -> None:
    kinds = by_kind(
        Counter({"cut": 4, "lose": 1}),
        [served(), served(kinds=("cut", "lose"), num_broken=1, seconds=9.0), served(error="stuck", num_different=3)],
    )
    assert msgspec.structs.astuple(kinds["cut"]) == (4, 2, 1, 3, 1, 9.0)
    assert msgspec.structs.astuple(kinds["lose"]) == (1, 1, 1, 0, 0, 9.0)
    lines = table([msgspec.structs.replace(LEG, kinds=kinds)]).splitlines()
    [cut] = [line.split() for line in lines if line.startswith("cut ")]
    assert cut == ["cut", "4", "3", "2", "1", "3", "9.0"]
