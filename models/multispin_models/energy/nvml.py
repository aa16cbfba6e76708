"""NVIDIA graphics cards, through the driver's management library (NVML).

Joules counted by the card where it can (Volta and later; a new value about every 10 ms), else watts, which newer
drivers average over a second. On a Jetson the library starts and answers "Not Supported" to every question of power:
that is said, and is never a zero. Needs the package nvidia-ml-py, which is imported here only and is no requirement.

Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption (mJ since the driver was loaded),
nvmlDeviceGetPowerUsage (mW).
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from multispin_models.energy.meter import MeterInfo, Quantity, Rail
from multispin_models.energy.rail_meter import RailMeter, ask_each
from multispin_models.errors import SensorAbsent, SensorError

__all__ = ["open_cards", "open_first"]

_QUESTIONS: tuple[tuple[Quantity, str], ...] = (
    ("energy", "nvmlDeviceGetTotalEnergyConsumption"),
    ("power", "nvmlDeviceGetPowerUsage"),
)


def open_first(root: Path) -> RailMeter:
    """Return the meter of this machine's graphics cards.

    Raises:
        SensorAbsent: there is no driver, no card or no nvidia-ml-py; or `root` is a recorded tree.
        SensorError: the cards do not report power.
    """
    if root != Path("/"):
        raise SensorAbsent(f"NVML asks the driver of this machine; there is none in {root}")
    try:
        library = importlib.import_module("pynvml")
    except ImportError as error:
        raise SensorAbsent("the Python package nvidia-ml-py is not installed: pip install nvidia-ml-py") from error
    return open_cards(library)


def open_cards(library: Any) -> RailMeter:
    """Return the meter of all cards.

    Args:
        library: the module pynvml of nvidia-ml-py.

    Raises:
        SensorAbsent: the library does not start, or finds no card.
        SensorError: a card answers neither question.
    """
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise SensorAbsent(f"NVML does not start: {error}; is the NVIDIA driver loaded?") from error
    try:
        quantity, sources = _sources(library)
    except SensorError:
        library.nvmlShutdown()
        raise
    info = MeterInfo(
        name="nvml",
        quantity=quantity,
        covers="gpu",
        label="measured",
        rails=tuple(Rail(f"gpu{index}", in_total=True) for index in range(len(sources))),
        native_hz=100.0 if quantity == "energy" else 10.0,
        note="graphics cards with their memory only"
        + ("" if quantity == "energy" else "; watts averaged by the driver"),
    )
    return RailMeter(info, lambda: ask_each(sources), library.nvmlShutdown)


def _sources(library: Any) -> tuple[Quantity, list[Callable[[], float]]]:
    """Return the first question that every card answers."""
    try:
        cards = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
    except library.NVMLError as error:
        raise SensorError(f"NVML does not list its cards: {error}") from error
    if not cards:
        raise SensorAbsent("NVML finds no card")
    faults = []
    for quantity, question in _QUESTIONS:
        sources: list[Callable[[], float]] = [partial(_ask, library, question, card) for card in cards]
        refused = [answer for answer in ask_each(sources) if isinstance(answer, SensorError)]
        if not refused:
            return quantity, sources
        faults.append(str(refused[0]))
    raise SensorError("; ".join(faults) + ": this driver reports no power (on a Jetson use the meter 'jetson')")


def _ask(library: Any, question: str, card: Any) -> float:
    try:
        return float(getattr(library, question)(card)) * 1e-3
    except library.NVMLError as error:
        raise SensorError(f"{question} answered: {error}") from error
