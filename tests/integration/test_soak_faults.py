"""The short form of `scripts/soak --faults`: real processes and models, half a minute of faults, and going on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.integration.test_bench_records import CAN_MOUNT

import multispin
from multispin.faults.figures import LegFigures
from multispin.faults.kinds import KINDS
from multispin.faults.site import find_faketime

pytestmark = pytest.mark.model

PROMPTS = Path(multispin.__file__).parent / "prompts" / "faults.jsonl"


def soak(out: Path, faults: int, *flags: object, agents: int = 2) -> list[str]:
    return [
        *(sys.executable, "-m", "multispin.soak", "--faults", str(faults), "--agents", str(agents), "--users", "3"),
        *("--prompts", str(PROMPTS), "--limit", "4", "--max-tokens", "12", "--ignore-end", "--out", str(out)),
        *("--max-context-tokens", "128", "--pause-s", "0.25", *map(str, flags)),
    ]


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="needs unshare(1) and the right to make a mount namespace")
def test_nothing_is_lost_stuck_or_different_whatever_fails_and_a_run_goes_on_where_it_was(
    tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    out = tmp_path / "faults"
    first = subprocess.Popen(soak(out, 40, "--fault-seed", 11), stdout=subprocess.PIPE, text=True)
    journal = out / "leg-1" / "faults.jsonl"
    wait_until("some faults", lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 10, 150.0)
    first.send_signal(signal.SIGINT)
    told, _ = first.communicate(timeout=150)
    assert first.returncode == 130, told
    [leg] = legs(out)
    done = subprocess.run(
        soak(out, leg.num_faults + 2, "--without", "coordinator-kill,agent-kill", agents=1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as promised" in done.stdout
    assert [len(each.daemons) for each in legs(out)] == [3, 2]
    assert all(each.num_requests > 0 for each in legs(out))
    for kind in KINDS:
        assert f"\n{kind.name} " in done.stdout
    assert ("not tried: clock steps" in done.stdout) == (find_faketime() is None)


def legs(out: Path) -> list[LegFigures]:
    return [msgspec.json.decode(path.read_bytes(), type=LegFigures) for path in sorted(out.glob("leg-*/leg.json"))]


def test_flags_that_cannot_be_are_named() -> None:
    for flags, said in (
        (("--without", "earthquake"), "--without names earthquake, allowed are cut, "),
        (("--agents", 0), "--agents is 0, allowed is 1 or more"),
    ):
        ran = subprocess.run(soak(Path(os.devnull), 5, *flags), capture_output=True, text=True, check=False)
        assert ran.returncode == 1
        assert said in ran.stderr
