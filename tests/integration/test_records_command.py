"""`multispin records` on a store and on the folder of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.models.test_records import a_round, header, request

from multispin.cli import main
from multispin_coordinator.store import RecordStore
from multispin_models.messages import Records, SpooledRecord
from multispin_models.records import SCHEMA_VERSION, AnyRecord, GapRecord, encode_line, write_jsonl

ROUNDS = [a_round(round=number, is_open=number == 0) for number in range(4)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    records: list[AnyRecord] = [
        *ROUNDS,
        request(),
        header(),
        GapRecord(run_id="r", agent_id="a", num_dropped=7, reason="full"),
    ]
    spooled = (SpooledRecord(n, type(record).__name__, encode_line(record)) for n, record in enumerate(records, 10))
    kept = RecordStore(tmp_path / "store.sqlite")
    kept.keep("a", Records("boot", SCHEMA_VERSION, tuple(spooled)))
    kept.close()
    return tmp_path / "store.sqlite"


def test_show_counts_by_run_agent_and_kind(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "show", str(store), "--json"]) == 0
    found = {each["kind"]: each for each in json.loads(capsys.readouterr().out)["records"]}
    assert {kind: each["records"] for kind, each in found.items()} == {
        "GapRecord": 1,
        "RequestRecord": 1,
        "RoundRecord": 4,
        "RunHeader": 1,
    }
    assert found["RoundRecord"] == {"run_id": "r", "agent": "a", "kind": "RoundRecord", "records": 4, "dropped": 7}
    assert main(["records", "show", str(store)]) == 0
    assert "RoundRecord" in capsys.readouterr().out


def test_another_run_is_left_out(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "show", str(store), "--run-id", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"records": []}


def test_check_of_a_store_and_of_a_folder(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["records", "check", str(store)]) == 0
    assert "7 records, 0 problems" in capsys.readouterr().out
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(folder / "requests.jsonl", [request()])
    write_jsonl(folder / "rounds.jsonl", ROUNDS[:3])
    assert main(["records", "check", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "counts 3 rounds, 2 are there" in captured.err
    assert "4 records, 1 problems" in captured.out


def test_check_and_export_can_be_read_by_programs(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["records", "check", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"records": 7, "problems": []}
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(folder / "requests.jsonl", [request()])
    write_jsonl(folder / "rounds.jsonl", ROUNDS[:3])
    assert main(["records", "check", str(folder), "--json"]) == 1
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert "counts 3 rounds, 2 are there" in problem
    assert main(["records", "export", str(store), "--out", str(tmp_path / "out"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {"file": str(tmp_path / "out/RoundRecord.jsonl"), "kind": "RoundRecord", "records": 4} in files


def test_json_lines_come_back_to_the_letter(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["records", "export", str(store), "--out", str(out)]) == 0
    assert (out / "RoundRecord.jsonl").read_bytes() == b"".join(encode_line(record) + b"\n" for record in ROUNDS)
    assert (out / "RequestRecord.jsonl").read_bytes() == encode_line(request()) + b"\n"


def test_parquet_holds_every_field_and_the_key(store: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    assert main(["records", "export", str(store), "--format", "parquet", "--out", str(out)]) == 0
    rounds = parquet.read_table(out / "RoundRecord.parquet").to_pylist()
    assert [(row["agent"], row["boot_id"], row["sequence"], row["round"]) for row in rounds] == [
        ("a", "boot", 10 + number, number) for number in range(4)
    ]
    assert {row["wire_request_id"] for row in rounds} == {2**64 - 1}
    [asked] = parquet.read_table(out / "RequestRecord.parquet").to_pylist()
    assert (asked["token_ids"], asked["text"], asked["ttft_s"]) == (list(range(10)), "häuser\n", 0.2)
    [run] = parquet.read_table(out / "RunHeader.parquet").to_pylist()
    assert json.loads(run["configuration"]) == {"threads": 1}
    assert run["seed"] == 2**64 - 1


@pytest.mark.parametrize(("name", "message"), [("nothing.sqlite", "is not there"), ("text", "is no store of records")])
def test_what_is_no_store_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "text").write_text("no database" * 100)
    assert main(["records", "show", str(tmp_path / name)]) == 1
    assert message in capsys.readouterr().err


def test_what_the_fields_are(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin("records", "fields")
    assert ran.status == 0
    assert "| `uplink_s` | number or null | s |" in ran.stdout
