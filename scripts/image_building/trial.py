"""Boots copies of a disk image in qemu beside a coordinator that is started here, and writes down what happens.

Each copy is a card of its own: flashed (copied), given a one-time token, started. On the first one the agent is asked
for texts, which are compared with the target's alone, is stopped dead, reloaded and stopped; the others show that no
two cards are the same. It takes minutes: every instruction of the guest is emulated.
"""

import json
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from image_building.disk import copy_to_boot, image_path
from image_building.guest import HOST, Guest, Machine, wait_until
from image_building.layout import COMMAND_LINE
from image_building.root import check_host, run
from image_building.trial_host import Host, ask, metrics
from multispin.supervised import free_port

__all__ = ["Trial", "try_disk"]

AGENT: Final = "multispin-agent.service"
BOOT_LIMIT_S: Final = 1200.0
STEP_LIMIT_S: Final = 600.0
PATIENCE: Final = "systemd.default_timeout_start_sec=900"  # of units: emulation on a busy machine is slow
PROMPTS: Final = (
    ("Give me a simple recipe for vegetable soup with potatoes, carrots and leeks.", 0.0),
    ("What are the three longest rivers in Europe?", 0.8),
)
SITE: Final = """\
http_listen = "0.0.0.0:8080"
http_keys_file = "credential:keys_http-keys"
"""


class Trial(NamedTuple):
    """What is tried.

    Attributes:
        disk: folder of `build_disk`.
        out: for copies, logs and result.json; made here.
        cards: how many copies are booted.
        tokens: of each text.
        cores: of the guest; more than are free here make it slower.
        grown_mib: by how much the card is larger than the image.
        firmware: EFI firmware to boot by; null to start the kernel directly.
        keep: keep the copies.
    """

    disk: Path
    out: Path
    cards: int
    tokens: int
    cores: int
    grown_mib: int
    firmware: Path | None
    keep: bool


def try_disk(trial: Trial) -> int:
    """Run the trial, print what was seen; return 0 if all was as it should be, 1 otherwise.

    Raises:
        ConfigError: something is missing here, or a step took too long.
    """
    check_host("arm64", ("qemu-system-aarch64", "mcopy", "ssh"))
    trial.out.mkdir(parents=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "trial", "-f", trial.out / "id")
    result: dict[str, object] = {"started": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())}
    with Host(trial.out / "host") as host:
        seen = [_one_card(trial, host, number, result) for number in range(1, trial.cards + 1)]
        result["fleet"] = host.fleet()
        result["keys"] = host.keys()
    result["cards"] = seen
    own = ("machine_id", "ssh_host_key", "hostname", "device", "public_key")
    shared = [name for name in own if len({card[name] for card in seen}) != len(seen)]
    result["shared_by_cards"] = shared
    result["no_token_is_left"] = all(card["tokens_left"] == "0" for card in seen)
    result["keys_are_roots"] = all(card["key_mode"] == "600 root" for card in seen)
    result["no_unit_failed"] = not any(card["failed_units"] for card in seen)
    result["all_powered_off"] = all(card["qemu_status"] == "0" for card in seen)
    checks = {name: value for name, value in result.items() if isinstance(value, bool)}
    (trial.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    wrong = [name for name, value in checks.items() if not value] + [f"shared: {name}" for name in shared]
    _say(f"{len(checks)} checks, not as they should be: {', '.join(wrong) or 'none'}; {trial.out / 'result.json'}")
    return int(bool(wrong))


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _machine(trial: Trial, number: int) -> Machine:
    image = trial.out / f"card-{number}.img"
    shutil.copyfile(image_path(trial.disk, "arm64"), image)
    with image.open("r+b") as file:
        file.truncate(image.stat().st_size + (trial.grown_mib << 20))
    machine = Machine(image, trial.out / f"card-{number}.console", free_port(), free_port(), trial.cores)
    if trial.firmware is not None:
        return machine._replace(firmware=trial.firmware)
    root_uuid = json.loads((trial.disk / "image.json").read_text(encoding="utf-8"))["root_uuid"]
    line = f"root=PARTUUID={root_uuid} {COMMAND_LINE} {PATIENCE}"
    return machine._replace(kernel=trial.disk / "vmlinuz", initrd=trial.disk / "initrd.img", command_line=line)


def _one_card(trial: Trial, host: Host, number: int, result: dict[str, object]) -> dict[str, str]:
    device = f"trial-{number}"
    machine = _machine(trial, number)
    token, login = trial.out / "enrolment-token", trial.out / "authorized_keys-of-the-trial"
    token.write_text(host.token(device, HOST) + "\n", encoding="utf-8")
    shutil.copyfile(trial.out / "id.pub", login)
    copy_to_boot(machine.image, [token, login], "::/multispin")
    token.unlink()
    guest = Guest(machine, trial.out / "id")
    try:
        _say(f"card {number} starts; console: {machine.log}")
        seconds = _booted(guest)
        _say(f"card {number}: agent ready {seconds:.0f} s after power-on")
        card = _identity(guest, device)
        card["ready_s"] = f"{seconds:.1f}"
        _journal(guest, trial.out / f"card-{number}.journal")
        if number == 1:
            wait_until("the box in the fleet", lambda: device in json.dumps(host.fleet()), 120.0)
            _first_card(trial, guest, host, result)
            _journal(guest, trial.out / f"card-{number}.journal")
        card["qemu_status"] = str(guest.power_off())
        return card
    finally:
        guest.end()
        if not trial.keep:
            machine.image.unlink()


def _is_active(guest: Guest) -> bool:
    done = guest.try_ssh(f"systemctl is-active {AGENT}", limit_s=90.0)
    return done.stdout.strip() == "active"


def _booted(guest: Guest) -> float:
    """Wait for the agent; return how long it took since power-on, as systemd in the guest has seen it."""
    wait_until("ssh to the guest", lambda: guest.try_ssh("true", limit_s=90.0).returncode == 0, BOOT_LIMIT_S, 5.0)
    wait_until("the agent's readiness", lambda: _is_active(guest), BOOT_LIMIT_S, 3.0)
    return int(guest.unit("ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]) / 1e6


def _identity(guest: Guest, device: str) -> dict[str, str]:
    """Return what must be this card's alone, and what the card is."""
    return {
        "device": device,
        "enrolled": guest.ssh("cat /etc/multispin/keys/enrolled.json"),
        "public_key": guest.ssh("grep public-key /etc/multispin/keys/agent.key_secret"),
        "machine_id": guest.ssh("cat /etc/machine-id"),
        "hostname": guest.ssh("hostname"),
        "ssh_host_key": guest.ssh("cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub"),
        "tokens_left": guest.ssh("find /boot/efi /etc/multispin -name '*enrolment-token*' | wc -l"),
        "key_mode": guest.ssh("stat -c '%a %U' /etc/multispin/keys/agent.key_secret"),
        "root_size": guest.ssh("df -h --output=size,avail / | tail -n 1"),
        "kernel": guest.ssh("uname -srm"),
        "versions": guest.ssh("systemctl --version | head -n 1; /opt/multispin-agent/bin/python3 --version"),
        "package": guest.ssh("dpkg-query --show multispin-agent"),
        "failed_units": guest.ssh("systemctl --failed --plain --no-legend"),
        "user": guest.ssh(f"ps -o user= -p $(systemctl show {AGENT} --property=MainPID --value)"),
        "boot": guest.ssh("systemd-analyze time || true"),
    }


def _journal(guest: Guest, out: Path) -> None:
    out.write_text(guest.ssh("journalctl --no-pager -o short-monotonic -u 'multispin-*'") + "\n", encoding="utf-8")


def _first_card(trial: Trial, guest: Guest, host: Host, result: dict[str, object]) -> None:
    key = secrets.token_hex(24)
    guest.ssh("umask 077; cat > /etc/multispin/keys/http-keys", stdin=f"{key}\n")
    guest.ssh("cat > /etc/multispin/agent.toml.d/60-trial.toml", stdin=SITE)
    guest.ssh(f"systemctl restart {AGENT}", limit_s=STEP_LIMIT_S)
    url = f"http://127.0.0.1:{guest.machine.http_port}"

    before = metrics(url, key)
    texts = [_same_text(url, key, host, prompt, temperature, trial.tokens) for prompt, temperature in PROMPTS]
    after = metrics(url, key)
    result["texts"] = texts
    result["same_texts"] = all(text["agent"] == text["target"] for text in texts)
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    result["drafts"] = {name: after[name] - before.get(name, 0.0) for name in names}
    result["drafts_at_coordinator"] = {name: host.metrics()[name] for name in names}
    result["some_accepted"] = after["num_accepted_tokens"] > before.get("num_accepted_tokens", 0.0)
    for text in texts:
        is_same = text["agent"] == text["target"]
        _say(f"T = {text['temperature']}: {text['seconds']} s; same as the target alone: {is_same}")
    _say(f"drafts: {result['drafts']}")

    _watchdog(guest, result)
    again = _same_text(url, key, host, *PROMPTS[0], trial.tokens)
    result["same_text_after_the_watchdog"] = again["agent"] == again["target"] == texts[0]["agent"]
    _reload(guest, result)
    _stop(guest, result)


def _same_text(url: str, key: str, host: Host, prompt: str, temperature: float, tokens: int) -> dict[str, object]:
    started_s = time.monotonic()
    agent = ask(url, key, prompt, temperature, tokens)
    seconds = time.monotonic() - started_s
    target = ask(host.url, None, prompt, temperature, tokens)
    return {
        "prompt": prompt,
        "temperature": temperature,
        "seconds": round(seconds, 1),
        "agent": agent,
        "target": target,
    }


def _watchdog(guest: Guest, result: dict[str, object]) -> None:
    """Stop the agent dead and wait until the watchdog has killed it and it serves again."""
    restarts = int(guest.unit("NRestarts")["NRestarts"])
    guest.ssh(f"systemctl kill --kill-whom=main --signal=STOP {AGENT}")
    stopped_s = time.monotonic()

    def is_back() -> bool:
        unit = guest.unit("NRestarts", "ActiveState")
        return int(unit["NRestarts"]) > restarts and unit["ActiveState"] == "active"

    wait_until("the restart by the watchdog", is_back, STEP_LIMIT_S)
    result["watchdog_back_after_s"] = round(time.monotonic() - stopped_s, 1)
    lines = guest.ssh(f"journalctl --no-pager -o short-monotonic -u {AGENT} | grep -iE 'watchdog|Scheduled restart'")
    result["watchdog_journal"] = lines.splitlines()
    result["killed_by_the_watchdog"] = "Watchdog timeout" in lines
    _say(f"SIGSTOP: active again after {result['watchdog_back_after_s']} s")


def _reload(guest: Guest, result: dict[str, object]) -> None:
    pid = guest.unit("MainPID")["MainPID"]
    guest.ssh("echo 'num_draft_tokens = 2' > /etc/multispin/agent.toml.d/70-reload.toml")
    guest.ssh(f"systemctl reload {AGENT}")

    def said() -> str:
        return guest.ssh(f"journalctl --no-pager -o cat -u {AGENT} | grep reload: || true")

    wait_until("what is said of the reload", lambda: "reload:" in said(), 60.0)
    result["reload_journal"] = said().splitlines()
    result["reloaded"] = "changed num_draft_tokens" in said() and guest.unit("MainPID")["MainPID"] == pid
    _say(f"reload: {said()}")


def _stop(guest: Guest, result: dict[str, object]) -> None:
    """Stop the service; the time is that between the manager's two lines in the guest's journal."""
    guest.ssh(f"systemctl stop {AGENT}")
    lines = guest.ssh(f"journalctl --no-pager -o short-monotonic -u {AGENT} | grep -E '(Stopping|Stopped) {AGENT}'")
    start_s, end_s = (float(line.removeprefix("[").split("]")[0]) for line in lines.splitlines()[-2:])
    result["stop_s"] = round(end_s - start_s, 2)
    result["stop_result"] = guest.unit("Result", "ActiveState")
    result["stopped_within_5_s"] = end_s - start_s < 5.0 and result["stop_result"] == {
        "Result": "success",
        "ActiveState": "inactive",
    }
    _say(f"stop: {result['stop_s']} s, {result['stop_result']}")
