"""The two ends of `multispin bench records`: spool, upload, wire and store are the daemons' own, no request is served.

    python -m multispin.bench.records_process PARENT coordinator STORE
    python -m multispin.bench.records_process PARENT agent ENDPOINT SPOOL LIFE COUNT

The agent makes COUNT records of rounds, numbered from 0 with its LIFE in each, and says "kept N" when the first N are
on its disk: from there on they must not get lost. It ends when the coordinator has all that is in the spool.
"""

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

import zmq

from multispin.bench.null_model import DRAFT_PASS, N_CTX, TARGET_PASS, NullModel, NullTokenizer
from multispin_agent.client import Client
from multispin_agent.config import Config as AgentConfig
from multispin_agent.spool import Spool
from multispin_agent.upload import Recorder
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_coordinator.server import Server
from multispin_coordinator.store import RecordStore
from multispin_models.engines import Loaded
from multispin_models.errors import ConfigError
from multispin_models.process import exit_with_parent
from multispin_models.records import RoundRecord, read_boot_id

__all__ = ["AGENT_ID", "RUN_ID", "main"]

AGENT_ID = "bench"
RUN_ID = "bench"
_AT_ONCE = 200
_OPENING_S = 60.0  # a disk may be full when a spool is opened


def _round(life: int, number: int) -> RoundRecord:
    return RoundRecord(
        run_id=RUN_ID,
        wire_request_id=life,
        agent_id=AGENT_ID,
        round=number,
        is_open=False,
        num_draft_tokens=4,
        num_accepted=number % 5,
        next_token_id=number % 49_152,
        sent_ns=1_000_000_000 * life + 37_000_000 * number,
        draft_s=0.012345,
        round_trip_s=0.024567,
        residence_s=0.018901,
        verify_s=0.016543,
        network_s=0.005666,
        batch_rows=5,
        ahead_hit=None,
        payload_up_bytes=33,
        payload_down_bytes=41,
    )


async def _coordinator(store: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    model = NullModel(TARGET_PASS, 1, is_draft=False)
    limits = Limits(max_sessions=1, max_context_tokens=N_CTX, max_prompt_tokens=N_CTX - 1)
    config = CoordinatorConfig(bind="tcp://127.0.0.1:*", engine="null", policy="fixed", limits=limits)
    with zmq.Context() as context:
        server = Server(
            config,
            Loaded(model, NullTokenizer()),
            model.info,
            PassMeter(None),
            context,
            store=RecordStore(Path(store)),
        )
        print(f"ready {server.endpoint}", flush=True)
        serving = asyncio.create_task(server.serve())
        await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def _open_spool(path: Path) -> Spool:
    """Open the spool, trying again while its disk is full."""
    for _ in range(int(_OPENING_S / 0.1)):
        with suppress(ConfigError):
            return Spool(path, AGENT_ID, read_boot_id() or "unknown", 1 << 40)
        await asyncio.sleep(0.1)
    return Spool(path, AGENT_ID, read_boot_id() or "unknown", 1 << 40)


async def _agent(endpoint: str, spool: str, life: int, count: int) -> None:
    config = AgentConfig(agent_id=AGENT_ID, coordinator=endpoint, engine="null")
    with zmq.Context() as context:
        client = Client(config, NullModel(DRAFT_PASS, 1, is_draft=True).info, context)
        recorder = Recorder(await _open_spool(Path(spool)), client, AGENT_ID, config.upload_bytes_per_s)
        for first in range(0, count, _AT_ONCE):
            after = min(first + _AT_ONCE, count)
            recorder.take(_round(life, number) for number in range(first, after))
            await recorder.written()
            print(f"kept {after}", flush=True)
        while not await recorder.flush(60.0):
            pass
        await recorder.close()
        await client.close()


def main(arguments: list[str]) -> int:
    """Run one end; return its exit status."""
    parent, end, *rest = arguments
    exit_with_parent(int(parent))
    if end == "coordinator":
        asyncio.run(_coordinator(*rest))
    else:
        endpoint, spool, life, count = rest
        asyncio.run(_agent(endpoint, spool, int(life), int(count)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
