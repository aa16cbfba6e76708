"""Records through spool and upload while the link is cut, the agent is killed and its disk is filled, at random.

What is checked at the end, against the coordinator's store: every record that an agent said was on its disk is there
exactly once, no record is there twice, and nothing is left in the spool. A record that was written when a kill came,
and of which nobody was told, may be there or not; those that are, are counted.
"""

import asyncio
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from multispin.bench.relay import Relay
from multispin.own_disk import empty_disk, fill_disk
from multispin_models.errors import MultispinError
from multispin_models.records import RoundRecord

__all__ = ["Chances", "RecordsFailed", "RecordsRun", "run_records"]

_PROCESS = [sys.executable, "-m", "multispin.bench.records_process", str(os.getpid())]
_PATIENCE_S = 300.0


class RecordsFailed(MultispinError):
    """An end of the bench did not do its part."""


class Chances(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean seconds between two of each, exponentially distributed; null for never.

    Attributes:
        kill_s: SIGKILL of the agent; another is started at once.
        cut_s: the link is cut, for 0.1 to 2 seconds.
        fill_s: the disk of the spool is filled to its last byte, for 0.1 to 2 seconds.
    """

    kill_s: float | None = 6.0
    cut_s: float | None = 5.0
    fill_s: float | None = 5.0


class RecordsRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of the records.

    Attributes:
        num_acknowledged: said to be on the agent's disk.
        num_stored: on the coordinator's.
        num_missing: acknowledged and not stored: must be 0.
        num_twice: stored more than once: must be 0.
        num_untold: stored though a kill came before they were acknowledged.
        num_left: still in the spool: must be 0.
        num_kills, num_cuts, num_fills: what was done to them.
        elapsed_s: from the first record to the last upload.
        seed: of the random moments.
    """

    num_acknowledged: int
    num_stored: int
    num_missing: int
    num_twice: int
    num_untold: int
    num_left: int
    num_kills: int
    num_cuts: int
    num_fills: int
    elapsed_s: float
    seed: int

    @property
    def is_right(self) -> bool:
        """Whether nothing was lost, doubled or left."""
        return self.num_missing == self.num_twice == self.num_left == 0


class _Bench:
    def __init__(self, chances: Chances, folder: Path, disk: Path, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - moments of trouble, not secrets
        self.counts = {"kill": 0, "cut": 0, "fill": 0}
        self.kept: list[int] = []  # by life
        self._chances = chances
        self._store, self._disk = folder / "store.sqlite", disk
        self._log = (folder / "daemons.log").open("ab")
        self._agent: asyncio.subprocess.Process | None = None

    async def run(self, count: int, on_progress: Callable[[int, int], None]) -> float:
        coordinator = await self._start("coordinator", str(self._store))
        assert coordinator.stdout is not None
        ready = (await coordinator.stdout.readline()).decode().split()
        if not ready:
            raise RecordsFailed("the coordinator of the bench did not start: see daemons.log")
        try:
            async with Relay("127.0.0.1", urlsplit(ready[1]).port or 0) as relay:
                begun = time.monotonic()
                troubles = [
                    asyncio.create_task(trouble) for trouble in (self._kills(), self._cuts(relay), self._fills())
                ]
                try:
                    while sum(self.kept) < count:
                        await self._life(relay, count - sum(self.kept), on_progress, sum(self.kept), count)
                finally:
                    for trouble in troubles:
                        trouble.cancel()
                    await asyncio.gather(*troubles, return_exceptions=True)
                relay.restore()
                empty_disk(self._disk)
                if not await self._life(relay, 0, on_progress, count, count):  # what a kill left in the spool
                    raise RecordsFailed("the last agent did not upload all of its spool: see daemons.log")
                return time.monotonic() - begun
        finally:
            await self._end(coordinator)
            self._log.close()

    async def _life(
        self, relay: Relay, wanted: int, on_progress: Callable[[int, int], None], before: int, count: int
    ) -> bool:
        """Run one agent to its end; return whether it ended by itself."""
        life = len(self.kept)
        self.kept.append(0)
        endpoint = f"tcp://127.0.0.1:{relay.port}"
        agent = self._agent = await self._start("agent", endpoint, str(self._disk / "spool.sqlite"), life, wanted)
        assert agent.stdout is not None
        try:
            while line := await asyncio.wait_for(agent.stdout.readline(), _PATIENCE_S):
                self.kept[life] = int(line.split()[1])
                on_progress(before + self.kept[life], count)
            status = await agent.wait()
        except TimeoutError as error:
            raise RecordsFailed(f"an agent of the bench made no progress for {_PATIENCE_S:.0f} s") from error
        finally:
            self._agent = None
            await self._end(agent)
        if status not in {0, -9}:
            raise RecordsFailed(f"an agent of the bench ended with status {status}: see daemons.log")
        return status == 0

    async def _start(self, *arguments: object) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *_PROCESS, *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=self._log
        )

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()

    # -- troubles -----------------------------------------------------------------------------------------------------

    async def _pause(self, mean_s: float | None) -> None:
        await asyncio.sleep(1e9 if mean_s is None else self.random.expovariate(1.0 / mean_s))

    async def _kills(self) -> None:
        while True:
            await self._pause(self._chances.kill_s)
            if self._agent is not None:
                self._agent.kill()
                self.counts["kill"] += 1

    async def _cuts(self, relay: Relay) -> None:
        while True:
            await self._pause(self._chances.cut_s)
            relay.cut()
            self.counts["cut"] += 1
            await asyncio.sleep(self.random.uniform(0.1, 2.0))
            relay.restore()

    async def _fills(self) -> None:
        while True:
            await self._pause(self._chances.fill_s)
            fill_disk(self._disk)
            self.counts["fill"] += 1
            await asyncio.sleep(self.random.uniform(0.1, 2.0))
            empty_disk(self._disk)

    # -- the check ----------------------------------------------------------------------------------------------------

    def check(self, elapsed_s: float, seed: int) -> RecordsRun:
        stored: set[tuple[int, int]] = set()
        num_stored = 0
        decoder = msgspec.json.Decoder(RoundRecord)
        with sqlite3.connect(self._store) as store:
            for (line,) in store.execute("SELECT line FROM records"):
                record = decoder.decode(line)
                stored.add((record.wire_request_id, record.round))
                num_stored += 1
        store.close()
        spool = sqlite3.connect(self._disk / "spool.sqlite")
        num_left = int(spool.execute("SELECT count(*) FROM records").fetchone()[0])
        spool.close()
        found = sum((life, number) in stored for life, kept in enumerate(self.kept) for number in range(kept))
        acknowledged = sum(self.kept)
        return RecordsRun(
            num_acknowledged=acknowledged,
            num_stored=num_stored,
            num_missing=acknowledged - found,
            num_twice=num_stored - len(stored),
            num_untold=len(stored) - found,
            num_left=num_left,
            num_kills=self.counts["kill"],
            num_cuts=self.counts["cut"],
            num_fills=self.counts["fill"],
            elapsed_s=elapsed_s,
            seed=seed,
        )


def run_records(
    count: int, chances: Chances, folder: Path, disk: Path, seed: int, on_progress: Callable[[int, int], None]
) -> RecordsRun:
    """Send records through all troubles and return what became of them.

    Args:
        count: records to be acknowledged.
        chances: of the troubles.
        folder: for the store and the log of the daemons.
        disk: folder of the spool, a file system of its own if it is to be filled.
        seed: of the random moments.
        on_progress: called with records acknowledged and asked for.

    Raises:
        RecordsFailed: an end did not start, or ended by itself.
    """
    bench = _Bench(chances, folder, disk, seed)
    elapsed_s = asyncio.run(bench.run(count, on_progress))
    return bench.check(elapsed_s, seed)
