"""The machine that a run is made on, as far as it says."""

import hashlib
import os
import platform
from pathlib import Path

import psutil

from multispin_models import __version__
from multispin_models.records.schema import Machine

__all__ = ["describe_machine", "read_boot_id", "read_governor"]


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
    )


def read_boot_id(root: Path = Path("/")) -> str | None:
    """Return the id of this boot of the kernel, within which monotonic instants compare; null if there is none."""
    return _first_line(root / "proc/sys/kernel/random/boot_id")


def read_governor(root: Path = Path("/")) -> str | None:
    """Return the frequency governors of the processor's cores, "+" between different ones; null without any."""
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    return "+".join(sorted({line for line in map(_first_line, cores) if line})) or None


def _cpu_model(root: Path) -> str:
    """Return the processor's name on x86, the board's on Arm, or the architecture."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields = dict(reversed([line.partition(":")[::2] for line in text.splitlines()]))  # the first of equals stays
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return named.get("model name") or named.get("Model") or platform.machine()


def _first_line(path: Path) -> str | None:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return (lines[0].strip() or None) if lines else None
