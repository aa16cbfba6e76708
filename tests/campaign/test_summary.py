"""Runs summed up from their tables agree with the records, also from a bucket, and leave out what is excluded."""

import argparse
import json
import shutil
import statistics
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs as arrow_fs

from multispin.campaign import stores, summary_command
from multispin.campaign.folder import CELLS, REQUESTS, ROUNDS
from multispin.campaign.summary import QUANTILE_ERROR, quantiles, summarise
from multispin.campaign.synthetic_rounds import write_cell, write_run
from multispin_models.errors import ConfigError
from tests.campaign.good_run import make_run, some_cell
from tests.campaign.test_verify import exclude


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("summed") / "run", blocks=2, users=(1, 2))


def rows_of(run: Path, name: str, arm: str, users: int) -> list[dict[str, object]]:
    tables = [pq.read_table(path) for path in (run / CELLS).glob(f"*/{name}")]
    rows = [row for table in tables for row in table.to_pylist()]
    return [row for row in rows if row["arm"] == arm and row["factor_users"] == users]


def test_figures_are_those_of_the_records(run: Path) -> None:
    found = summarise([str(run)], threads=1)
    assert found.keys == ("arm", "users")
    [row] = [row for row in found.arms if row["arm"] == "price" and row["users"] == "2"]
    rounds = [each for each in rows_of(run, ROUNDS, "price", 2) if not each["is_open"]]
    requests = rows_of(run, REQUESTS, "price", 2)
    assert row["rounds"] == len(rounds)
    assert row["accepted"] == sum(int(str(each["num_accepted"])) for each in rounds)
    assert row["requests"] == len(requests)
    assert row["cells"] == 2
    verify = sorted(float(str(each["verify_s"])) for each in rounds)
    assert row["verify_s_mean"] == pytest.approx(statistics.mean(verify))
    assert row["verify_s_p50"] == pytest.approx(statistics.median_low(verify), rel=1.01 * QUANTILE_ERROR)
    ttft = sorted(float(str(each["ttft_s"])) for each in requests)
    assert row["ttft_s_p99"] == pytest.approx(ttft[-1], rel=1.01 * QUANTILE_ERROR)
    [second] = [each for each in found.positions if (each["arm"], each["users"], each["position"]) == ("price", "2", 2)]
    assert second["survived"] == sum(int(str(each["num_accepted"])) >= 2 for each in rounds) / len(rounds)


def test_arms_without_rounds_have_their_requests(run: Path) -> None:
    found = summarise([str(run)], threads=1)
    [row] = [row for row in found.arms if row["arm"] == "target alone" and row["users"] == "1"]
    assert row["requests"] == 2
    assert "rounds" not in row


def test_what_the_journal_excludes_is_left_out(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    exclude(path, some_cell(path, "price").cell_id)
    found = summarise([str(path)], threads=1)
    assert found.excluded == 1
    assert found.rounds < summarise([str(run)], threads=1).rounds


def test_a_bucket_gives_the_same_as_a_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Arrow's file system and fsspec, as of an address; the bucket itself is a folder here."""

    class Bucket(arrow_fs.SubTreeFileSystem):  # type: ignore[misc]
        type_name = "s3"

    def from_uri(address: str) -> tuple[Bucket, str]:
        assert address == "s3://bucket/run"
        return Bucket(str(run.parent), arrow_fs.LocalFileSystem()), "run"

    monkeypatch.setattr(stores.arrow_fs, "FileSystem", argparse.Namespace(from_uri=from_uri))
    assert summarise(["s3://bucket/run"], threads=1) == summarise([str(run)], threads=1)


def test_many_runs_are_one(tmp_path: Path) -> None:
    for cell in write_run(tmp_path / "one" / "two", 3):
        write_cell(tmp_path / "one" / "two", cell, 1000)
    found = summarise([str(tmp_path)], threads=1, memory="200MB")
    assert found.rounds == 3 * 950
    assert [row["cells"] for row in found.arms] == [1, 1, 1]


def test_a_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run with a cell that counts"):
        summarise([str(tmp_path)])


def test_quantiles_are_within_their_error() -> None:
    assert quantiles([(0, 100)]) == pytest.approx([1.01] * 4, abs=1e-4)
    assert quantiles([(-(1 << 30), 60), (0, 40)])[:2] == [0.0, 0.0]


@pytest.mark.parametrize("source", ["nowhere", "ftp://host/runs"])
def test_a_wrong_address_says_what_is_allowed(source: str) -> None:
    with pytest.raises(ConfigError, match=r"is not there|s3, gs, abfs and hdfs"):
        summarise([source])


def test_the_command_writes_tables_and_prints_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    summary_command.add_arguments(parser)
    assert summary_command.run(parser.parse_args([str(run), "--out", str(tmp_path), "--threads", "1"])) == 0
    assert "price, 2: cells 2, rounds 12," in capsys.readouterr().out
    assert (tmp_path / "arms.csv").read_text().startswith("arm,users,cells")
    assert summary_command.run(parser.parse_args([str(run), "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 36
    with pytest.raises(ConfigError, match="DuckDB refuses"):
        summary_command.run(parser.parse_args([str(run), "--memory", "plenty"]))
