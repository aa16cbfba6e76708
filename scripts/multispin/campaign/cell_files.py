"""What stands in the folder of one cell besides its tables of requests and rounds."""

from typing import Final, Literal

from msgspec import Struct

from multispin_models.records import Machine

__all__ = [
    "CellClock",
    "CellEnergy",
    "ClockBound",
    "ConditionsRow",
    "EnergyLabel",
    "EnergyWindow",
    "ExternalHeader",
    "SCHEMA_VERSION",
]

SCHEMA_VERSION: Final = 1  # of the layout of a run; goes up when a field changes its meaning or goes away

EnergyLabel = Literal["measured", "calibrated", "modelled", "replayed"]


class ExternalHeader(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an external arm was: what the server says of itself, and how it was asked.

    Attributes:
        run_id, started_at, machine, boot_id, governor: as in a `RunHeader`; the machine of the users.
        url: of the server.
        command: that started it; null if it was there.
        model: as it calls it; "" if it does not.
        model_files: sha256 by file name of what it was given to serve, where the plan names it.
        body: further keys of every request.
        seed, temperature, top_k, top_p: asked for; a server may know them otherwise.
        text_is_comparable: false: its template, its draws and its numbers are its own.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    started_at: str
    machine: Machine
    boot_id: str | None
    governor: str | None
    url: str
    command: tuple[str, ...] | None
    model: str
    model_files: dict[str, str]
    body: dict[str, bool | int | float | str] = {}
    seed: int
    temperature: float
    top_k: int
    top_p: float
    text_is_comparable: bool = False


class EnergyWindow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The joules of one end over one stretch of time. Joules are null with a reason, never 0 for want of a sensor.

    Attributes:
        end: "machine" for all ends on the driver's, "coordinator", or "agent:NAME".
        domain: as in `MeteredEnd`: windows of one domain see the same joules, which count once.
        kind: "idle", before the cell with its processes up and nothing asked; or "run", from the first request's start
            to the last one's end.
        started_ns, ended_ns: monotonic, of that end's machine.
        energy_j: null if it is not known.
        reason: why it is null; else null.
        label: of it; null without a meter. "replayed" is a recording's, not the energy of this run.
        meter: its id, as in `MeterInfo`; null without one.
        covers: as in `MeterInfo`; null likewise.
        native_hz: of the meter, as in `MeterInfo`.
        achieved_hz, largest_gap_s, coverage, num_samples: as in `energy.Window`.
        note: of the meter.
    """

    end: str
    domain: str
    kind: Literal["idle", "run"]
    started_ns: int
    ended_ns: int
    energy_j: float | None
    reason: str | None
    label: EnergyLabel | None
    meter: str | None
    covers: str | None
    native_hz: float | None = None
    achieved_hz: float | None = None
    largest_gap_s: float | None = None
    coverage: float | None = None
    num_samples: int = 0
    note: str = ""


class CellEnergy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All windows of a cell: for each end one idle and one run."""

    cell_id: str
    windows: tuple[EnergyWindow, ...]


class ClockBound(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How well the clock of one agent's machine is known against the coordinator's.

    Attributes:
        agent_id: whose.
        is_same_machine: one kernel's clock: there is nothing to be off.
        rounds: that carried a bound.
        bound_s_median, bound_s_largest: of them; null without one.
        clock_events: rounds in which a clock was seen to jump.
    """

    agent_id: str
    is_same_machine: bool
    rounds: int
    bound_s_median: float | None
    bound_s_largest: float | None
    clock_events: int


class CellClock(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The clocks of a cell: one bound an agent; none where no agent took part."""

    cell_id: str
    agents: tuple[ClockBound, ...]


class ConditionsRow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A machine at an instant, flat; fields as in `Conditions`.

    Attributes:
        end: "machine" for the driver's, or "agent:NAME" for that of an agent elsewhere.
        temperature_c: the hottest zone; null where none is told.
        temperatures_c: JSON, by zone.
        throttled: JSON list of flags; null on other machines than a Raspberry Pi.
        throttle_events: JSON, counters since boot by name.
        frequency_hz: mean of the cores; null where it is not told.
        frequencies_hz: of the cores.
        governor: of the first core.
        rssi_dbm, link_rate_bps: of the first link that tells them.
        faults: JSON list.
    """

    end: str
    when: Literal["before", "during", "after"]
    t_ns: int
    wall: str
    temperature_c: float | None
    temperatures_c: str
    throttled: str | None
    throttle_events: str
    frequency_hz: float | None
    frequencies_hz: tuple[float | None, ...]
    governor: str | None
    power_mode: str | None
    rssi_dbm: float | None
    link_rate_bps: float | None
    load_1min: float | None
    machine_busy_s: float | None
    own_busy_s: float
    available_memory_bytes: int | None
    faults: str
