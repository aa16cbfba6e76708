"""A coordinator or an agent whose model is the null engine; server, client, wire and records are the daemons' own.

    python -m multispin.bench.null_process PARENT coordinator NUM_AGENTS FOLDER
    python -m multispin.bench.null_process PARENT agent NAME ENDPOINT NUM_DRAFT_TOKENS PROMPTS FOLDER

PARENT is the process id of whoever starts it and takes it along when it dies. Each writes what its serving, without
the start, had of the processors to cpu.json in its folder.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import zmq

from multispin.bench.null_model import DRAFT_PASS, N_CTX, TARGET_PASS, NullModel, NullTokenizer
from multispin_agent.client import Client
from multispin_agent.config import Config as AgentConfig
from multispin_agent.draft_source import model_source
from multispin_agent.serve_file import ServeFile
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import Config as CoordinatorConfig
from multispin_coordinator.config import Limits
from multispin_coordinator.server import Server
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded
from multispin_models.process import exit_with_parent
from multispin_models.prompts import JobDefaults, read_jobs

__all__ = ["CpuTime", "main"]


class CpuTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all threads of a process together had of the processors.

    Attributes:
        cpu_s: computing, user and system.
        core_wait_s: able to compute, but other threads had the cores; null where the kernel does not count it
            (CONFIG_SCHED_INFO). Source: Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
    """

    cpu_s: float
    core_wait_s: float | None


@contextmanager
def _cpu_time(folder: Path) -> Iterator[None]:
    begun_s, waited_s = time.process_time(), _core_wait_s()
    yield
    waited = None if waited_s is None else (_core_wait_s() or 0.0) - waited_s
    (folder / "cpu.json").write_bytes(msgspec.json.encode(CpuTime(time.process_time() - begun_s, waited)))


def _core_wait_s() -> float | None:
    """Return the seconds that the threads of this process have waited for a core so far."""
    try:
        stats = [path.read_text() for path in Path("/proc/self/task").glob("*/schedstat")]
    except OSError:
        return None
    return sum(int(stat.split()[1]) for stat in stats) / 1e9 if stats else None


async def _coordinator(num_agents: int, folder: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    model = NullModel(TARGET_PASS, num_agents, is_draft=False)
    limits = Limits(max_sessions=num_agents, max_context_tokens=N_CTX, max_prompt_tokens=N_CTX - 1)
    config = CoordinatorConfig(bind="tcp://127.0.0.1:*", engine="null", policy="fixed", limits=limits)
    with zmq.Context() as context:
        server = Server(config, Loaded(model, NullTokenizer()), model.info, PassMeter(None), context)
        print(f"ready {server.endpoint}", flush=True)
        with _cpu_time(folder):
            serving = asyncio.create_task(server.serve())
            await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


async def _agent(name: str, endpoint: str, num_draft_tokens: int, prompts: str, folder: Path) -> int:
    config = AgentConfig(
        agent_id=name, coordinator=endpoint, engine="null", num_draft_tokens=num_draft_tokens, draft_ahead=False
    )
    drafts = model_source(Loaded(NullModel(DRAFT_PASS, 1, is_draft=True), NullTokenizer()))
    jobs = read_jobs(prompts, JobDefaults())
    with zmq.Context() as context, EngineThread() as engine:
        client = Client(config, drafts.info, context)
        try:
            with _cpu_time(folder):
                return await ServeFile(config, client, drafts, engine, "null engine", folder, "bench").run(jobs)
        finally:
            await client.close()


def main(arguments: list[str]) -> int:
    """Run one end; return its exit status."""
    parent, end, *rest = arguments
    exit_with_parent(int(parent))
    if end == "coordinator":
        num_agents, folder = rest
        asyncio.run(_coordinator(int(num_agents), Path(folder)))
        return 0
    name, endpoint, num_draft_tokens, prompts, folder = rest
    return asyncio.run(_agent(name, endpoint, int(num_draft_tokens), prompts, Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
