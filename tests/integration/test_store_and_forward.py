"""Records from an agent's daemon to a coordinator's, over the wire that drafts take."""

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from multispin_models.records import RequestRecord, decode_line
from multispin_models.records.checking import check_records

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
        own = database.execute("SELECT kind FROM records WHERE agent = '' ORDER BY sequence").fetchall()
    database.close()
    assert [kind for (kind,) in own] == ["EndRecord", "ConditionsRecord", "ConditionsRecord"]  # it has no meter
    assert {row[0] for row in rows} == {"ap-1"}
    [request] = [json.loads(line) for _, kind, line in rows if kind == "RequestRecord"]
    rounds = [json.loads(line) for _, kind, line in rows if kind == "RoundRecord"]
    assert (request["id"], request["num_generated"]) == ("sky", 6)
    assert request["num_rounds"] == sum(not record["is_open"] for record in rounds)
    assert sum(record["energy_agent_j"] for record in rounds) == pytest.approx(request["energy_agent_j"], rel=1e-9)
    assert [kind for _, kind, _ in rows].count("EnergyRecord") == 1
    [end] = [json.loads(line) for _, kind, line in rows if kind == "EndRecord"]
    assert (end["end"], end["meter"]["name"][:7], end["notes"]["exclusions"]) == ("agent:ap-1", "replay:", [])
    states = [json.loads(line)["conditions"]["when"] for _, kind, line in rows if kind == "ConditionsRecord"]
    assert (states[0], states[-1]) == ("before", "after")
    left = sqlite3.connect(spool)
    assert left.execute("SELECT count(*) FROM records").fetchone() == (0,)
    left.close()


def test_what_users_ask_over_http_is_recorded_without_their_words(
    start_multispin: Callable[..., Any], tmp_path: Path, target_alone: Any
) -> None:
    (tmp_path / "meter.csv").write_text("t_s,power_w\n0,4.0\n2.0,4.5\n")
    store = tmp_path / "store.sqlite"
    coordinator = start_multispin("coordinator", "--bind", "tcp://127.0.0.1:*", "--meter", "none", "--store", store)
    agent = start_multispin(
        *("agent", "--coordinator", coordinator.wait_ready(), "--http-listen", "127.0.0.1:0", "--draft", "lookup"),
        *("--spool", tmp_path / "spool.sqlite", "--run-id", "r", "--agent-id", "ap-1"),
        *("--meter", f"replay:{tmp_path}/meter.csv,loop", "--idle-s", 0.1),
    )
    url = agent.wait_ready().strip()
    asked = {"prompt": "Why is the sky blue?", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    post = Request(f"{url}/v1/completions", json.dumps(asked).encode(), {"content-type": "application/json"})
    with urlopen(post, timeout=60) as got:
        text = json.load(got)["choices"][0]["text"]
    for daemon in (agent, coordinator):
        daemon.popen.send_signal(signal.SIGTERM)
        assert daemon.wait().status == 0
    with sqlite3.connect(store) as database:
        rows = database.execute("SELECT kind, line FROM records WHERE run_id = 'r' ORDER BY sequence").fetchall()
    database.close()
    [request] = [decode_line(kind, line) for kind, line in rows if kind == "RequestRecord"]
    assert isinstance(request, RequestRecord)
    assert (request.num_generated, request.text, request.token_ids) == (6, "", ())
    assert text
    assert not any(text.encode() in line for _, line in rows)
    assert [kind for kind, _ in rows if kind != "RoundRecord"] == [
        *("EndRecord", "ConditionsRecord", "RequestRecord", "ConditionsRecord", "EnergyRecord")
    ]
    assert list(check_records(decode_line(kind, line) for kind, line in rows)) == []  # joules too: shares and the rest
