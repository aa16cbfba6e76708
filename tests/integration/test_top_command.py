"""`multispin top`: rates from two readings, and what is said of a daemon that does not answer."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from multispin.top_table import EndState, read_metrics, state_of, table

AGENT = """\
# TYPE multispin:num_requests_running gauge
multispin:num_requests_running 2.0
multispin:num_requests_waiting 1.0
multispin:generation_tokens_total {tokens}
multispin:time_to_first_token_seconds_bucket{{le="+Inf"}} 9
multispin:time_to_first_token_seconds_sum {tokens}
multispin:time_to_first_token_seconds_count 4
multispin:spec_decode_num_drafts_total 10
multispin:spec_decode_num_draft_tokens_total 40
multispin:spec_decode_num_accepted_tokens_total 30
multispin:temperature_celsius{{zone="a"}} 40
multispin:temperature_celsius{{zone="b"}} 55
multispin:energy_joules_total{{label="measured"}} {tokens}
"""
FIRST: dict[str, float] = {
    "num_requests_running": 0,
    "num_requests_waiting": 0,
    "generation_tokens_total": 100,
    "energy_joules_total": 100,
    "time_to_first_token_seconds_sum": 160,
    "time_to_first_token_seconds_count": 2,
}


def test_rates_and_means_are_those_between_two_readings() -> None:
    state = state_of("u", FIRST, read_metrics(AGENT.format(tokens=180)), 4.0)
    assert state == EndState(
        url="u",
        role="agent",
        num_running=2,
        num_waiting=1,
        tokens_per_s=20.0,
        ttft_s=10.0,
        acceptance_rate=0.75,
        mean_acceptance_length=4.0,
        power_w=20.0,
        temperature_c=55.0,
    )


def test_a_daemon_that_was_started_anew_counts_from_its_start() -> None:
    assert state_of("u", FIRST, read_metrics(AGENT.format(tokens=40)), 4.0).tokens_per_s == 10.0


def test_a_table_has_a_dash_for_what_is_not_known() -> None:
    head, row, other, error = table([EndState("u", role="agent", num_running=1), EndState("v", error="gone")])
    assert head.split()[:3] == ["at", "is", "served"]
    assert row.split() == ["u", "agent", "1", *["-"] * 9]
    assert other.split()[:3] == ["v", "no", "answer"]
    assert error == "v: gone"


@pytest.fixture
def daemon() -> Iterator[str]:
    """An end that has written 50 tokens more each time it is asked."""
    asked = iter(range(1000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["authorization"] == "Bearer the-first-key-of-all"
            body = AGENT.format(tokens=50 * next(asked)).encode() if known else b"nothing of interest"
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_command_reads_with_the_key_and_prints_one_object(
    run_multispin: Callable[..., Any], daemon: str, tmp_path: Any
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# keys\nthe-first-key-of-all\nanother\n")
    ran = run_multispin("top", "--once", "--json", "--interval", 0.2, "--http-keys-file", keys, f"{daemon}/v1")
    assert ran.status == 0, ran.stderr
    [end] = json.loads(ran.stdout)["ends"]
    assert (end["url"], end["role"]) == (daemon, "agent")
    assert 0 < end["tokens_per_s"] <= 250


def test_who_does_not_answer_or_tells_something_else_is_named(run_multispin: Callable[..., Any], daemon: str) -> None:
    ran = run_multispin("top", "--once", "--interval", 0.1, daemon, "http://127.0.0.1:1")
    assert ran.status == 1
    assert f"{daemon}: no metrics of multispin are told there" in ran.stdout
    assert "http://127.0.0.1:1: <urlopen error" in ran.stdout
    ran = run_multispin("top", "ftp://x")
    assert ran.status == 1
    assert "allowed is http://HOST:PORT" in ran.stderr
