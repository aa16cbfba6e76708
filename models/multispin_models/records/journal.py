"""What a start of an end leaves behind besides its requests: the box, its conditions, and the account of its joules.

Each record goes into the sink (a recorder, a store) and to a file of the output folder, where there are such:
end.jsonl, conditions.jsonl, energy.jsonl.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from multispin_models.energy.conditions import Conditions, ConditionsLog
from multispin_models.energy.meter import MeterInfo
from multispin_models.language_model import ModelInfo
from multispin_models.records.files import JsonlWriter
from multispin_models.records.kinds import AnyRecord
from multispin_models.records.machine import Noted, describe_end
from multispin_models.records.schema import ConditionsRecord, EnergyRecord

__all__ = ["Account", "Journal"]

_log = logging.getLogger(__name__)

CONDITIONS_S: Final = 60.0  # a kilobyte each


class Account(NamedTuple):
    """The joules of an end.

    Attributes:
        meter: that it reads; or the reason why it reads none.
        settle: counts what was drawn up to now; called every minute, as a sampler forgets.
        record: returns the account up to now; null without a meter.
    """

    meter: MeterInfo | str
    settle: Callable[[], object]
    record: Callable[[], EnergyRecord | None]


class Journal:
    """Keeps these records.

    Args:
        run_id: in every record.
        end: "coordinator" or "agent:NAME".
        model: target or draft as served.
        config: settings of the end.
        account: of its joules.
        sink: takes each record; null takes none.
        out: folder for files, which is there; null writes none.
    """

    def __init__(
        self,
        run_id: str,
        end: str,
        model: ModelInfo,
        config: Noted,
        account: Account,
        sink: Callable[[list[AnyRecord]], None] | None,
        out: Path | None,
    ) -> None:
        self._run_id = run_id
        self._end = end
        self._model = model
        self._config = config
        self._account = account
        self._sink = sink
        self._out = out

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Record the box and its conditions before, every minute and after, and the account of joules at the end."""
        if self._sink is None and self._out is None:
            yield
            return
        loop = asyncio.get_running_loop()

        def write(conditions: Conditions) -> None:  # from threads
            loop.call_soon_threadsafe(self._note, conditions)

        log = ConditionsLog(write, CONDITIONS_S)
        # Programs and firmware are asked: not in the loop.
        box = await asyncio.to_thread(
            describe_end, self._run_id, self._end, self._model, self._config, self._account.meter
        )
        self._take("end", box)
        await asyncio.to_thread(log.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(log.__exit__, None, None, None)
            record = self._account.record()
            if record is not None:
                self._take("energy", record)

    def _note(self, conditions: Conditions) -> None:
        self._take("conditions", ConditionsRecord(run_id=self._run_id, end=self._end, conditions=conditions))
        self._account.settle()

    def _take(self, name: str, record: AnyRecord) -> None:
        if self._sink is not None:
            self._sink([record])
        if self._out is None:
            return
        path = self._out / f"{name}.jsonl"
        try:
            with JsonlWriter(path) as writer:
                writer.append(record)
        except OSError as error:  # requests go on
            _log.error("%s: %s is lost: %s", path, type(record).__name__, error.strerror)
