"""Under what conditions a figure was measured: clocks, heat, throttling, power mode, links, load.

    with ConditionsLog(write, interval_s=10.0):     # before, every ten seconds, after
        ...

Everything is what the kernel or the firmware says at that instant; what is not there is null or empty. A file that is
there and cannot be read is named in `faults`.

Source: Linux Documentation/ABI/testing/sysfs-devices-system-cpu (cpufreq, in kHz), driver-api/thermal/sysfs-api.rst
(millidegrees), hwmon/sysfs-interface.rst (fan, pwm), networking/statistics.rst and wireless extensions
(/proc/net/wireless), filesystems/proc.rst; Raspberry Pi documentation, vcgencmd get_throttled; NVIDIA Jetson Linux
Developer Guide (nvpmodel, over-current events); `iw` for the bit rate of Wi-Fi.
"""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import msgspec

from multispin_models.clock import monotonic_ns, wall_time
from multispin_models.energy.pmic import firmware
from multispin_models.energy.sysfs import hwmon_chips, numbered, read_number, read_optional
from multispin_models.errors import SensorAbsent, SensorError

__all__ = [
    "THROTTLE_BITS",
    "Conditions",
    "ConditionsLog",
    "Link",
    "read_conditions",
    "read_temperatures",
    "throttle_flags",
]

When = Literal["before", "during", "after"]

THROTTLE_BITS: Final = {
    0: "under-voltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since boot",
    17: "frequency capped since boot",
    18: "throttled since boot",
    19: "soft temperature limit since boot",
}
"""What the bits of a Raspberry Pi's get_throttled mean."""

_THROTTLED = re.compile(r"^throttled=0x([0-9a-fA-F]+)$", re.MULTILINE)  # by the firmware; the kernel's file is bare
_FIRMWARE_FILES = "sys/devices/platform/soc*/*firmware*/get_throttled"
_WIRELESS = re.compile(r"^\s*(\S+):\s+\S+\s+(-?[\d.]+)\s+(-?[\d.]+)(?:\s+\S+){4}\s+(\d+)", re.MULTILINE)
_BIT_RATE = re.compile(r"tx bitrate:\s*([\d.]+)\s*MBit/s")
_POWER_MODE = re.compile(r"pmode:(\d+)")
_TIMEOUT_S = 2.0


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network interface that is up.

    Attributes:
        name: of the interface.
        rate_bps: bit rate now; null if it is not told.
        rssi_dbm: received signal strength; null if it is no Wi-Fi.
        quality: link quality as the driver counts it; null likewise.
        retries: packets given up after too many tries, counted by the driver since it was loaded; null likewise.
    """

    name: str
    rate_bps: float | None
    rssi_dbm: float | None
    quality: float | None
    retries: int | None = None


class Conditions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a machine at one instant.

    Attributes:
        when: before, during or after what was measured.
        t_ns: monotonic.
        wall: UTC wall time, ISO 8601.
        governors: of the processor's cores, in their order; empty where frequencies are not the kernel's.
        frequencies_hz, max_frequencies_hz: of the cores now, and the limit that is set now; null for one not told.
        temperatures_c: of every thermal zone, by its name; null for one that is off (a GPU asleep).
        fans_rpm: of every fan, by chip and number.
        fans_pwm: of every fan's drive, from 0 to 1.
        cooling: of every cooling device that is throttling or blowing: its state, above 0.
        throttled: a Raspberry Pi's flags in words; null on other machines.
        throttle_events: counters since boot, by name: over-current of a Jetson, thermal throttling of x86 cores.
        power_mode: number and name of the Jetson's nvpmodel; null on other machines. Its watts are caps on clocks.
        links: interfaces that are up, the loopback left out.
        load_1min: run-queue length, mean of a minute.
        machine_busy_s: core-seconds that the machine has worked since boot; null if it is not told.
        own_busy_s: core-seconds of this process and of its children that have ended.
        available_memory_bytes: null if it is not told.
        faults: what is there and could not be read.
    """

    when: When
    t_ns: int
    wall: str
    governors: tuple[str, ...]
    frequencies_hz: tuple[float | None, ...]
    max_frequencies_hz: tuple[float | None, ...]
    temperatures_c: dict[str, float | None]
    fans_rpm: dict[str, float | None]
    fans_pwm: dict[str, float | None]
    cooling: dict[str, float]
    throttled: tuple[str, ...] | None
    throttle_events: dict[str, int]
    power_mode: str | None
    links: tuple[Link, ...]
    load_1min: float | None
    machine_busy_s: float | None
    own_busy_s: float
    available_memory_bytes: int | None
    faults: tuple[str, ...]


def read_conditions(when: When, root: Path = Path("/")) -> Conditions:
    """Return the conditions now.

    Args:
        when: as it shall stand in the record.
        root: of the file system, or of a recorded board.
    """
    look = _Look(root)
    times = os.times()
    fans_rpm, fans_pwm = look.fans()
    frequencies, limits = look.frequencies("scaling_cur_freq"), look.frequencies("scaling_max_freq")
    return Conditions(
        when=when,
        t_ns=monotonic_ns(),
        wall=wall_time(),
        governors=tuple(filter(None, (read_optional(core / "scaling_governor") for core in look.cores))),
        frequencies_hz=frequencies,
        max_frequencies_hz=limits,
        temperatures_c=look.temperatures(),
        fans_rpm=fans_rpm,
        fans_pwm=fans_pwm,
        cooling=look.cooling(),
        throttled=look.throttled(),
        throttle_events=look.throttle_events(),
        power_mode=look.power_mode(),
        links=look.links(),
        load_1min=look.load(),
        machine_busy_s=look.busy(),
        own_busy_s=times.user + times.system + times.children_user + times.children_system,
        available_memory_bytes=look.memory(),
        faults=tuple(look.faults),
    )


def read_temperatures(root: Path = Path("/")) -> dict[str, float | None]:
    """Return the temperature of every thermal zone now, as in `Conditions`; of all conditions the cheapest to read."""
    return _Look(root).temperatures()


def throttle_flags(bits: int) -> tuple[str, ...]:
    """Return the flags of a Raspberry Pi's get_throttled in words.

    >>> throttle_flags(0x50001)
    ('under-voltage', 'under-voltage since boot', 'throttled since boot')
    """
    return tuple(name for bit, name in THROTTLE_BITS.items() if bits >> bit & 1)


class ConditionsLog:
    """Hands out the conditions before, every so often, and after.

    Args:
        write: takes each; called from this object's thread, too, but never twice at once.
        interval_s: between those during.
        root: as in `read_conditions`.
        wait: returns true to end the thread, after at most so many seconds; tests give their own.
    """

    def __init__(
        self,
        write: Callable[[Conditions], None],
        interval_s: float = 10.0,
        root: Path = Path("/"),
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._write = write
        self._interval_s = interval_s
        self._root = root
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._thread = threading.Thread(target=self._run, name="conditions", daemon=True)

    def __enter__(self) -> Self:
        self._write(read_conditions("before", self._root))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._write(read_conditions("after", self._root))

    def _run(self) -> None:
        while not self._wait(self._interval_s):
            self._write(read_conditions("during", self._root))


class _Look:
    """Reads one machine; what is there and cannot be read goes to `faults`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.faults: list[str] = []
        self.cores = numbered(root / "sys/devices/system/cpu", "cpu[0-9]*/cpufreq")

    def frequencies(self, name: str) -> tuple[float | None, ...]:
        """Return hertz of every core; files are in kHz."""
        return tuple(self._number(core / name, 1e3) for core in self.cores)

    def temperatures(self) -> dict[str, float | None]:
        """Return degrees of every thermal zone; zones of one type are told apart by their folder."""
        zones = numbered(self._root / "sys/class/thermal", "thermal_zone*")
        types = [read_optional(zone / "type") or zone.name for zone in zones]
        names = [
            kind if types.count(kind) == 1 else f"{kind} {zone.name}" for kind, zone in zip(types, zones, strict=True)
        ]
        return {name: self._number(zone / "temp", 1e-3) for name, zone in zip(names, zones, strict=True)}

    def fans(self) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """Return turns a minute, and the drive from 0 to 1 of 255 steps."""
        rpm: dict[str, float | None] = {}
        pwm: dict[str, float | None] = {}
        for chip in hwmon_chips(self._root):
            for file in numbered(chip.folder, "fan[0-9]*_input"):
                rpm[f"{chip.name} {file.name.removesuffix('_input')}"] = self._number(file, 1.0)
            for file in numbered(chip.folder, "pwm[0-9]"):
                pwm[f"{chip.name} {file.name}"] = self._number(file, 1 / 255)
        return rpm, pwm

    def cooling(self) -> dict[str, float]:
        """Return the state of every cooling device that is in use."""
        devices = numbered(self._root / "sys/class/thermal", "cooling_device*")
        states = {f"{read_optional(d / 'type')} {d.name}": self._number(d / "cur_state", 1.0) for d in devices}
        return {name: state for name, state in states.items() if state}

    def throttled(self) -> tuple[str, ...] | None:
        """Return a Raspberry Pi's flags: from the kernel's file, or else by asking the firmware."""
        for file in numbered(self._root, _FIRMWARE_FILES):
            return self._flags(f"throttled=0x{read_optional(file).removeprefix('0x')}")
        try:
            return self._flags(firmware(self._root, "get_throttled").text())
        except SensorAbsent:
            return None
        except SensorError as error:
            self.faults.append(str(error))
            return None

    def throttle_events(self) -> dict[str, int]:
        """Return counters since boot: over-current of a Jetson's supply, thermal throttling of x86 cores."""
        files = {
            file.name: file for chip in hwmon_chips(self._root) for file in numbered(chip.folder, "oc[0-9]_event_cnt")
        }
        cores = numbered(self._root / "sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/core_throttle_count")
        files |= {f"{file.parents[1].name} core_throttle_count": file for file in cores}
        counts = {name: self._number(file, 1.0) for name, file in files.items()}
        return {name: int(count) for name, count in counts.items() if count is not None}

    def power_mode(self) -> str | None:
        """Return the nvpmodel that was set last, and its name where the list of modes tells it."""
        match = _POWER_MODE.search(read_optional(self._root / "var/lib/nvpmodel/status"))
        if match is None:
            return None
        number = int(match[1])
        modes = read_optional(self._root / "etc/nvpmodel.conf")
        name = re.search(rf"^\s*<\s*POWER_MODEL\s+ID=0*{number}\s+NAME=(\S+)\s*>", modes, re.MULTILINE)
        return f"{number} {name[1]}" if name else str(number)

    def links(self) -> tuple[Link, ...]:
        """Return the interfaces that are up."""
        wireless = {
            name: (float(quality), float(level), int(retries))
            for name, quality, level, retries in _WIRELESS.findall(read_optional(self._root / "proc/net/wireless"))
        }
        found = []
        for folder in numbered(self._root / "sys/class/net", "*"):
            name = folder.name
            if name == "lo" or read_optional(folder / "operstate") != "up":
                continue
            quality, level, retries = wireless.get(name, (None, None, None))
            rate = self._wifi_rate(name) if name in wireless else self._wired_rate(folder)
            found.append(Link(name, rate, level, quality, retries))
        return tuple(found)

    def load(self) -> float | None:
        """Return the load average of a minute."""
        text = read_optional(self._root / "proc/loadavg").partition(" ")[0]
        return float(text) if re.fullmatch(r"\d+\.\d+", text) else None

    def busy(self) -> float | None:
        """Return the core-seconds that the machine has worked."""
        fields = read_optional(self._root / "proc/stat").partition("\n")[0].split()[1:9]
        if len(fields) < 8 or not all(field.isdecimal() for field in fields):
            return None
        ticks = sum(int(field) for index, field in enumerate(fields) if index not in (3, 4))  # idle, iowait
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int | None:
        """Return bytes that new work could have."""
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", read_optional(self._root / "proc/meminfo"), re.MULTILINE)
        return int(match[1]) * 1024 if match else None

    def _wired_rate(self, folder: Path) -> float | None:
        """Return bits a second; the kernel gives Mbit/s, -1 or an error where it does not know."""
        text = read_optional(folder / "speed")
        return int(text) * 1e6 if text.isdecimal() else None

    def _wifi_rate(self, name: str) -> float | None:
        """Return bits a second that were sent last, by `iw dev NAME link`, or its recorded output."""
        recorded = self._root / f"iw-{name}.txt"
        program = shutil.which("iw")
        text = ""
        if self._root != Path("/"):
            text = read_optional(recorded)
        elif program:
            try:
                text = subprocess.run(  # noqa: S603 - the interface's name is the kernel's
                    [program, "dev", name, "link"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                ).stdout
            except (OSError, subprocess.TimeoutExpired) as error:
                self.faults.append(f"{program} dev {name} link failed: {error}")
        match = _BIT_RATE.search(text)
        return float(match[1]) * 1e6 if match else None

    def _flags(self, text: str) -> tuple[str, ...] | None:
        match = _THROTTLED.search(text)
        if match is None:
            self.faults.append(f"the firmware answered get_throttled with {text.strip()[:60]!r}")
            return None
        return throttle_flags(int(match[1], 16))

    def _number(self, path: Path, unit: float) -> float | None:
        if not path.exists():
            return None
        try:
            return read_number(path) * unit
        except SensorError as error:
            self.faults.append(str(error))
            return None
