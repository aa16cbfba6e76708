"""An agent that stays between the blocks of a measurement: the daemon's own parts, told on its input what to serve.

    python -m multispin.bench.cooperate_agent PARENT CONFIG

CONFIG is the agent's settings as JSON. "ready" on standard output says that the coordinator has welcomed it; then each
line of standard input is a `Block`, and "done" answers it when its records are written. It ends with its input.
"""

import asyncio
import logging
import sys
from pathlib import Path

import msgspec
import zmq
from msgspec import Struct

from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import open_draft_source
from multispin_agent.serve_file import ServeFile
from multispin_models.engine_thread import EngineThread
from multispin_models.process import exit_with_parent
from multispin_models.prompts import Job

__all__ = ["Block", "main"]


class Block(Struct, frozen=True, forbid_unknown_fields=True):
    """What to serve now, and the folder for its records."""

    out: str
    jobs: list[Job]


async def _agent(config: Config) -> None:
    loop = asyncio.get_running_loop()
    with zmq.Context() as context, EngineThread() as engine:
        drafts = await engine.run(open_draft_source, config)
        client = Client(config, drafts.info, context)
        try:
            await client.ready()
            print("ready", flush=True)
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                block = msgspec.json.decode(line, type=Block)
                client.history.verdict = None  # what another arm said last is nothing to begin with
                serve = ServeFile(config, client, drafts, engine, "not metered", Path(block.out), "bench")
                await serve.run(block.jobs)
                print("done", flush=True)
        finally:
            await client.close()
            drafts.close()


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    parent, config = arguments
    exit_with_parent(int(parent))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    asyncio.run(_agent(msgspec.json.decode(config, type=Config)))


if __name__ == "__main__":
    main(sys.argv[1:])
