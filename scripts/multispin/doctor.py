"""`multispin doctor`: what this machine has, what is wrong, and what to do about each fault.

Every finding is "ok", "warning" (works, but not as it could) or "fault" (something needed is missing: exit status 1).
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
import psutil
import zmq

from multispin.models_command import file_states
from multispin.progress import step_line
from multispin_models.cache import cache_directory, silent
from multispin_models.energy.sensors import discover_meters
from multispin_models.engines import DEFAULT_ENGINE, ENGINES, load_side
from multispin_models.errors import MultispinError
from multispin_models.manifest import DEFAULT_PAIR, load_pair
from multispin_models.probes import probe_exactness

__all__ = ["DEFAULT_PORT", "Finding", "add_arguments", "examine", "run"]

DEFAULT_PORT: Final = 5599  # the coordinator's
_PYTHON_LEAST: Final = (3, 11)
_NEEDED: Final = ("multispin", "numpy", "msgspec", "pyzmq", "psutil")
_ENGINES: Final = {"onnxruntime": "scripts/setup", "llama-cpp-python": "only if wanted: scripts/setup llamacpp"}
_PROBE_S: Final = 6.0  # longer than at a daemon's start: more batch shapes are seen
_DISK_LEAST_BYTES: Final = 1_000_000_000
# What the engines' fast kernels ask for, on x86-64 and on arm64 (names of /proc/cpuinfo).
_CPU_FEATURES: Final = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: what.
        status: as above.
        found: what it is.
        todo: what to do about it, "" if nothing.
    """

    name: str
    status: Literal["ok", "warning", "fault"]
    found: str
    todo: str = ""


class _Question(NamedTuple):
    pair: str
    engine: str
    port: int
    probe: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--pair", default=DEFAULT_PAIR, metavar="PAIR", help=f"the models to look at (default {DEFAULT_PAIR})"
    )
    parser.add_argument(
        "--engine", choices=ENGINES, default=DEFAULT_ENGINE, help="that is to serve them (default %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help=f"the coordinator's (default {DEFAULT_PORT})"
    )
    parser.add_argument("--no-probe", action="store_true", help="do not load the target to see whether it is exact")


def run(args: argparse.Namespace) -> int:
    """Print the findings and return the exit status: 1 if something needed is missing."""
    findings = examine(args.pair, args.port, engine=args.engine, probe=not args.no_probe)
    faults = sum(finding.status == "fault" for finding in findings)
    if args.json:
        print(msgspec.json.encode({"ok": faults == 0, "findings": findings}).decode())
        return int(faults > 0)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.status:8} {finding.name:{width}}  {finding.found}")
        if finding.todo:
            print(f"{'':8} {'':{width}}  -> {finding.todo}")
    print(f"\n{faults} faults" if faults else "\nnothing needed is missing")
    return int(faults > 0)


def examine(
    pair: str = DEFAULT_PAIR, port: int = DEFAULT_PORT, *, engine: str = DEFAULT_ENGINE, probe: bool = True
) -> list[Finding]:
    """Return everything that was looked at, in the order of printing."""
    question = _Question(pair, engine, port, probe)
    parts: list[Callable[[_Question], Iterator[Finding]]] = [
        _python, _packages, _cpu, _memory, _cache, _models, _engine, _port, _sensors,
    ]  # fmt: skip
    findings: list[Finding] = []
    for part in parts:
        if part is _engine and probe:
            step_line("loading the target, to see whether it is exact")
        try:
            findings += part(question)
        except (MultispinError, OSError) as error:
            findings.append(Finding(part.__name__.strip("_"), "fault", str(error), "see the message"))
    return findings


def _python(_question: _Question) -> Iterator[Finding]:
    found = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < _PYTHON_LEAST:
        yield Finding("python", "fault", found, "install Python 3.11 or later and run scripts/setup")
    else:
        yield Finding("python", "ok", found)
    yield Finding("system", "ok", f"{platform.platform()}, {platform.machine()}")


def _packages(_question: _Question) -> Iterator[Finding]:
    for name in _NEEDED:
        version = _version(name)
        yield Finding(
            name, "ok" if version else "fault", version or "not installed", "" if version else "scripts/setup"
        )
    if zmq.has("curve"):
        yield Finding("libzmq", "ok", f"{zmq.zmq_version()} with CURVE")
    else:
        todo = "only loopback addresses can be used; install pyzmq from its wheel (pip install --force-reinstall pyzmq)"
        yield Finding("libzmq", "warning", f"{zmq.zmq_version()} without CURVE", todo)
    versions = {name: _version(name) for name in _ENGINES}
    for name, version in versions.items():
        status: Literal["ok", "warning", "fault"] = (
            "ok" if version else "warning" if any(versions.values()) else "fault"
        )
        yield Finding(name, status, version or "not installed", "" if version else _ENGINES[name])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu(_question: _Question) -> Iterator[Finding]:
    lines = _read("/proc/cpuinfo").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    features = (
        " ".join(name for name in _CPU_FEATURES if name in flags) or "none of those that the engines use is listed"
    )
    model = fields.get("model name") or platform.processor() or platform.machine()
    yield Finding("cpu", "ok", f"{model}, {psutil.cpu_count(logical=False)} cores, {os.cpu_count()} threads")
    yield Finding("cpu features", "ok", features)
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    if governor and governor != "performance":
        todo = "for timing: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("cpu governor", "warning", governor, todo)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # not on this system
        return ""


def _memory(question: _Question) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    served = {state.end: state.size_bytes or 0 for state in file_states(load_pair(question.pair), question.engine)}
    needed = sum(served.values())
    if memory.available < needed:
        todo = f"target and draft take {needed / 1e9:.1f} GB on one machine; free memory, or take a smaller recipe"
        yield Finding("memory", "warning", found, todo)
    else:
        yield Finding("memory", "ok", found)


def _cache(_question: _Question) -> Iterator[Finding]:
    folder = cache_directory()
    free = shutil.disk_usage(folder).free
    found = f"{folder}, {free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        yield Finding("cache", "fault", f"{found}, not writable", "set MULTISPIN_CACHE to a writable folder")
    elif free < _DISK_LEAST_BYTES:
        yield Finding("cache", "warning", found, "free a gigabyte, or set MULTISPIN_CACHE to another disk")
    else:
        yield Finding("cache", "ok", found)


def _models(question: _Question) -> Iterator[Finding]:
    for state in file_states(load_pair(question.pair), question.engine, hashed=True):
        name = f"{state.end} {state.recipe}"
        if state.fault:
            todo = f"multispin models fetch --engine {question.engine} {question.pair}"
            yield Finding(name, "fault", f"{state.path or ''}: {state.fault}".lstrip(": "), todo)
        else:
            yield Finding(name, "ok", f"{(state.size_bytes or 0) / 1e6:.0f} MB, sha256 {state.sha256}, {state.path}")


def _engine(question: _Question) -> Iterator[Finding]:
    rebuild = "build it with the exact flags: scripts/setup llamacpp (agents do not need it, a coordinator does)"
    if _version("llama-cpp-python"):
        # Loaded here, so that the doctor also runs where llama.cpp is not installed.
        from multispin_models.llamacpp.gguf_file import engine_version  # noqa: PLC0415

        version = engine_version()
        built_exact = "LLAMAFILE=0" in version and "REPACK=0" in version
        yield Finding("llama.cpp", "ok" if built_exact else "warning", version, "" if built_exact else rebuild)
    states = file_states(load_pair(question.pair), question.engine)
    if not question.probe or any(state.fault for state in states):
        todo = f"multispin models fetch --engine {question.engine} {question.pair}, without --no-probe"
        yield Finding("exactness", "warning", "not probed", todo)
        return
    target = load_side(
        question.pair,
        "target",
        question.engine,
        n_ctx=256,
        max_sequences=3,
        max_rows=64,
        num_threads=min(2, os.cpu_count() or 1),
        progress=silent,
    ).model
    try:
        report = probe_exactness(target, budget_s=_PROBE_S)
    finally:
        target.close()
    found = f"{question.engine}: {report.rows_different} of {report.rows_compared} rows differ between batch shapes"
    if report.exact:
        yield Finding("exactness", "ok", f"exact, {found}")
    else:
        todo = rebuild if question.engine == "llamacpp" else "serve another recipe, or report the differences"
        yield Finding("exactness", "warning", f"not exact, {found}, by up to {report.max_difference:.3g}", todo)


def _port(question: _Question) -> Iterator[Finding]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", question.port))
        except OSError as error:
            todo = f"if that is no coordinator of yours, see `ss -ltnp sport = :{question.port}`, or take another port"
            yield Finding(f"port {question.port}", "warning", f"cannot be listened on: {error.strerror}", todo)
            return
    yield Finding(f"port {question.port}", "ok", "free")


def _sensors(_question: _Question) -> Iterator[Finding]:
    statuses = [status for status in discover_meters() if status.present]
    if not statuses:
        todo = "multispin meter list says what was looked for, and how an external meter is named"
        yield Finding("sensors", "warning", "none is found: energy will be null", todo)
    metered = any(status.usable for status in statuses)
    for status in statuses:
        name = f"sensor {status.name}"
        if status.usable:
            yield Finding(name, "ok", f"{status.covers}: {', '.join(status.rails)}")
        elif metered:
            yield Finding(name, "ok", f"not usable, another one is: {status.reason}")
        else:
            yield Finding(name, "warning", "not usable: energy will be null", status.reason)
