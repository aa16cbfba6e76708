"""What this machine's energy sensors are, what they show, and how they compare with an external meter.

    multispin meter list                                     every kind of sensor, and which one auto takes
    multispin meter read --json                              every rail of every sensor, once
    multispin meter watch --meter rapl --seconds 30          mean watts of every second, with what they rest on
    multispin meter conditions                               clocks, heat, throttling, power mode, links, load
    multispin meter calibrate --sensor pmic --reference shelly:192.168.1.20 --load --name my-pi
                                                             fit the board's sensor to the external meter

`--root DIR` reads a recorded board: DIR holds sys/, dev/ and proc/ as they were there, and vcgencmd.txt for a
Raspberry Pi. Nothing is summed that is not a whole: `is_total` marks rails that are (a part of) what `covers` names.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from multispin import meter_calibrate
from multispin_models.clock import monotonic_ns
from multispin_models.energy import Meter, Sampler, Window, open_meter
from multispin_models.energy.conditions import read_conditions
from multispin_models.energy.sensors import (
    AUTO_ORDER,
    LOCAL_COVERS,
    METER_FORMS,
    discover_meters,
    open_present,
    open_sensor,
)
from multispin_models.errors import ConfigError, SensorAbsent, SensorError

__all__ = ["add_arguments", "rail_rows", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `multispin meter` and their flags."""
    commands = parser.add_subparsers(dest="meter_command", required=True, metavar="WHAT")
    forms = ", ".join(METER_FORMS)
    listing = commands.add_parser("list", help="every kind of sensor, and why it can or cannot meter a run")
    listing.set_defaults(run_meter=_list)
    reading = commands.add_parser("read", help="every rail of every sensor, once")
    reading.add_argument("--meter", metavar="METER", help=f"this one only: {forms}")
    reading.set_defaults(run_meter=_read)
    watching = commands.add_parser("watch", help="mean watts of every second")
    watching.add_argument("--meter", default="auto", metavar="METER", help=f"{forms} (default auto)")
    watching.add_argument("--hz", type=float, default=40.0, metavar="HZ", help="samples a second (default 40)")
    watching.add_argument("--seconds", type=int, metavar="N", help="how long (default: until interrupted)")
    watching.set_defaults(run_meter=_watch)
    fitting = commands.add_parser("calibrate", help="fit a sensor to an external meter")
    meter_calibrate.add_arguments(fitting)
    fitting.set_defaults(run_meter=meter_calibrate.run)
    looking = commands.add_parser("conditions", help="clocks, heat, throttling, power mode, links and load now")
    looking.set_defaults(run_meter=_conditions)
    for command in (listing, reading, watching, fitting, looking):
        command.add_argument("--root", default="/", metavar="DIR", help="of a recorded board (default: this machine)")
        command.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Run one sub-command and return the exit status.

    Raises:
        ConfigError: the recorded board is not there.
        SensorError: the named sensor cannot be read.
    """
    if not Path(args.root).is_dir():
        raise ConfigError(f"--root is {args.root}, which is no folder: give one that holds sys/ and dev/")
    return int(args.run_meter(args))


def rail_rows(name: str, meter: Meter) -> Iterator[dict[str, Any]]:
    """Yield what every rail of a sensor shows now; a value that is not known is null and has a reason."""
    rails = meter.info.rails
    try:
        reading = meter.read()
        values, reasons = reading.values, reading.reasons or ("",) * len(rails)
    except SensorError as error:
        values, reasons = (None,) * len(rails), (str(error),) * len(rails)
    for rail, value, reason in zip(rails, values, reasons, strict=True):
        yield {
            "sensor": name,
            "rail": rail.name,
            "covers": meter.info.covers,
            "is_total": rail.in_total and meter.info.covers != "rails",  # a sum of rails is no whole
            ("energy_j" if meter.info.quantity == "energy" else "power_w"): value,
            "label": meter.info.label,
            "reason": reason or None,
        }


def _read(args: argparse.Namespace) -> int:
    root = Path(args.root)
    rows: list[dict[str, Any]] = []
    present: Any = [(args.meter, open_sensor(args.meter, root))] if args.meter else open_present(root)
    for name, found in present:
        if isinstance(found, SensorAbsent):
            continue
        if isinstance(found, SensorError):
            rows.append(_unreadable(name, str(found)))
            continue
        rows += rail_rows(name, found)
        found.close()
    if args.json:
        print(msgspec.json.encode(rows).decode())
        return 0
    if not rows:
        print("no sensor is found; `multispin meter list` says what was looked for", file=sys.stderr)
    for row in rows:
        quantity, unit = ("energy_j", "J") if "energy_j" in row else ("power_w", "W")
        value = "null" if row[quantity] is None else f"{row[quantity]:.6g}"
        whole = "total" if row["is_total"] else ""
        rail = row["rail"] or ""
        print(f"{row['sensor']:14} {rail:28} {value:>12} {unit} {row['covers'] or '':8} {whole:6} {row['label'] or ''}")
        if row["reason"]:
            print(f"{'':14} {row['reason']}")
    return 0


def _unreadable(name: str, reason: str) -> dict[str, Any]:
    """Return the row of a sensor that is there and could not even tell its rails."""
    return {
        "sensor": name,
        "rail": None,
        "covers": LOCAL_COVERS[name],
        "is_total": False,
        "power_w": None,
        "label": "measured",
        "reason": reason,
    }


def _list(args: argparse.Namespace) -> int:
    statuses = discover_meters(Path(args.root))
    usable = {status.name for status in statuses if status.usable}
    auto = next((name for name in AUTO_ORDER if name in usable), None)
    if args.json:
        report = {"sensors": statuses, "auto": auto, "auto_order": AUTO_ORDER, "forms": METER_FORMS}
        print(msgspec.json.encode(report).decode())
        return 0
    for status in statuses:
        state = "usable" if status.usable else "not usable" if status.present else "absent"
        print(f"{status.name:14} {state:11} {status.covers or '':8} {', '.join(status.rails)}")
        if status.reason:
            print(f"{'':14} {status.reason}")
    print(f"auto           takes the first usable of {', '.join(AUTO_ORDER)}: {auto or 'none, energy is null'}")
    print(f"by name        {', '.join(form for form in METER_FORMS if ':' in form)}")
    return 0


def _conditions(args: argparse.Namespace) -> int:
    conditions = read_conditions("during", Path(args.root))
    if args.json:
        print(msgspec.json.encode(conditions).decode())
        return 0
    for name, value in msgspec.to_builtins(conditions).items():
        print(f"{name:24} {'-' if value in (None, [], {}, ()) else value}")
    return 0


def _watch(args: argparse.Namespace) -> int:
    if not (0.0 < args.hz <= 1000.0) or (args.seconds is not None and args.seconds < 1):
        raise ConfigError(f"--hz is {args.hz}, --seconds {args.seconds}; allowed are up to 1000, and 1 or more")
    opened = open_meter(args.meter, Path(args.root))
    if opened.meter is None:
        raise SensorError(opened.reason)
    info = opened.meter.info
    if not args.json:
        print(f"{info.name}: {info.label}, covers {info.covers}. {info.note}")
    with Sampler(opened.meter, args.hz) as sampler:
        begin_ns = monotonic_ns()
        second = 0
        while args.seconds is None or second < args.seconds:
            t0_ns, t1_ns = begin_ns + second * 1_000_000_000, begin_ns + (second + 1) * 1_000_000_000
            _wait_until(t1_ns)
            sampler.read_now()
            _show(second, sampler.joules(t0_ns, t1_ns), as_json=args.json)
            second += 1
    return 0


def _wait_until(t_ns: int) -> None:
    meter_calibrate.pause(max(t_ns - monotonic_ns(), 0) / 1e9)


def _show(second: int, window: Window, *, as_json: bool) -> None:
    if as_json:
        row = {"second": second, "mean_w": window.joules, **window._asdict()}  # over one second, joules are watts
        print(msgspec.json.encode(row).decode(), flush=True)
        return
    value = "null" if window.joules is None else f"{window.joules:.3f}"
    hz = f"{window.achieved_hz:.1f}" if window.achieved_hz else "-"
    gap = f"{window.largest_gap_s:.3f}" if window.largest_gap_s is not None else "-"
    print(f"{second:5} s {value:>10} W, {hz} Hz, largest gap {gap} s {window.reason or ''}", flush=True)
