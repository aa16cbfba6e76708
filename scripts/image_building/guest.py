"""A disk image that runs in qemu, emulated instruction by instruction: its command line, ssh into it, and waiting.

The guest sees this machine at 10.0.2.2, and with it everything that listens on loopback here. Two of the guest's ports
are reached at loopback: ssh, and the agent's HTTP interface.
"""

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from multispin_models.errors import ConfigError

__all__ = ["HOST", "Guest", "Machine", "qemu_command", "wait_until"]

HOST: Final = "10.0.2.2"  # this machine, as the guest sees it
HTTP_PORT: Final = 8080
SSH_OPTIONS: Final = (
    *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", "-o", "ServerAliveInterval=20"),
)


class Machine(NamedTuple):
    """What qemu is started with.

    Attributes:
        image: disk, which is written to.
        log: file for the serial console.
        ssh_port, http_port: on loopback here.
        cores: of the guest.
        memory_mb: of the guest.
        firmware: EFI firmware, which finds the boot loader on the disk; null to start `kernel` directly.
        kernel, initrd, command_line: for a start without firmware.
    """

    image: Path
    log: Path
    ssh_port: int
    http_port: int
    cores: int = 2
    memory_mb: int = 1024
    firmware: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    command_line: str = ""


def qemu_command(machine: Machine) -> list[str]:
    """Return the command line.

    The processor is one of armv8.2 with dot products, as a Raspberry Pi 5 has. (A Pi 4's is slower to emulate: its
    integer products take several instructions.)
    """
    forwards = f"hostfwd=tcp:127.0.0.1:{machine.ssh_port}-:22,hostfwd=tcp:127.0.0.1:{machine.http_port}-:{HTTP_PORT}"
    command = [
        *("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "cortex-a76", "-accel", "tcg,thread=multi"),
        *("-smp", str(machine.cores), "-m", str(machine.memory_mb), "-nodefaults", "-no-reboot"),
        *("-display", "none", "-monitor", "none", "-serial", f"file:{machine.log}"),
        *("-drive", f"file={machine.image},if=none,format=raw,id=disk", "-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=net,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci"),
    ]
    if machine.firmware is not None:
        return [*command, "-bios", str(machine.firmware)]
    return [
        *command,
        *("-kernel", str(machine.kernel), "-initrd", str(machine.initrd), "-append", machine.command_line),
    ]


def wait_until(what: str, is_so: Callable[[], bool], limit_s: float, every_s: float = 1.0) -> float:
    """Ask until the answer is yes; return how long that took, in seconds.

    Raises:
        ConfigError: it took too long.
    """
    start_s = time.monotonic()
    while not is_so():
        if time.monotonic() - start_s > limit_s:
            raise ConfigError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic() - start_s


class Guest:
    """A running guest.

    Args:
        machine: what it is.
        identity: private key for ssh, whose public key is on the boot partition.
    """

    def __init__(self, machine: Machine, identity: Path) -> None:
        self.machine = machine
        self._identity = identity
        self.start_s = time.monotonic()
        self._process = subprocess.Popen(qemu_command(machine), stdin=subprocess.DEVNULL)  # noqa: S603

    def is_running(self) -> bool:
        """Return whether qemu runs."""
        return self._process.poll() is None

    def try_ssh(self, command: str, stdin: str = "", limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root and return what became of it."""
        if not self.is_running():
            raise ConfigError(f"the guest has ended; its console: {self.machine.log}")
        port = str(self.machine.ssh_port)
        line = ["ssh", *SSH_OPTIONS, "-i", str(self._identity), "-p", port, "root@127.0.0.1", command]
        try:
            return subprocess.run(line, input=stdin, capture_output=True, text=True, check=False, timeout=limit_s)  # noqa: S603
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(line, 255, "", f"no answer within {limit_s:.0f} s")

    def ssh(self, command: str, stdin: str = "", limit_s: float = 300.0) -> str:
        """Run a shell command as root and return its output.

        Raises:
            ConfigError: it failed.
        """
        done = self.try_ssh(command, stdin, limit_s)
        if done.returncode:
            raise ConfigError(f"in the guest, {command[:200]}: status {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout.strip()

    def unit(self, *properties: str, unit: str = "multispin-agent.service") -> dict[str, str]:
        """Return properties of a unit."""
        wanted = shlex.quote(",".join(properties))
        lines = self.ssh(f"systemctl show {unit} --property={wanted}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def power_off(self, limit_s: float = 120.0) -> int:
        """Shut it down; return qemu's exit status."""
        self.try_ssh("systemctl --no-block poweroff")
        return self._process.wait(limit_s)

    def end(self) -> None:
        """End qemu, whatever it does."""
        if self.is_running():
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
