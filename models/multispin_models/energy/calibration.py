"""A board's own sensor fitted to an external meter: watts = slope * sensor + offset, with what the fit is worth.

Both meters run over the same time while the load varies; the time is cut into windows, and the mean watts of each
give a point. The line is ordinary least squares; slope and offset have 95 % confidence intervals by Student's t.
Windows that follow each other under one load are not independent, so vary the load on the scale of a window.

A calibration is a JSON file, kept by name, made for one board and refused on another:

    $MULTISPIN_CALIBRATIONS, else $XDG_CONFIG_HOME/multispin/calibrations, else $HOME/.config/multispin/calibrations,
    and /etc/multispin/calibrations

Source: Montgomery, Peck, Vining, Introduction to Linear Regression Analysis, section 2.4 (intervals); Abramowitz and
Stegun 26.7.5 (quantile of t).
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Final, NamedTuple

import msgspec

from multispin_models.energy.meter import Covers, Label
from multispin_models.energy.sysfs import read_optional
from multispin_models.energy.window import Window
from multispin_models.errors import ConfigError, SensorError

__all__ = [
    "Calibration", "Fit", "PairedWatts", "board_name", "check_name", "find_calibration", "fit_line", "paired_watts",
    "save_calibration", "student_t_975",
]  # fmt: skip

_LEAST_POINTS: Final = 10
_SYSTEM_FOLDER: Final = Path("/etc/multispin/calibrations")


class PairedWatts(NamedTuple):
    """Mean watts of one window by both meters."""

    sensor_w: float
    reference_w: float


class Fit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fitted line.

    Attributes:
        slope: watts of the reference for a watt of the sensor.
        slope_ci95: lower and upper end.
        offset_w: of the reference where the sensor shows 0.
        offset_ci95_w: lower and upper end.
        residual_rms_w: standard deviation of the residuals, n - 2 degrees of freedom.
        residual_max_w: largest, without sign.
        sensor_min_w, sensor_max_w: range of the points; beyond it the line is a guess.
        num_points: windows.
    """

    slope: float
    slope_ci95: tuple[float, float]
    offset_w: float
    offset_ci95_w: tuple[float, float]
    residual_rms_w: float
    residual_max_w: float
    sensor_min_w: float
    sensor_max_w: float
    num_points: int


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fit with what it was made of.

    Attributes:
        board: as `board_name` says.
        sensor: what `open_meter` takes.
        reference: likewise, the external meter.
        reference_label: of it; "measured", or the calibration would rest on a guess.
        covers: what the reference covers, and so the calibrated sensor.
        fitted_at: UTC wall time, ISO 8601.
        window_s: length of a window.
        fit: the line.
        points: mean watts of each window, sensor and reference, so that the fit can be checked.
    """

    board: str
    sensor: str
    reference: str
    reference_label: Label
    covers: Covers
    fitted_at: str
    window_s: float
    fit: Fit
    points: tuple[PairedWatts, ...] = ()


def paired_watts(
    sensor: Callable[[int, int], Window],
    reference: Callable[[int, int], Window],
    t0_ns: int,
    t1_ns: int,
    window_s: float,
) -> list[PairedWatts]:
    """Return a point for each window of both meters that both carry.

    Args:
        sensor: gives the energy between two instants.
        reference: likewise.
        t0_ns: start.
        t1_ns: end; a rest shorter than a window is left out.
        window_s: length of a window, seconds.
    """
    step_ns = round(window_s * 1e9)
    points = []
    for begin_ns in range(t0_ns, t1_ns - step_ns + 1, step_ns):
        a, b = sensor(begin_ns, begin_ns + step_ns), reference(begin_ns, begin_ns + step_ns)
        if a.joules is not None and b.joules is not None:
            points.append(PairedWatts(a.joules / window_s, b.joules / window_s))
    return points


def fit_line(points: Sequence[PairedWatts]) -> Fit:
    """Return the least-squares line of reference over sensor.

    Raises:
        SensorError: there are under ten points, or the load did not vary enough to tell a slope.
    """
    n = len(points)
    if n < _LEAST_POINTS:
        raise SensorError(f"{n} windows have figures of both meters, needed are {_LEAST_POINTS}: run longer")
    mean_x = math.fsum(p.sensor_w for p in points) / n
    mean_y = math.fsum(p.reference_w for p in points) / n
    sxx = math.fsum((p.sensor_w - mean_x) ** 2 for p in points)
    sxy = math.fsum((p.sensor_w - mean_x) * (p.reference_w - mean_y) for p in points)
    low, high = min(p.sensor_w for p in points), max(p.sensor_w for p in points)
    if sxx <= 0.0:
        raise SensorError(f"the sensor showed {low:g} W all the time: vary the load between idle and full")
    slope = sxy / sxx
    offset = mean_y - slope * mean_x
    residuals = [p.reference_w - slope * p.sensor_w - offset for p in points]
    rms = math.sqrt(math.fsum(r * r for r in residuals) / (n - 2))
    t = student_t_975(n - 2)
    slope_half = t * rms / math.sqrt(sxx)
    offset_half = t * rms * math.sqrt(1.0 / n + mean_x**2 / sxx)
    if slope - slope_half <= 0.0:
        raise SensorError(
            f"the slope is {slope:.3g} +- {slope_half:.2g}, which may be 0: vary the load between idle and full "
            f"(the sensor showed {low:.3g} to {high:.3g} W), and see that the reference meters this very board"
        )
    return Fit(
        slope=slope,
        slope_ci95=(slope - slope_half, slope + slope_half),
        offset_w=offset,
        offset_ci95_w=(offset - offset_half, offset + offset_half),
        residual_rms_w=rms,
        residual_max_w=max(abs(r) for r in residuals),
        sensor_min_w=low,
        sensor_max_w=high,
        num_points=n,
    )


def student_t_975(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.002 from 8 degrees of freedom up.

    >>> round(student_t_975(30), 3)
    2.042
    """
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def board_name(root: Path = Path("/")) -> str:
    """Return what this board says it is, with its serial number where everybody may read that."""
    tree = root / "sys/firmware/devicetree/base"
    model = read_optional(tree / "model") or read_optional(root / "sys/class/dmi/id/product_name") or "unknown board"
    serial = read_optional(tree / "serial-number")
    return f"{model}, serial {serial}" if serial else model


def find_calibration(name: str) -> Calibration:
    """Return a calibration.

    Args:
        name: by which it was saved, or a path that ends in .json.

    Raises:
        ConfigError: there is none, or its file is damaged.
    """
    paths = [Path(name)] if name.endswith(".json") else [folder / f"{check_name(name)}.json" for folder in _folders()]
    for path in paths:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Calibration)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(f"calibration {path} cannot be read: {error}; calibrate again") from error
    looked = ", ".join(str(path) for path in paths)
    raise ConfigError(
        f"calibration {name!r} is not there (looked for {looked}): make it with multispin meter calibrate"
    )


def save_calibration(name: str, calibration: Calibration) -> Path:
    """Write a calibration under a name and return its path.

    Raises:
        ConfigError: the name is no plain word, or the folder cannot be written.
    """
    path = _folders()[0] / f"{check_name(name)}.json"
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"calibration {path} cannot be written: {error}; set MULTISPIN_CALIBRATIONS") from error
    return path


def check_name(name: str) -> str:
    """Return a name under which a calibration can be kept.

    Raises:
        ConfigError: it is no plain word.
    """
    if not name or not all(character.isalnum() or character in "-_." for character in name) or name[0] == ".":
        raise ConfigError(f"the name of a calibration is {name!r}, allowed are letters, digits, '-', '_' and '.'")
    return name


def _folders() -> list[Path]:
    own = os.environ.get("MULTISPIN_CALIBRATIONS")
    if own:
        return [Path(own)]
    config = os.environ.get("XDG_CONFIG_HOME") or (os.environ["HOME"] + "/.config" if "HOME" in os.environ else "")
    return [*([Path(config) / "multispin/calibrations"] if config else []), _SYSTEM_FOLDER]
