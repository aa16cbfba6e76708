"""The joules of the driver's machine: one meter through the whole run, asked for the windows of every cell."""

from types import TracebackType
from typing import Any, Literal, Self

from multispin.campaign.asking import Window
from multispin.campaign.cell_files import EnergyLabel, EnergyWindow
from multispin_models.energy import Sampler, open_meter
from multispin_models.energy.meter import MeterInfo
from multispin_models.records import EnergyRecord, MeteredEnd, energy_domain, read_boot_id

__all__ = ["MachineMeter", "window_of_record"]

MACHINE = "machine"


class MachineMeter:
    """A context.

    Args:
        meter: as `open_meter` takes it.
        hz: samples a second.
    """

    def __init__(self, meter: str, hz: float) -> None:
        opened = open_meter(meter)
        self._reason = opened.reason
        self._sampler = None if opened.meter is None else Sampler(opened.meter, hz)

    def __enter__(self) -> Self:
        if self._sampler is not None:
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    @property
    def end(self) -> MeteredEnd:
        """What it is, for the header of a run."""
        info = None if self._sampler is None else self._sampler.info
        return MeteredEnd(MACHINE, energy_domain(info, read_boot_id()), info, self._reason if info is None else None)

    def window(self, kind: Literal["idle", "run"], window: Window) -> EnergyWindow:
        """Return the joules of a window that is over."""
        begun, ended = window.started_ns, window.ended_ns
        if self._sampler is None:
            return EnergyWindow(
                end=MACHINE,
                domain=self.end.domain,
                kind=kind,
                started_ns=begun,
                ended_ns=ended,
                energy_j=None,
                reason=self._reason,
                label=None,
                meter=None,
                covers=None,
            )
        self._sampler.read_now()
        found = self._sampler.joules(begun, ended)
        return EnergyWindow(
            end=MACHINE,
            domain=self.end.domain,
            kind=kind,
            started_ns=begun,
            ended_ns=ended,
            energy_j=found.joules,
            reason=found.reason,
            achieved_hz=found.achieved_hz,
            largest_gap_s=found.largest_gap_s,
            coverage=found.coverage,
            num_samples=found.num_samples,
            **_of_meter(self._sampler.info),
        )


def window_of_record(kind: Literal["idle", "run"], record: EnergyRecord, end: MeteredEnd) -> EnergyWindow:
    """Return the window that an end elsewhere has metered itself."""
    assert end.meter is not None
    return EnergyWindow(
        end=end.end,
        domain=end.domain,
        kind=kind,
        started_ns=record.started_ns,
        ended_ns=record.ended_ns,
        energy_j=record.energy_j,
        reason=record.reason,
        achieved_hz=record.achieved_hz,
        largest_gap_s=record.largest_gap_s,
        coverage=record.coverage,
        num_samples=record.num_samples,
        **_of_meter(end.meter),
    )


def _of_meter(info: MeterInfo) -> dict[str, Any]:
    label: EnergyLabel = "replayed" if info.name.startswith("replay:") else info.label
    return {
        "label": label,
        "meter": info.name,
        "covers": info.covers,
        "native_hz": info.native_hz,
        "note": info.note,
    }
