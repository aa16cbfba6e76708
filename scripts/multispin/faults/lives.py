"""Memory and open files of every daemon, life by life."""

import time
from collections.abc import Sequence

import msgspec
import psutil

from multispin.faults.figures import DaemonFigures
from multispin.faults.site import Site

__all__ = ["Lives"]

WARM_S = 60.0


class _Life(msgspec.Struct):
    pid: int
    begun_s: float
    samples: list[tuple[float, float, int]]  # age, MB, files


class Lives:
    """What was read so far.

    Args:
        site: whose daemons.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lives: dict[str, list[_Life]] = {name: [] for name in site.daemons}

    def sample(self) -> None:
        """Read memory and open files of every daemon that serves."""
        for name, daemon in self._site.daemons.items():
            if not daemon.is_up:
                continue
            lives, now_s = self._lives[name], time.monotonic()
            if not lives or lives[-1].pid != daemon.supervised.pid:
                lives.append(_Life(daemon.supervised.pid, now_s, []))
            try:
                process = psutil.Process(daemon.supervised.pid)
                sample = now_s - lives[-1].begun_s, process.memory_info().rss / 1e6, process.num_fds()
            except psutil.Error:
                continue
            lives[-1].samples.append(sample)

    def unkilled(self) -> set[str]:
        """Return the daemons that have lived once."""
        return {name for name, daemon in self._site.daemons.items() if daemon.supervised.num_restarts == 0}

    def figures(self) -> tuple[DaemonFigures, ...]:
        """Return the longest life of each."""
        return tuple(_longest(name, lives) for name, lives in self._lives.items() if lives)


def _longest(name: str, lives: Sequence[_Life]) -> DaemonFigures:
    longest = max(lives, key=lambda life: life.samples[-1][0] if life.samples else 0.0)
    samples = longest.samples or [(0.0, 0.0, 0)]
    life_s = samples[-1][0]
    first = next((sample for sample in samples if sample[0] >= min(WARM_S, life_s / 5)), samples[-1])
    return DaemonFigures(name, len(lives), life_s, first[1], samples[-1][1], first[2], samples[-1][2])
