"""A meter behind a calibration: the whole that the external meter saw, from the board's own sensor.

    calibrated:NAME         the calibration names its sensor, so nothing else is said

Its label is "calibrated", unless the sensor is a model: then it stays "modelled". Where the sensor has no total (AGX
Orin), the sum of its rails is what was fitted: a predictor of the whole, not a claim that it is one.
"""

from collections.abc import Callable
from pathlib import Path

from multispin_models.clock import monotonic_ns
from multispin_models.energy.calibration import Calibration, board_name
from multispin_models.energy.meter import Asked, Covers, Label, Meter, MeterInfo, QuickMeter, Rail, Reading
from multispin_models.errors import SensorError

__all__ = ["CalibratedMeter", "apply", "check_board", "whole_of"]


class CalibratedMeter:
    """Gives one rail: slope * sensor + offset.

    Args:
        sensor: open; closed with this meter.
        name: in records.
        slope: no unit.
        offset_w: watts.
        covers: of the external meter.
        label: of the result; a modelled sensor keeps its own.
        note: for records.
        clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        sensor: Meter,
        name: str,
        slope: float,
        offset_w: float,
        covers: Covers,
        label: Label,
        note: str,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._sensor = sensor
        has_total = any(rail.in_total for rail in sensor.info.rails)  # else all of its rails are needed
        self._quick = sensor if has_total and isinstance(sensor, QuickMeter) else None
        self._slope = slope
        self._offset_w = offset_w
        self._start_ns = clock()
        self.info = MeterInfo(
            name=name,
            quantity=sensor.info.quantity,
            covers=covers,
            label="modelled" if sensor.info.label == "modelled" else label,
            rails=(Rail("whole", in_total=True),),
            native_hz=sensor.info.native_hz,
            note=note,
        )

    def read(self) -> Reading:
        """Return the calibrated whole now.

        Raises:
            SensorError: the sensor, or a rail that was fitted, did not answer.
        """
        return self._fitted(self._sensor.read())

    def ask(self) -> Asked:
        """Return what the sensor answers now, not understood yet if it can be asked so.

        Raises:
            SensorError: the sensor, or a rail of its total, did not answer.
        """
        if self._quick is not None:
            return self._quick.ask()
        reading = self._sensor.read()
        return reading.t_ns, reading

    def understand(self, asked: Asked) -> Reading:
        """Return the calibrated whole that an answer is.

        Raises:
            SensorError: it is none, or a rail that was fitted did not answer.
        """
        return self._fitted(asked[1] if self._quick is None else self._quick.understand(asked))

    def _fitted(self, reading: Reading) -> Reading:
        whole = whole_of(reading, self._sensor.info.rails)
        elapsed_s = (reading.t_ns - self._start_ns) / 1e9
        offset = self._offset_w * (elapsed_s if self.info.quantity == "energy" else 1.0)
        return Reading(reading.t_ns, (self._slope * whole + offset,), reading.segment)

    def close(self) -> None:
        """Close the sensor."""
        self._sensor.close()


def whole_of(reading: Reading, rails: tuple[Rail, ...]) -> float:
    """Return the total of a reading, or the sum of all rails where none is in a total.

    Raises:
        SensorError: a rail of it did not answer.
    """
    if any(rail.in_total for rail in rails):
        total = reading.total(rails)
    else:
        values = [value for value in reading.values if value is not None]
        total = sum(values) if len(values) == len(reading.values) else None
    if total is None:
        why = "; ".join(reason for reason in reading.reasons if reason)
        raise SensorError(f"a rail that the whole is made of did not answer: {why}")
    return total


def apply(sensor: Meter, name: str, calibration: Calibration) -> CalibratedMeter:
    """Return the sensor behind its calibration."""
    fit = calibration.fit
    slope_half, offset_half = fit.slope - fit.slope_ci95[0], fit.offset_w - fit.offset_ci95_w[0]
    note = (
        f"{calibration.sensor} fitted to {calibration.reference} on {calibration.fitted_at[:10]}: "
        f"slope {fit.slope:.4f} +- {slope_half:.4f}, offset {fit.offset_w:.3f} +- {offset_half:.3f} W (95 %), "
        f"residuals {fit.residual_rms_w:.3f} W, from {fit.sensor_min_w:.3g} to {fit.sensor_max_w:.3g} W of the sensor"
    )
    return CalibratedMeter(
        sensor, f"calibrated:{name}", fit.slope, fit.offset_w, calibration.covers, "calibrated", note
    )


def check_board(calibration: Calibration, root: Path) -> None:
    """Refuse a calibration of another board.

    Raises:
        SensorError: it was made elsewhere.
    """
    here = board_name(root)
    if calibration.board != here:
        raise SensorError(
            f"the calibration was made for {calibration.board!r}, this board is {here!r}: calibrate this one"
        )
