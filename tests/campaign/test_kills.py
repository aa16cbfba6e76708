"""A campaign of real processes (on the null engine) whose driver, coordinator and agents are killed as it runs.

MULTISPIN_KILLS=10 pytest tests/campaign/test_kills.py        more of them than the few of every day
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from multispin.campaign.collect import part_faults
from multispin.campaign.folder import completed_cells, read_events, read_schedule
from multispin.campaign.plan_command import schedule_of
from multispin.campaign.plan_file import read_plan
from tests.campaign.toys import PLAN

KILLS = int(os.environ.get("MULTISPIN_KILLS", "3"))
PATIENCE_S = 120.0
VICTIMS = ("driver", "coordinator", "agent")


def part_of(process: psutil.Process) -> str:
    """Return which part of a campaign a process is; "" if it is none or has gone."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    names = {"multispin.campaign.site_process": "coordinator", "multispin.bench.cooperate_agent": "agent"}
    return next((names[word] for word in words if word in names), "")


def start(plan: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as log_file:
        words = [sys.executable, "-m", "multispin", "campaign", "run", str(plan), "--out", str(out)]
        return subprocess.Popen(words, stdout=log_file, stderr=log_file)


def kill(driver: subprocess.Popen[bytes], victim: str) -> bool:
    """Kill one of its parts with SIGKILL; return whether one was there."""
    if victim == "driver":
        driver.kill()
        driver.wait()
        return True
    try:
        parts = psutil.Process(driver.pid).children(recursive=True)
    except psutil.Error:
        return False
    for part in parts:
        if part_of(part) == victim:
            os.kill(part.pid, signal.SIGKILL)
            return True
    return False


def survivors(seen: set[psutil.Process]) -> list[psutil.Process]:
    return [each for each in seen if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def wait_for(what: str, holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, f"waited in vain: {what}"
        time.sleep(0.02)


class Campaign:
    """One that is started again when its driver was killed.

    Attributes:
        seen: processes that drivers had started.
    """

    def __init__(self, plan: Path, out: Path, log: Path) -> None:
        self._words = plan, out, log
        self.out = out
        self.driver = start(plan, out, log)
        self.seen: set[psutil.Process] = set()

    def has_ended(self) -> bool:
        return self.driver.poll() is not None

    def kill(self, victim: str) -> bool:
        """Kill a part as soon as it is there; return false if all was done before."""
        if not self.has_ended():
            self.seen |= set(psutil.Process(self.driver.pid).children(recursive=True))
        wait_for(victim, lambda: self.has_ended() or kill(self.driver, victim))
        if victim != "driver":
            return not self.has_ended()
        wait_for("its processes to go along", lambda: not survivors(self.seen))
        self.driver = start(*self._words)
        return True

    def end(self) -> None:
        if not self.has_ended():
            self.driver.kill()
        self.driver.wait()


@pytest.mark.slow
def test_a_campaign_whose_parts_are_killed_completes_every_cell_once(tmp_path: Path, signing_key: Path) -> None:
    assert not signing_key.exists()
    plan, out, log = tmp_path / "toy.toml", tmp_path / "run", tmp_path / "log"
    # Starts of the processes take longer than cells: kills meet both.
    text = PLAN
    for old, new in (
        ("users = [1, 2]", "users = [1]"),
        ("copies = 2", "copies = 1"),
        ("attempts = 2", "attempts = 100"),
        ("max_tokens = [6]", "max_tokens = [24]"),
        ("blocks = 2", f"blocks = {KILLS}"),
    ):
        assert old in text
        text = text.replace(old, new)
    plan.write_text(text)
    planned = sorted(cell.cell_id for cell in schedule_of(read_plan(plan))[0].cells)
    moments = random.Random(7)
    campaign = Campaign(plan, out, log)
    killed: Counter[str] = Counter()
    try:
        for number in range(KILLS):
            there = len(completed_cells(out))
            # It gets somewhere between two kills, then it is hit anywhere within a cell, a write or a start.
            wait_for("a cell", partial(_is_further, campaign, there))
            time.sleep(moments.uniform(0.0, 1.5))
            victim = VICTIMS[number % 3]
            killed[victim] += campaign.kill(victim)
        assert campaign.driver.wait(PATIENCE_S) == 0, log.read_text()
    finally:
        campaign.end()
    assert sum(killed.values()) == KILLS, f"only {killed} were killed before all was done"
    assert completed_cells(out) == planned == sorted(cell.cell_id for cell in read_schedule(out).cells)
    told = Counter(event.cell_id for event in read_events(out) if event.event == "cell-completed")
    assert told == Counter(planned)
    assert part_faults(out) == []
    assert survivors(campaign.seen) == []


def _is_further(campaign: Campaign, there: int) -> bool:
    return len(completed_cells(campaign.out)) > there or campaign.has_ended()
