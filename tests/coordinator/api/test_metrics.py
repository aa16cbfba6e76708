"""/metrics at both ends: what is counted, in names that the dashboard asks for, in a format that Prometheus takes."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.toy_api import Loopback, play, until

from multispin_agent.api.collector import AgentCollector
from multispin_models.api import prometheus
from multispin_models.energy import Sampler
from multispin_models.energy.conditions import read_conditions
from multispin_models.energy.meter import MeterInfo, Rail, Reading

PROMTOOL = shutil.which("promtool", path=f"{os.environ['PATH']}:{Path(__file__).parents[3] / '.venv/bin'}")
DASHBOARD = Path(__file__).parents[3] / "coordinator/docs/grafana-dashboard.json"
PROMPT = {"prompt": [1, 2, 3], "max_tokens": 40, "temperature": 0.8, "seed": 5, "ignore_eos": True}
Samples = dict[tuple[str, tuple[str, ...]], float]


async def scrape(loopback: Loopback, *, at_coordinator: bool) -> tuple[str, Samples]:
    """Return the text, and values by name and values of labels."""
    loopback.at_coordinator = at_coordinator
    status, body = await loopback.ask("GET", "/metrics")
    assert status == 200
    text = body.decode()
    return text, {
        (sample.name.removeprefix("multispin:"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def play_requests(loopback: Loopback) -> None:
    """Have one text written at each end, and one refused client leave."""
    for loopback.at_coordinator in (False, True):
        assert (await loopback.ask("POST", "/v1/completions", PROMPT))[0] == 200
        _, writer = await loopback.send("POST", "/v1/completions", {**PROMPT, "max_tokens": 400, "stream": True})
        await until(lambda: loopback.coordinator.dispatcher.sessions, "it is served")
        writer.transport.abort()
        await until(loopback.is_idle, "it has left")


def with_scrapes(check: Callable[[str, Samples, str, Samples], None]) -> None:
    async def part(loopback: Loopback) -> None:
        await play_requests(loopback)
        check(*await scrape(loopback, at_coordinator=False), *await scrape(loopback, at_coordinator=True))

    play(part)


def test_what_both_ends_count_is_what_happened() -> None:
    def check(_: str, agent: Samples, __: str, coordinator: Samples) -> None:
        for end in (agent, coordinator):
            assert end["request_success_total", ("length",)] == 1
            assert end["request_failure_total", ("client_left",)] == 1
            assert end["generation_tokens_total", ()] == 40
            assert end["prompt_tokens_total", ()] == 3
            assert end["time_to_first_token_seconds_count", ()] == end["e2e_request_latency_seconds_count", ()] == 1
            assert end["num_requests_running", ()] == end["num_requests_waiting", ()] == 0
        drafted, accepted = (agent[f"spec_decode_num_{what}_tokens_total", ()] for what in ("draft", "accepted"))
        assert 0 < accepted < drafted
        # An Open is answered with a token, every draft with one more than was accepted.
        assert 1 + accepted + agent["spec_decode_num_drafts_total", ()] == pytest.approx(40, abs=1)
        assert coordinator["spec_decode_num_draft_tokens_total", ()] >= drafted, "the one that was left counts too"
        assert coordinator["committed_tokens_total", ("cooperative",)] >= 40
        assert coordinator["committed_tokens_total", ("alone",)] >= 40
        assert coordinator["agents_connected", ()] == 1
        assert coordinator["batch_rows_count", ()] == coordinator["verify_seconds_count", ()]
        assert coordinator["batch_rows_sum", ()] >= coordinator["batch_rows_count", ()]
        assert coordinator["unmetered_passes_total", ()] == coordinator["batch_rows_count", ()]
        assert coordinator["received_bytes_total", ()] >= agent["sent_bytes_total", ()] > 0

    with_scrapes(check)


def names_asked(dashboard: Any) -> set[str]:
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert all("multispin:" in expr for expr in exprs)
    return {name for expr in exprs for name in re.findall(r"multispin:[a-z0-9_]+", expr)}


def test_every_metric_of_the_dashboard_exists() -> None:
    def check(agent: str, _: Samples, coordinator: str, __: Samples) -> None:
        asked = names_asked(json.loads(DASHBOARD.read_text()))
        both = agent + coordinator
        told = {line.split(" ")[2] for line in both.splitlines() if line.startswith("# TYPE")}
        told |= {f"{name}_bucket" for name in told}
        # What only a machine with a meter tells.
        told |= {f"multispin:{name}_total" for name in ("energy_joules", "energy_gaps", "pass_energy_joules")}
        assert asked - told == set()
        assert len(asked) > 25

    with_scrapes(check)


def test_heat_and_throttling_are_told_where_the_machine_tells_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in (
        ("class/thermal/thermal_zone0/temp", "48312"),
        ("class/thermal/thermal_zone0/type", "cpu-thermal"),
        ("devices/platform/soc/soc:firmware/get_throttled", "50001"),
    ):
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text)
    monkeypatch.setattr(prometheus, "read_conditions", lambda when: read_conditions(when, tmp_path))
    machine = prometheus.MachineCollector()
    assert list(machine.collect()) == []
    asyncio.run(machine.look())
    degrees, flags, _ = machine.collect()
    assert [(sample.labels, sample.value) for sample in degrees.samples] == [({"zone": "cpu-thermal"}, 48.312)]
    assert {sample.labels["reason"]: sample.value for sample in flags.samples} == {
        "under-voltage": 1,
        "frequency capped": 0,
        "throttled": 0,
        "soft temperature limit": 0,
    }


def test_joules_are_counted_by_label_from_one_asking_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 0

    class Ramp:
        info = MeterInfo("ramp", "energy", "wall", "modelled", (Rail("all", in_total=True),))

        def read(self) -> Reading:
            return Reading(now_ns, (3.0 * now_ns / 1e9,))

        def close(self) -> None: ...

    monkeypatch.setattr("multispin_agent.api.collector.monotonic_ns", lambda: now_ns)
    sampler = Sampler(Ramp())
    sampler.read_now()
    collector = AgentCollector(sampler)
    for expected in (1.5, 3.0):
        now_ns += 500_000_000
        found = {metric.name: metric.samples for metric in collector.collect()}
        [joules] = found["multispin:energy_joules"]
        assert (joules.labels, joules.value) == ({"label": "modelled"}, pytest.approx(expected))
        assert found["multispin:energy_gaps"][0].value == 0


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: scripts/test-tools brings it where Debian's packages are")
def test_promtool_finds_nothing_but_the_colon_of_the_prefix() -> None:
    def check(agent: str, _: Samples, coordinator: str, __: Samples) -> None:
        for text in (agent, coordinator):
            assert PROMTOOL is not None
            done = subprocess.run(
                [PROMTOOL, "check", "metrics"], check=False, input=text, capture_output=True, text=True
            )
            said = (done.stdout + done.stderr).splitlines()
            assert done.returncode in {0, 3}, said  # 3: it read all and would name things otherwise
            assert [line for line in said if not line.endswith("metric names should not contain ':'")] == []

    with_scrapes(check)


def test_the_type_of_the_text_names_the_format() -> None:
    assert prometheus.CONTENT_TYPE.startswith("text/plain; version=0.0.4")
