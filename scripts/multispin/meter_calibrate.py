"""`multispin meter calibrate`: a board's own sensor fitted to an external meter.

Both meters run while the load varies: by itself, or by --load, which keeps 0, 1, 2 ... cores busy in turn, a window
each. The fit and its points are kept by name for this board, and `calibrated:NAME` meters with them.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from multispin.progress import counter_line
from multispin_models.clock import monotonic_ns, wall_time
from multispin_models.energy import Sampler
from multispin_models.energy.calibrated import CalibratedMeter
from multispin_models.energy.calibration import (
    Calibration,
    board_name,
    check_name,
    fit_line,
    paired_watts,
    save_calibration,
)
from multispin_models.energy.meter import Meter
from multispin_models.energy.sensors import METER_FORMS, open_sensor
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "pause", "run"]

pause = time.sleep
_BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"  # ends with this process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin meter calibrate`."""
    parser.add_argument("--sensor", required=True, metavar="METER", help=f"of the board: {', '.join(METER_FORMS)}")
    parser.add_argument("--reference", required=True, metavar="METER", help="the external meter; likewise")
    parser.add_argument("--name", required=True, help="under which the fit is kept, for calibrated:NAME")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="how long (default 600)")
    parser.add_argument("--window", type=float, default=10.0, metavar="S", help="of one point (default 10)")
    parser.add_argument("--hz", type=float, default=40.0, metavar="HZ", help="samples a second (default 40)")
    parser.add_argument("--load", action="store_true", help="keep 0, 1, 2 ... cores busy in turn, a window each")


def run(args: argparse.Namespace) -> int:
    """Measure, fit, keep, print; return the exit status.

    Raises:
        ConfigError: a setting is out of range, or the reference guesses.
        SensorError: a meter cannot be read, or the points do not carry a line.
    """
    check_name(args.name)
    if not (0.0 < args.window <= args.seconds / 10.0 and math.isfinite(args.seconds)):
        raise ConfigError(f"--seconds is {args.seconds:g} and --window {args.window:g}: ten windows or more are needed")
    root = Path(args.root)
    with ExitStack() as opened:
        sensor = opened.enter_context(Sampler(_as_one_rail(open_sensor(args.sensor, root)), args.hz))
        reference = opened.enter_context(Sampler(open_sensor(args.reference, root), args.hz))
        if reference.info.label != "measured":
            raise ConfigError(
                f"--reference {args.reference} is {reference.info.label}: only a meter that measures can be one"
            )
        t0_ns, t1_ns = _measure(args.seconds, args.window, load=args.load)
        for sampler in (sensor, reference):
            sampler.read_now()
        gap_s = max(1.0, *(5.0 / sampler.hz for sampler in (sensor, reference)))
        points = paired_watts(
            lambda a, b: sensor.joules(a, b, max_gap_s=gap_s),
            lambda a, b: reference.joules(a, b, max_gap_s=gap_s),
            t0_ns,
            t1_ns,
            args.window,
        )
    calibration = Calibration(
        board=board_name(root),
        sensor=args.sensor,
        reference=args.reference,
        reference_label=reference.info.label,
        covers=reference.info.covers,
        fitted_at=wall_time(),
        window_s=args.window,
        fit=fit_line(points),
        points=tuple(points),
    )
    path = save_calibration(args.name, calibration)
    if args.json:
        print(msgspec.json.encode(calibration).decode())
    else:
        _show(calibration, path)
    return 0


def _as_one_rail(meter: Meter) -> Meter:
    """Return the sensor's whole as it is, or the sum of its rails where none is the whole."""
    info = meter.info
    return CalibratedMeter(meter, info.name, 1.0, 0.0, info.covers, info.label, info.note)


def _measure(seconds: float, window_s: float, *, load: bool) -> tuple[int, int]:
    """Let time pass, under load if asked; return its edges."""
    t0_ns = monotonic_ns()
    num_cores = len(os.sched_getaffinity(0))
    num_windows = math.floor(seconds / window_s + 1e-9)
    show = counter_line("windows")
    for index in range(num_windows):
        with _busy(index % (num_cores + 1) if load else 0):
            pause(max(t0_ns + round((index + 1) * window_s * 1e9) - monotonic_ns(), 0) / 1e9)
        show(index + 1, num_windows)
    return t0_ns, monotonic_ns()


@contextmanager
def _busy(num_cores: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(num_cores)]  # noqa: S603 - our own text
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _show(calibration: Calibration, path: Path) -> None:
    fit = calibration.fit
    print(f"{calibration.board}: {calibration.reference} = slope * {calibration.sensor} + offset")
    print(f"slope    {fit.slope:.4f}, 95 % from {fit.slope_ci95[0]:.4f} to {fit.slope_ci95[1]:.4f}")
    print(f"offset   {fit.offset_w:.4f} W, 95 % from {fit.offset_ci95_w[0]:.4f} to {fit.offset_ci95_w[1]:.4f} W")
    print(
        f"residual {fit.residual_rms_w:.4f} W root mean square, {fit.residual_max_w:.4f} W at most, over "
        f"{fit.num_points} windows of {calibration.window_s:g} s, {fit.sensor_min_w:.3f} to {fit.sensor_max_w:.3f} W"
    )
    print(f"kept in {path}; meter with calibrated:{path.stem}")
