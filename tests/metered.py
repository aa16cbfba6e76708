"""A sampler on a meter and a clock that the test moves by hand: every window is known exactly."""

from collections.abc import Callable

from multispin_models.energy import MeterInfo, Rail, Reading, Sampler
from multispin_models.energy.meter import Quantity
from multispin_models.errors import SensorError

S = 1_000_000_000


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.t_ns = 0

    def __call__(self) -> int:
        return self.t_ns


class CurveMeter:
    """Joules counted, or watts, as a function of seconds; None does not answer."""

    def __init__(self, clock: HandClock, curve: Callable[[float], float | None], quantity: Quantity = "energy") -> None:
        self.info = MeterInfo("curve", quantity, "socket", "measured", (Rail("all", in_total=True),))
        self.closed = False
        self._clock = clock
        self._curve = curve

    def read(self) -> Reading:
        value = self._curve(self._clock.t_ns / S)
        if value is None:
            raise SensorError("no answer")
        return Reading(self._clock.t_ns, (value,))

    def close(self) -> None:
        self.closed = True


def sampled(
    clock: HandClock, curve: Callable[[float], float | None], quantity: Quantity = "energy"
) -> tuple[Sampler, CurveMeter]:
    """Return a sampler that reads when it is told to, never by itself, and its meter."""
    meter = CurveMeter(clock, curve, quantity)
    return Sampler(meter), meter
