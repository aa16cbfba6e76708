"""Records from an agent's daemon to a coordinator's, over the wire that drafts take."""

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.model


def test_an_agents_records_are_in_the_coordinators_store_when_it_ends(
    run_multispin: Callable[..., Any], start_multispin: Callable[..., Any], tmp_path: Path, target_alone: Any
) -> None:
    (tmp_path / "meter.csv").write_text("t_s,power_w\n0,4.0\n1.3,5.0\n2.0,4.5\n")
    store, spool = tmp_path / "store.sqlite", tmp_path / "spool.sqlite"
    coordinator = start_multispin("coordinator", "--bind", "tcp://127.0.0.1:*", "--meter", "none", "--store", store)
    agent = run_multispin(
        *("agent", "--coordinator", coordinator.wait_ready(), "--spool", spool, "--run-id", "r", "--max-tokens", 6),
        *("--agent-id", "ap-1", "--meter", f"replay:{tmp_path}/meter.csv,loop", "--idle-s", 0.1),
        stdin=json.dumps({"id": "sky", "prompt": "Why is the sky blue?"}) + "\n",
    )
    assert agent.status == 0, agent.stderr
    coordinator.popen.send_signal(signal.SIGTERM)
    assert coordinator.wait().status == 0
    with sqlite3.connect(store) as database:
        rows = database.execute("SELECT agent, kind, line FROM records WHERE run_id = 'r' ORDER BY sequence").fetchall()
    database.close()
    assert {row[0] for row in rows} == {"ap-1"}
    [request] = [json.loads(line) for _, kind, line in rows if kind == "RequestRecord"]
    rounds = [json.loads(line) for _, kind, line in rows if kind == "RoundRecord"]
    assert (request["id"], request["num_generated"]) == ("sky", 6)
    assert request["num_rounds"] == sum(not record["is_open"] for record in rounds)
    assert sum(record["energy_agent_j"] for record in rounds) == pytest.approx(request["energy_agent_j"], rel=1e-9)
    assert [kind for _, kind, _ in rows].count("EnergyRecord") == 1
    left = sqlite3.connect(spool)
    assert left.execute("SELECT count(*) FROM records").fetchone() == (0,)
    left.close()
