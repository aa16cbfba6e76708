"""The machine that a run is made on, as far as it says.

Source: Linux Documentation/ABI/testing/sysfs-firmware-ofw and sysfs-class-dmi (`board_name` and the like in
/sys/class/dmi/id); Raspberry Pi's bootloader in the device tree under chosen/bootloader; NVIDIA's
/etc/nv_tegra_release, "# R36 (release), REVISION: 4.3, ..."; os-release(5), machine-id(5).
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import msgspec
import psutil

from multispin_models import __version__
from multispin_models.clock import wall_time
from multispin_models.clock_watch import read_clock_sync
from multispin_models.energy.meter import MeterInfo
from multispin_models.energy.sysfs import read_optional
from multispin_models.language_model import ModelInfo
from multispin_models.records.notes import FieldNotes
from multispin_models.records.schema import EndRecord, Machine

__all__ = ["describe_end", "describe_machine", "read_boot_id", "read_governor", "source_commit"]

_TREE: Final = "sys/firmware/devicetree/base"
_DMI: Final = "sys/class/dmi/id"
_TIMEOUT_S: Final = 5.0


def describe_machine(root: Path = Path("/"), *, plain_name: bool = False) -> Machine:
    """Return this machine; its name is hashed unless it is asked for plainly, as records are published."""
    name = platform.node()
    return Machine(
        node=name if plain_name else hashlib.sha256(name.encode()).hexdigest()[:12],
        cpu_model=_cpu_model(root),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        multispin=__version__,
        device_id=_hashed(read_optional(root / "etc/machine-id")),
        board=_board(root),
        board_revision=_cpuinfo(root).get("Revision") or read_optional(root / _DMI / "board_version") or None,
        firmware=read_optional(root / _TREE / "chosen/bootloader/version")
        or read_optional(root / _DMI / "bios_version")
        or None,
        l4t=_l4t(read_optional(root / "etc/nv_tegra_release")),
        operating_system=_named(read_optional(root / "etc/os-release"), "PRETTY_NAME"),
        commit=source_commit(),
    )


class Noted(Protocol):
    """Settings of an end, with what was said of its box; a Struct."""

    @property
    def notes(self) -> FieldNotes:
        """As in the record."""
        ...


def describe_end(run_id: str, end: str, model: ModelInfo, configuration: Noted, meter: MeterInfo | str) -> EndRecord:
    """Return the record of this end as it starts now; asks chrony, so it may take two seconds.

    Args:
        run_id, end, model: as in the record.
        configuration: its settings.
        meter: that it reads; or the reason why it reads none.
    """
    return EndRecord(
        run_id=run_id,
        end=end,
        started_at=wall_time(),
        machine=describe_machine(),
        boot_id=read_boot_id(),
        governor=read_governor(),
        model=model,
        configuration=msgspec.to_builtins(configuration),
        meter=None if isinstance(meter, str) else meter,
        meter_reason=meter if isinstance(meter, str) else None,
        clock_sync=read_clock_sync(),
        notes=configuration.notes,
    )


@cache
def source_commit() -> str | None:
    """Return the commit of the source that runs, "-dirty" after it if files differ; null if it is no git checkout."""
    own = Path(__file__)
    if (
        _git(own.parent, "ls-files", "--error-unmatch", own.name) is None
    ):  # installed; a checkout around it is another's
        return None
    return _git(own.parent, "describe", "--always", "--dirty", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git says, null if it has nothing to say."""
    program = shutil.which("git")
    if program is None:
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never in the way of somebody's commit
    try:
        done = subprocess.run(  # noqa: S603 - no shell, nothing of a user's
            [program, "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def read_boot_id(root: Path = Path("/")) -> str | None:
    """Return the id of this boot of the kernel, within which monotonic instants compare; null if there is none."""
    return _first_line(root / "proc/sys/kernel/random/boot_id")


def read_governor(root: Path = Path("/")) -> str | None:
    """Return the frequency governors of the processor's cores, "+" between different ones; null without any."""
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return "+".join(sorted({line for line in map(_first_line, cores) if line})) or None


def _cpu_model(root: Path) -> str:
    """Return the processor's name on x86, the board's on Arm, or the architecture."""
    named = _cpuinfo(root)
    return named.get("model name") or named.get("Model") or platform.machine()


def _cpuinfo(root: Path) -> dict[str, str]:
    text = read_optional(root / "proc/cpuinfo")
    fields = dict(reversed([line.partition(":")[::2] for line in text.splitlines()]))  # the first of equals stays
    return {key.strip(): value.strip() for key, value in fields.items()}


def _board(root: Path) -> str | None:
    maker, model = (read_optional(root / _DMI / name) for name in ("sys_vendor", "product_name"))
    return read_optional(root / _TREE / "model") or f"{maker} {model}".strip() or None


def _l4t(release: str) -> str | None:
    """Return the release in the first line of NVIDIA's file.

    >>> _l4t("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    'R36.4.3'
    """
    match = re.match(r"#\s*(R\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else None


def _named(text: str, key: str) -> str | None:
    """Return the value of a line KEY="value"."""
    values = [line.partition("=")[2].strip("\"'") for line in text.splitlines() if line.startswith(f"{key}=")]
    return values[0] if values else None


def _hashed(text: str) -> str | None:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else None


def _first_line(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return (lines[0].strip() or None) if lines else None
