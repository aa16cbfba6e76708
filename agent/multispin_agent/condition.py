"""What an agent says of its box, for whoever watches the coordinator: the draft, the power, the temperature.

Every few seconds, beside the pings; only an objective of tokens per joule asks for it. What the box cannot tell is
null, with the reason.
"""

import asyncio
from collections.abc import Callable

from multispin_models.clock import monotonic_ns
from multispin_models.energy import Sampler
from multispin_models.energy.conditions import read_temperatures
from multispin_models.language_model import ModelInfo
from multispin_models.messages import AgentMessage, Condition

__all__ = ["condition_of", "tell_condition"]

INTERVAL_S = 5.0
LONGEST = 2048  # characters of a reason


def condition_of(
    draft: str, meter: Sampler | str, temperatures_c: dict[str, float | None], t0_ns: int, t1_ns: int
) -> Condition:
    """Return what is to be said.

    Args:
        draft: what is drafted with, for people.
        meter: of the box, running; or the reason why there is none.
        temperatures_c: of its thermal zones.
        t0_ns, t1_ns: monotonic; the power is the mean between them.
    """
    power_mw = label = None
    if isinstance(meter, str):
        power_reason: str | None = meter
    else:
        window = meter.joules(t0_ns, t1_ns)
        power_reason = window.reason
        if window.joules is not None and t1_ns > t0_ns:
            power_mw, label, power_reason = round(window.joules / (t1_ns - t0_ns) * 1e12), meter.info.label, None
    known = [value for value in temperatures_c.values() if value is not None]
    return Condition(
        draft=draft[:255],
        power_mw=power_mw,
        power_label=label,
        power_reason=power_reason if power_reason is None else power_reason[:LONGEST],
        temperature_millidegrees=round(max(known) * 1e3) if known else None,
        temperature_reason=None if known else "this machine tells of no thermal zone",
    )


async def tell_condition(
    send: Callable[[AgentMessage], object],
    draft: Callable[[], ModelInfo],
    meter: Sampler | str,
    interval_s: float = INTERVAL_S,
) -> None:
    """Say it again and again, until cancelled; the first time at once."""
    while True:
        info = draft()
        name = f"{info.name}, {info.engine} {info.recipe}"
        now_ns = monotonic_ns()
        temperatures_c = await asyncio.to_thread(read_temperatures)
        send(condition_of(name, meter, temperatures_c, now_ns - round(interval_s * 1e9), now_ns))
        await asyncio.sleep(interval_s)
