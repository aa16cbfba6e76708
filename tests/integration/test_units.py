"""The unit files: how exposed systemd finds them, that it understands every line, and that what they name is there."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import multispin_agent.config
import multispin_coordinator.config
from multispin_models.settings import load_settings

ROOT = Path(__file__).parents[2]
PARTS = ("agent", "coordinator")
ANALYZE = shutil.which("systemd-analyze")
needs_analyze = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not here (Debian: apt install systemd): units were not judged"
)


def unit(part: str) -> Path:
    return ROOT / part / f"multispin-{part}.service"


def settings(part: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit(part).read_text().splitlines():
        if match := re.match(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@needs_analyze
@pytest.mark.parametrize("part", PARTS)
def test_systemd_finds_the_exposure_at_most_2(part: str) -> None:
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--no-pager", "--threshold=20", unit(part)],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level, done.stdout + done.stderr
    assert done.returncode == 0
    assert float(level[1]) <= 2.0


ENROL = ROOT / "agent/multispin-agent-enrol.service"
FIRST_BOOT = ROOT / "scripts/image_building/multispin-first-boot.service"


@needs_analyze
@pytest.mark.parametrize("path", [unit("agent"), unit("coordinator"), ENROL, FIRST_BOOT], ids=lambda path: path.stem)
def test_systemd_understands_every_line(path: Path, tmp_path: Path) -> None:
    # The programs are where the package puts them, so here another one stands for them.
    text = re.sub(r"^(Exec\w+=[+-]*)/opt/\S+", rf"\1{sys.executable}", path.read_text(), flags=re.MULTILINE)
    (tmp_path / path.name).write_text(text)
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", "--recursive-errors=no", tmp_path / path.name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_what_enrols_has_no_more_rights_than_it_needs() -> None:
    """It is root's, for keys that only root may write; its exposure is kept low all the same."""
    done = subprocess.run(
        [str(ANALYZE), "security", "--offline=true", "--no-pager", "--threshold=40", ENROL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-200:]


def test_a_token_enrols_before_the_agent_starts() -> None:
    agent, enrol = unit("agent").read_text(), ENROL.read_text()
    for dependency in ("Wants", "After"):
        [line] = re.findall(rf"^{dependency}=(.*)$", agent, flags=re.MULTILINE)
        assert ENROL.name in line.split()
    # The settings that it writes are for the agent too, which is another user: seen to fail with 0077.
    assert "UMask=0022" in enrol.splitlines()
    # Where the first-boot folder and the token lie must be the same for all who look there.
    for folder in ("/boot/firmware/multispin", "/boot/efi/multispin"):
        assert f"ConditionPathExists=|{folder}/enrolment-token" in enrol
        assert folder in FIRST_BOOT.read_text()


@pytest.mark.parametrize("part", PARTS)
def test_what_a_service_needs_is_said(part: str) -> None:
    found = settings(part)
    assert found["Type"] == ["notify"]
    assert found["ExecStart"] == [f"/opt/multispin-{part}/bin/multispin {part} --config /etc/multispin/{part}.toml"]
    assert found["TimeoutStopSec"] == ["5s"]
    assert found["LoadCredential"] == ["keys:/etc/multispin/keys"]
    assert found["StateDirectory"] == found["CacheDirectory"] == [f"multispin-{part}"]


def test_the_coordinator_may_ask_for_the_names_of_interfaces() -> None:
    """Without AF_NETLINK libzmq ends the process when it binds (seen in a container with systemd 252)."""
    assert "AF_NETLINK" in settings("coordinator")["RestrictAddressFamilies"][0].split()


@pytest.mark.parametrize("part", PARTS)
def test_the_settings_of_the_package_are_valid_and_keep_state_where_the_unit_lets_them(part: str) -> None:
    kind = {"agent": multispin_agent.config.Config, "coordinator": multispin_coordinator.config.Config}[part]
    path = ROOT / part / f"{part}.toml"
    load_settings(kind, path)
    file = tomllib.loads(path.read_text())
    assert file[{"agent": "spool", "coordinator": "store"}[part]].startswith(f"/var/lib/multispin-{part}/")


def test_the_coordinators_settings_with_keys_are_valid_too(tmp_path: Path) -> None:
    """What stands there as a comment, to be taken in after `multispin keys create`."""
    text = (ROOT / "coordinator/coordinator.toml").read_text()
    before, _, after = text.partition("# After `multispin keys create`:\n")
    before = before.replace('bind = "tcp://127', '# bind = "tcp://127')
    (tmp_path / "c.toml").write_text(before + after.replace("# ", ""))
    config = load_settings(multispin_coordinator.config.Config, tmp_path / "c.toml")
    assert config.bind == "tcp://0.0.0.0:5599"
    assert config.security.enrol_bind == "tcp://0.0.0.0:5598"
