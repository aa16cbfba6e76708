"""A thread that reads a meter at a steady rate and answers for any window that it still remembers.

    with Sampler(meter, hz=40.0) as sampler:
        t0 = monotonic_ns()
        ...                                  # the model computes
        t1 = monotonic_ns()
        sampler.read_now()                   # a sample after the window, without waiting for the next beat
        print(sampler.joules(t0, t1))

A sensor that stops answering leaves a gap, and the thread goes on trying; windows over the gap say so.

What a beat costs is a wake-up and what is touched after it: caches are cold by then, so the same line of Python takes
several times as long as in a loop. So a beat only asks the sensor, and answers are understood many at once, or when a
window is asked for; the samples are numbers in arrays, which the garbage collector never visits.
"""

import logging
import math
import os
import select
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from multispin_models.clock import monotonic_ns
from multispin_models.energy.meter import Asked, Meter, QuickMeter, Reading
from multispin_models.energy.window import EnergySample, PowerSample, Window, energy_between
from multispin_models.errors import SensorError

__all__ = ["Sampler"]

_log = logging.getLogger(__name__)
_FAILURES_KEPT = 1000
_UNDERSTOOD_AT_ONCE = 32


class Sampler:
    """Keeps the latest samples of one meter.

    Args:
        meter: open; closed by `stop`. One thread at a time reads it.
        hz: samples a second asked for; no more than the sensor has.
        capacity: most samples kept; when full, the oldest eighth is dropped. 144,000 are an hour at 40 Hz, 3.5 MB.
        wait: returns true to end the thread, after at most so many seconds; tests give their own.

    Raises:
        SensorError: the meter has no rail for the whole.
    """

    def __init__(
        self, meter: Meter, hz: float = 40.0, capacity: int = 144_000, wait: Callable[[float], bool] | None = None
    ) -> None:
        self.info = meter.info
        if not any(rail.in_total for rail in self.info.rails):
            names = ", ".join(rail.name for rail in self.info.rails)
            raise SensorError(f"meter {self.info.name} has no rail for the whole ({names}); none is invented")
        if not (math.isfinite(hz) and hz > 0.0) or capacity < 16:
            raise ValueError(f"hz is {hz} and capacity {capacity}; allowed are above 0, and 16 or more")
        self.hz = min(hz, self.info.native_hz or hz)
        self.num_failures = 0
        self._meter = meter
        self._whole = [index for index, rail in enumerate(self.info.rails) if rail.in_total]
        self._is_power = self.info.quantity == "power"
        self._capacity = capacity
        self._quick = meter if isinstance(meter, QuickMeter) else None
        self._asked: list[Asked] = []  # not understood yet
        self._times = array("q")  # of the samples, in nanoseconds
        self._totals = array("d")  # watts, or joules counted
        self._segments = array("q")
        self._failures: deque[tuple[int, str]] = deque(maxlen=_FAILURES_KEPT)
        self._lock = threading.Lock()  # of the meter and of the samples
        self._stopped = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()  # costs less than to wait for an event, or to select
        self._poll.register(self._wake, select.POLLIN)
        self._wait = wait or self._wait_until_stopped
        self._thread: threading.Thread | None = None
        self._cpu_clock: int | None = None  # of the thread
        self._cpu_s = 0.0

    @property
    def cpu_s(self) -> float:
        """Processor seconds that the thread has used: the sampler's own cost."""
        if self._cpu_clock is not None:
            with suppress(OSError):  # the thread has ended just now
                return time.clock_gettime(self._cpu_clock)
        return self._cpu_s

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Take the first sample and start the thread."""
        assert self._thread is None, "a sampler is started once"
        self.read_now()
        self._thread = threading.Thread(target=self._run, name=f"sampler-{self.info.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, take a last sample and close the meter; what was sampled can still be asked for."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        self.read_now()
        self._meter.close()
        os.close(self._wake)

    def read_now(self) -> bool:
        """Take a sample at once, for the edge of a window; return whether the sensor answered."""
        with self._lock:
            num_failures = self.num_failures
            self._ask()
            self._understand()
            return self.num_failures == num_failures

    def joules(self, t0_ns: int, t1_ns: int, *, max_gap_s: float | None = None, min_samples: int = 1) -> Window:
        """Return the energy of the meter's total from t0 to t1; the arguments are those of `energy_between`.

        Without `max_gap_s`, one second or five intervals are joined, whichever is longer.
        """
        gap_s = max(1.0, 5.0 / self.hz) if max_gap_s is None else max_gap_s
        with self._lock:
            self._understand()
            # The window and a sample on each side, copied: a long window takes longer to add up than a beat lasts.
            begin = max(bisect_right(self._times, t0_ns) - 1, 0)
            part = slice(begin, bisect_left(self._times, t1_ns) + 1)
            times, totals, segments = self._times[part], self._totals[part], self._segments[part]
            failures = [message for t_ns, message in self._failures if t0_ns <= t_ns <= t1_ns]
        samples: list[PowerSample] | list[EnergySample] = (
            [*map(PowerSample, times, totals)] if self._is_power else [*map(EnergySample, times, totals, segments)]
        )
        window = energy_between(samples, t0_ns, t1_ns, max_gap_s=gap_s, min_samples=min_samples)
        if window.joules is None and failures:
            return window._replace(reason=f"{window.reason}; {len(failures)} failed reads, the last: {failures[-1]}")
        return window

    def _wait_until_stopped(self, seconds: float) -> bool:
        return bool(self._poll.poll(seconds * 1e3))

    def _run(self) -> None:
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        interval_ns = round(1e9 / self.hz)
        now_ns = monotonic_ns()
        due_ns = now_ns + interval_ns
        while not self._wait(max(due_ns - now_ns, 0) / 1e9):
            with self._lock:
                self._ask()
                if len(self._asked) >= _UNDERSTOOD_AT_ONCE:
                    self._understand()
            # Beats that were missed are skipped, not caught up: they would bunch.
            now_ns = monotonic_ns()
            due_ns += (max(now_ns - due_ns, 0) // interval_ns + 1) * interval_ns
        self._cpu_s, self._cpu_clock = time.thread_time(), None

    def _ask(self) -> None:
        """Ask the sensor now, and keep what it answers."""
        try:
            if self._quick is not None:
                self._asked.append(self._quick.ask())
            else:
                reading = self._meter.read()
                self._asked.append((reading.t_ns, reading))
        except SensorError as error:
            self._note_failure(monotonic_ns(), str(error))

    def _understand(self) -> None:
        """Turn what was asked into samples."""
        for asked in self._asked:
            try:
                self._keep(asked[1] if self._quick is None else self._quick.understand(asked))
            except SensorError as error:
                self._note_failure(asked[0], str(error))
        self._asked.clear()

    def _keep(self, reading: Reading) -> None:
        parts = [reading.values[index] for index in self._whole]
        total = math.nan if None in parts else math.fsum(parts)  # type: ignore[arg-type]
        if not math.isfinite(total):
            why = "; ".join(reason for reason in reading.reasons if reason) or "no reason is known"
            raise SensorError(
                f"meter {self.info.name} gave {reading.values}: a rail of its total did not answer: {why}"
            )
        if self._times and reading.t_ns <= self._times[-1]:
            return  # twice within the clock's resolution
        self._times.append(reading.t_ns)
        self._totals.append(total)
        self._segments.append(reading.segment)
        if len(self._times) > self._capacity:
            for column in (self._times, self._totals, self._segments):
                del column[: self._capacity // 8]

    def _note_failure(self, t_ns: int, message: str) -> None:
        last_message = self._failures[-1][1] if self._failures else None
        self.num_failures += 1
        self._failures.append((t_ns, message))
        if message != last_message:  # once a fault, not forty times a second
            _log.warning("meter %s did not answer: %s", self.info.name, message)
