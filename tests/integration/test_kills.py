"""SIGKILL in the middle of a run: no request is lost, no token is different, and no process is left behind."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from multispin_models.prompts import JobDefaults
from multispin_models.records import RequestRecord, RoundRecord, read_jsonl

pytestmark = pytest.mark.model

NUM_AGENTS = 2
MAX_TOKENS = 32
SUBJECTS = ("the sea", "bread", "a bicycle", "winter", "the moon", "a library", "rain", "an old clock")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two requests in three are drawn at temperature 0.8, none ends early."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [
        {"id": f"p{n}", "prompt": f"Write about {subject}.", "temperature": 0.8 if n % 3 else 0.0, "seed": n}
        for n, subject in enumerate(SUBJECTS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def expected(prompts: Path, target_alone: Any) -> dict[str, list[int]]:
    return target_alone.of_file(prompts, JobDefaults(max_tokens=MAX_TOKENS, ignore_end=True))


class Driver:
    """A `multispin local` that runs, and what it has recorded so far."""

    def __init__(self, start_multispin: Callable[..., Any], prompts: Path, out: Path) -> None:
        self.out = out
        self.process = start_multispin(
            *("local", "--agents", NUM_AGENTS, "--policy", "fixed", "--prompts", prompts, "--out", out, "--json"),
            *("--max-tokens", MAX_TOKENS, "--ignore-end"),
        )

    def num_recorded(self, agent: str = "*") -> int:
        return sum(path.read_bytes().count(b"\n") for path in self.out.glob(f"{agent}/requests.jsonl"))

    def log(self, name: str) -> str:
        path = self.out / ("coordinator.log" if name == "coordinator" else f"{name}/{name.partition('-')[0]}.log")
        return path.read_text() if path.exists() else ""

    def daemon(self, name: str) -> psutil.Process | None:
        return self.process.daemons().get(name)

    def kill(self, name: str) -> psutil.Process:
        """SIGKILL a daemon while requests are still to be served."""
        daemon = self.daemon(name)
        assert daemon is not None, f"{name} does not run: {self.process.stderr}"
        daemon.kill()
        assert self.num_recorded() < len(SUBJECTS), "the run was over before the kill"
        return daemon


@pytest.fixture
def driver(start_multispin: Callable[..., Any], prompts: Path, tmp_path: Path, target_alone: Any) -> Driver:
    return Driver(start_multispin, prompts, tmp_path / "run")


def assert_nothing_lost(driver: Driver, expected: dict[str, list[int]]) -> list[RequestRecord]:
    ran = driver.process.wait()
    assert ran.status == 0, ran.stderr
    assert ran.summary["completed"] == len(SUBJECTS)
    assert ran.token_ids == expected
    records = read_jsonl(driver.out / "requests.jsonl", RequestRecord).records
    rounds = read_jsonl(driver.out / "rounds.jsonl", RoundRecord).records
    assert [record.id for record in records] == list(expected)
    for record in records:  # rounds of a request that was begun and served again are not counted twice
        own = [r for r in rounds if r.wire_request_id == record.wire_request_id]
        assert sum(r.num_accepted + 1 for r in own) == record.num_generated
    assert {r.wire_request_id for r in rounds} == {record.wire_request_id for record in records}
    return records


def test_an_agent_that_is_killed_goes_on_with_the_rest(
    driver: Driver, expected: dict[str, list[int]], wait_until: Callable[..., None]
) -> None:
    wait_until("a record of agent-0", lambda: driver.num_recorded("agent-0") >= 1)
    driver.kill("agent-0")
    assert_nothing_lost(driver, expected)
    assert driver.log("agent-0").count("requests, ") == 2
    assert "4 requests, 0 of them done before" in driver.log("agent-0")
    assert driver.log("coordinator").count(" joined, version") == NUM_AGENTS + 1


def test_a_coordinator_that_is_killed_twice_is_resumed_from_the_committed_tokens(
    driver: Driver, expected: dict[str, list[int]], wait_until: Callable[..., None]
) -> None:
    wait_until("a record", lambda: driver.num_recorded() >= 1)
    first = driver.kill("coordinator")
    before = driver.num_recorded()
    wait_until("a record by the second coordinator", lambda: driver.num_recorded() > before)
    second = driver.kill("coordinator")
    assert second.pid != first.pid
    records = assert_nothing_lost(driver, expected)
    assert sum(record.num_reopens for record in records) >= 2
    assert driver.log("coordinator").count("probing roll-back") == 3


def test_all_daemons_killed_at_once_lose_nothing(
    driver: Driver, expected: dict[str, list[int]], wait_until: Callable[..., None]
) -> None:
    wait_until("a record", lambda: driver.num_recorded() >= 1)
    for name in ("agent-1", "coordinator", "agent-0"):
        driver.kill(name)
    assert_nothing_lost(driver, expected)


def test_a_coordinator_killed_before_it_serves_is_a_clear_failure(
    driver: Driver, wait_until: Callable[..., None]
) -> None:
    wait_until("the coordinator loads", lambda: "settings" in driver.log("coordinator"))
    driver.kill("coordinator")
    ran = driver.process.wait()
    assert ran.status == 1
    assert "multispin local: coordinator ended before it was ready" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_agent_that_cannot_be_kept_alive_ends_the_run_with_its_log(
    driver: Driver, wait_until: Callable[..., None]
) -> None:
    wait_until("the agents", lambda: driver.daemon("agent-0"))
    while driver.process.popen.poll() is None:
        agent = driver.daemon("agent-0")
        if agent is not None and "python" in agent.name():
            agent.kill()
            wait_until("its end", lambda agent=agent: not agent.is_running() or agent.status() == "zombie")
    ran = driver.process.wait()
    assert ran.status == 1
    assert "agent 0 died 21 times" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_no_process_outlives_the_driver(
    driver: Driver, wait_until: Callable[..., None], is_alive: Callable[[psutil.Process], bool], number: signal.Signals
) -> None:
    wait_until("a record", lambda: driver.num_recorded() >= 1)
    daemons = driver.process.daemons()
    assert set(daemons) == {"coordinator", "agent-0", "agent-1"}
    driver.process.popen.send_signal(number)
    ran = driver.process.wait(20)
    wait_until("the end of the daemons", lambda: not any(map(is_alive, daemons.values())), 20)
    assert ran.status == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["coordinator", "agent-0"])
def test_a_daemon_whose_driver_dies_while_it_starts_ends_too(
    driver: Driver, wait_until: Callable[..., None], is_alive: Callable[[psutil.Process], bool], name: str
) -> None:
    wait_until("the daemon's process", lambda: driver.daemon(name))
    daemons = driver.process.daemons()
    driver.process.popen.kill()
    driver.process.wait()
    wait_until("the end of the daemons", lambda: not any(map(is_alive, daemons.values())), 20)
