"""The spool on a real file: what survives, what is dropped, and that no key is ever used twice."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.models.test_records import a_round, request

from multispin_agent.spool import RESERVE_BYTES, ROW_BYTES, Line, Spool, SpoolUnwritable, line_of
from multispin_models.errors import ConfigError
from multispin_models.messages import MAX_RECORD_BYTES, Records
from multispin_models.records import GapRecord, decode_line

LARGE = 1 << 30


def open_spool(folder: Path, max_bytes: int = LARGE, boot_id: str = "boot") -> Spool:
    return Spool(folder / "spool.sqlite", "a", boot_id, max_bytes)


def rounds(*numbers: int, run_id: str = "r") -> list[Line]:
    return [line_of(a_round(round=number, run_id=run_id)) for number in numbers]


def numbers_of(batch: Records | None) -> list[int]:
    return (
        [] if batch is None else [decode_line(r.kind, r.line).round for r in batch.records if r.kind == "RoundRecord"]
    )  # type: ignore[union-attr]


def test_what_was_appended_comes_in_its_order_until_it_is_forgotten(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(1, 2))
    spool.append([line_of(request())])
    batch = spool.next_batch(LARGE)
    assert batch is not None
    assert [record.kind for record in batch.records] == ["RoundRecord", "RoundRecord", "RequestRecord"]
    assert decode_line(batch.records[2].kind, batch.records[2].line) == request()
    assert spool.next_batch(LARGE) == batch, "until it is forgotten"
    spool.forget(batch)
    assert spool.next_batch(LARGE) is None
    assert (spool.num_records, spool.num_bytes) == (0, 0)
    spool.close()


def test_a_batch_is_as_small_as_asked_and_holds_one_at_least(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(*range(10)))
    length = len(rounds(1)[0].line) + len("RoundRecord") + 12
    assert numbers_of(spool.next_batch(3 * length)) == [0, 1, 2]
    assert numbers_of(spool.next_batch(1)) == [0]
    spool.close()


def test_a_batch_is_of_one_boot(tmp_path: Path) -> None:
    for boot_id, number in (("b1", 1), ("b2", 2)):
        spool = open_spool(tmp_path, boot_id=boot_id)
        spool.append(rounds(number))
        spool.close()
    spool = open_spool(tmp_path, boot_id="b3")
    for boot_id, number in (("b1", 1), ("b2", 2)):
        batch = spool.next_batch(LARGE)
        assert batch is not None
        assert (batch.boot_id, numbers_of(batch)) == (boot_id, [number])
        spool.forget(batch)
    spool.close()


def test_no_sequence_is_used_twice_not_even_by_a_spool_made_anew(tmp_path: Path) -> None:
    seen: list[int] = []
    for _ in range(3):
        spool = open_spool(tmp_path)
        for _ in range(2):
            spool.append(rounds(1))
            batch = spool.next_batch(LARGE)
            assert batch is not None
            seen += [record.sequence for record in batch.records]
            spool.forget(batch)
        spool.close()
        for file in tmp_path.iterdir():
            file.unlink()
    assert seen == sorted(set(seen))


def test_a_record_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from multispin_agent.spool import Line, Spool; "
        "spool = Spool(pathlib.Path(sys.argv[1]), 'a', 'boot', 1 << 30); "
        "spool.append([Line('RoundRecord', 'r', b'{}')]); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "spool.sqlite"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    spool = open_spool(tmp_path)
    assert spool.num_records == 1
    spool.close()


def test_beyond_the_bound_the_oldest_rounds_go_summaries_stay_and_the_gap_is_told(tmp_path: Path) -> None:
    size = len(rounds(10)[0].line) + ROW_BYTES
    spool = open_spool(tmp_path, max_bytes=40 * size)
    summary = line_of(request())
    spool.append([summary])
    spool.append(rounds(*range(10, 30), run_id="one"))
    spool.append(rounds(*range(30, 60), run_id="two"))
    assert spool.num_bytes <= 40 * size
    batch = spool.next_batch(LARGE)
    assert batch is not None
    kept = numbers_of(batch)
    assert kept == list(range(60 - len(kept), 60)), "the newest"
    assert len(kept) > 25
    assert batch.records[0].line == summary.line
    gaps = [decode_line(record.kind, record.line) for record in batch.records if record.kind == "GapRecord"]
    assert sum(gap.num_dropped for gap in gaps if isinstance(gap, GapRecord)) == 50 - len(kept)
    assert all(isinstance(gap, GapRecord) and "bound" in gap.reason for gap in gaps)
    spool.close()


def test_summaries_are_kept_beyond_the_bound(tmp_path: Path) -> None:
    summary = line_of(request())
    spool = open_spool(tmp_path, max_bytes=10 * len(summary.line))
    for _ in range(50):
        spool.append([summary])
    spool.append(rounds(1))
    batch = spool.next_batch(LARGE)
    assert batch is not None
    assert [record.kind for record in batch.records].count("RequestRecord") == 50
    spool.close()


def test_what_is_on_its_way_is_not_dropped(tmp_path: Path) -> None:
    size = len(rounds(10)[0].line) + ROW_BYTES
    spool = open_spool(tmp_path, max_bytes=40 * size)
    spool.append(rounds(*range(10, 40)))
    under_way = spool.next_batch(5 * size)
    assert under_way is not None
    spool.append(rounds(*range(40, 70)))
    batch = spool.next_batch(LARGE)
    assert batch is not None
    assert batch.records[: len(under_way.records)] == under_way.records
    spool.forget(under_way)
    spool.close()


def test_a_full_disk_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(1))
    pages = spool._one("PRAGMA page_count")
    spool._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(SpoolUnwritable, match="full"):
        spool.append(rounds(*range(100)))
    assert spool.num_records == 1
    spool._database.execute("PRAGMA max_page_count = 1000000")
    spool.append(rounds(2))
    assert numbers_of(spool.next_batch(LARGE)) == [1, 2]
    spool.close()


def test_the_last_bytes_of_a_disk_are_left_alone_so_that_it_can_shrink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(1))
    usage = shutil.disk_usage(tmp_path)._replace(free=RESERVE_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SpoolUnwritable, match=f"{RESERVE_BYTES - 1} bytes of the disk are free"):
        spool.append(rounds(2))
    batch = spool.next_batch(LARGE)
    assert batch is not None
    spool.forget(batch)
    assert spool.num_records == 0
    spool.close()


def test_on_a_nearly_full_disk_it_uses_the_room_that_its_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    for _ in range(5):
        spool.append([Line("RequestRecord", "r", bytes(RESERVE_BYTES // 4))])
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SpoolUnwritable):
        spool.append(rounds(1))
    while (batch := spool.next_batch(1)) is not None:
        spool.forget(batch)
    spool.append(rounds(2))
    assert numbers_of(spool.next_batch(LARGE)) == [2]
    spool.close()


def test_it_counts_what_it_finds(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(1, 2, 3))
    counted = spool.num_records, spool.num_bytes
    spool.close()
    spool = open_spool(tmp_path)
    assert (spool.num_records, spool.num_bytes) == counted
    spool.close()


def test_writes_are_synchronous_and_logged_first(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    assert spool._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert spool._database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    spool.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_a_file_that_is_no_spool_is_refused_with_its_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "spool.sqlite"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"spool\.sqlite cannot be used"):
        open_spool(tmp_path)
    assert os.listdir(tmp_path) == ["spool.sqlite"]


def test_a_record_too_large_for_the_wire_is_refused() -> None:
    with pytest.raises(ValueError, match=f"allowed are {MAX_RECORD_BYTES}"):
        line_of(request(text="x" * MAX_RECORD_BYTES))


def test_the_file_is_a_plain_table_that_sqlite_reads(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(rounds(1))
    spool.close()
    database = sqlite3.connect(tmp_path / "spool.sqlite")
    assert database.execute("SELECT boot_id, kind, run_id, is_summary FROM records").fetchall() == [
        ("boot", "RoundRecord", "r", 0)
    ]
    database.close()
