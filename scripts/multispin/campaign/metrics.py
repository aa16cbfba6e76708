"""The figures by which arms are compared, and how each is shown."""

from typing import Final, NamedTuple

__all__ = ["METRICS", "WAITED", "Metric"]


class Metric(NamedTuple):
    """A figure of a cell, and how it is shown.

    Attributes:
        name: field of `CellFigures`.
        title: in words.
        unit: as shown.
        scale: from SI to that unit.
        lower_is_better: or else more is.
        is_ratio: arms are compared by ratio; by difference where figures can be 0.
    """

    name: str
    title: str
    unit: str
    scale: float = 1.0
    lower_is_better: bool = True
    is_ratio: bool = True


METRICS: Final = (
    Metric("ttft_s", "Time to first token (TTFT)", "ms", 1e3),
    Metric("tpot_s", "Time per output token (TPOT)", "ms", 1e3),
    Metric("e2e_s", "Time of a whole request", "s"),
    Metric("goodput_tokens_per_s", "Goodput, all users", "tokens/s", lower_is_better=False),
    Metric("energy_j_per_token", "Energy", "J/token"),
    Metric("backhaul_bytes_per_token", "Backhaul payload, both ways", "B/token", is_ratio=False),
)

WAITED: Final = Metric("waited_s", "Wait of a request until it was begun", "ms", 1e3, is_ratio=False)
"""Where requests come by themselves; not in `METRICS`: together they come when they are begun."""
