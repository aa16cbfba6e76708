"""An agent that stays between the blocks of a measurement: the daemon's own parts, told on its input what to serve.

    python -m multispin.bench.cooperate_agent PARENT CONFIG

CONFIG is a `Start` as JSON. "ready" and the draft's `ModelInfo` on standard output say that the coordinator has
welcomed it; then each line of standard input is a `Block`, and a line "done" with an `Answer` says what became of it:
everything goes through these two, so the agent may be on another machine (`ssh BOX python -m ...`, PARENT 0). It ends
when its input does, whatever it is doing.
"""

import asyncio
import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
import zmq
from msgspec import Struct

from multispin.bench.cooperate_protocol import NULL_ENGINE, Answer, Block, input_lines
from multispin.bench.draft_alone import write_alone
from multispin.bench.null_model import DRAFT_PASS, NullModel, NullTokenizer
from multispin_agent.attribution import BoxEnergy
from multispin_agent.client import Client
from multispin_agent.config import Config
from multispin_agent.draft_source import DraftSource, model_source, open_draft_source
from multispin_agent.serve_file import ServeFile
from multispin_models.clock import monotonic_ns
from multispin_models.energy import Sampler, open_meter
from multispin_models.energy.conditions import Conditions, ConditionsLog
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import Loaded, load_side, log_progress
from multispin_models.errors import MultispinError
from multispin_models.language_model import LanguageModel
from multispin_models.process import exit_with_parent
from multispin_models.records import (
    ConditionsRecord,
    EnergyRecord,
    MeteredEnd,
    RequestRecord,
    RoundRecord,
    energy_domain,
    energy_record,
    read_boot_id,
    read_jsonl,
)
from multispin_models.settings import load_settings

__all__ = ["Start", "main"]

END_S: Final = 5.0  # to close, when nobody asks any more


class Start(Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent is.

    Attributes:
        config: its settings.
        file: an agent.toml on its machine, whose `security`, `meter`, `idle_s` and `notes` win; null for none.
    """

    config: Config
    file: str | None = None


def _settings(start: Start) -> Config:
    if start.file is None:
        return start.config
    own = load_settings(Config, Path(start.file))
    return msgspec.structs.replace(
        start.config, security=own.security, meter=own.meter, idle_s=own.idle_s, notes=own.notes
    )


def _open_drafts(config: Config) -> DraftSource:
    if config.engine == NULL_ENGINE:
        model = NullModel(DRAFT_PASS, 2 * config.max_concurrent, is_draft=True)
        return model_source(Loaded(model, NullTokenizer()))
    return open_draft_source(config)


class _Agent:
    """Loaded and connected."""

    def __init__(self, config: Config, client: Client, drafts: DraftSource, engine: EngineThread) -> None:
        self._config = config
        self._client = client
        self._drafts = drafts
        self._engine = engine
        opened = open_meter(config.meter)
        self._reason = opened.reason
        self._sampler = None if opened.meter is None else Sampler(opened.meter)
        if self._sampler is not None:
            self._sampler.start()
        self._end = f"agent:{config.agent_id}"
        self._by_itself: LanguageModel | None = None

    def close(self) -> None:
        """Free what it holds."""
        if self._by_itself is not None:
            self._by_itself.close()
        if self._sampler is not None:
            self._sampler.stop()

    async def serve(self, block: Block) -> Answer:
        """Serve a block, and look at the box meanwhile."""
        found: list[ConditionsRecord] = []
        if not block.conditions_s:
            return await self._serve(block, found)

        def note(conditions: Conditions) -> None:  # from a thread
            found.append(ConditionsRecord(run_id=block.run_id, end=self._end, conditions=conditions))

        log = ConditionsLog(note, block.conditions_s)
        await asyncio.to_thread(log.__enter__)  # programs and firmware are asked
        try:
            answer = await self._serve(block, found)
        finally:
            await asyncio.to_thread(log.__exit__, None, None, None)
        return msgspec.structs.replace(answer, conditions=found)

    async def _serve(self, block: Block, conditions: list[ConditionsRecord]) -> Answer:
        if not block.jobs:
            return self._answer(monotonic_ns(), [], [], conditions, None, None)
        idle = await self._idle(block)
        self._client.history.verdict = None  # what another arm said last is nothing to begin with
        box = self._reason if self._sampler is None else BoxEnergy(self._sampler)
        with tempfile.TemporaryDirectory(prefix="multispin-agent-") as folder:
            out = Path(folder)
            if block.by_itself:
                begun_ns, requests, window = await self._engine.run(self._write, block)
                return self._answer(begun_ns, requests, [], conditions, idle, window)
            serve = ServeFile(
                msgspec.structs.replace(self._config, max_concurrent=block.at_once),
                self._client,
                self._drafts,
                self._engine,
                box,
                out,
                block.run_id,
                due_s=block.due_s,
            )
            await serve.run(block.jobs)
            energy = read_jsonl(out / "energy.jsonl", EnergyRecord).records if self._sampler is not None else []
            return self._answer(
                serve.begun_ns,
                read_jsonl(out / "requests.jsonl", RequestRecord).records,
                read_jsonl(out / "rounds.jsonl", RoundRecord).records,
                conditions,
                idle,
                energy[-1] if energy else None,
            )

    def _answer(
        self,
        begun_ns: int,
        requests: list[RequestRecord],
        rounds: list[RoundRecord],
        conditions: list[ConditionsRecord],
        idle: EnergyRecord | None,
        energy: EnergyRecord | None,
    ) -> Answer:
        info = None if self._sampler is None else self._sampler.info
        return Answer(
            begun_ns=begun_ns,
            requests=requests,
            rounds=rounds,
            conditions=conditions,
            meter=MeteredEnd(
                self._end,
                energy_domain(info, read_boot_id(), self._end),
                info,
                self._reason if info is None else None,
            ),
            idle=idle,
            energy=energy,
        )

    async def _idle(self, block: Block) -> EnergyRecord | None:
        begun_ns = monotonic_ns()
        await asyncio.sleep(block.idle_s)
        return self._window(block.run_id, begun_ns) if block.idle_s else None

    def _window(self, run_id: str, begun_ns: int) -> EnergyRecord | None:
        """Return what was counted since; null without a meter."""
        if self._sampler is None:
            return None
        ended_ns = monotonic_ns()
        self._sampler.read_now()
        return energy_record(run_id, self._end, begun_ns, ended_ns, self._sampler.joules(begun_ns, ended_ns))

    def _write(self, block: Block) -> tuple[int, list[RequestRecord], EnergyRecord | None]:
        """Let the draft model write each job's text; in the engine's thread."""
        begun_ns = monotonic_ns()
        model, tokenizer = self._model(), self._drafts.tokenizer
        records = []
        for job in block.jobs:
            due_ns = begun_ns + int(block.due_s.get(job.job_id, 0.0) * 1e9)
            time.sleep(max(0.0, (due_ns - monotonic_ns()) / 1e9))
            records.append(write_alone(model, tokenizer, job, run_id=block.run_id, agent_id=self._config.agent_id))
        return begun_ns, records, self._window(block.run_id, begun_ns)

    def _model(self) -> LanguageModel:
        """Return a draft model of its own: drafts keep the other's sequences."""
        if self._by_itself is None:
            config = self._config
            if config.engine == NULL_ENGINE:
                self._by_itself = NullModel(DRAFT_PASS, 1, is_draft=True)
            else:
                self._by_itself = load_side(
                    config.pair,
                    "draft",
                    config.engine,
                    n_ctx=config.max_context_tokens,
                    max_sequences=1,
                    max_rows=64,
                    num_threads=config.threads,
                    progress=log_progress,
                ).model
        return self._by_itself


async def _run(start: Start, lines: "asyncio.Queue[bytes]") -> None:
    config = _settings(start)
    with zmq.Context() as context, EngineThread() as engine:
        drafts = await engine.run(_open_drafts, config)
        client = Client(config, drafts.info, context)
        agent = _Agent(config, client, drafts, engine)
        try:
            await client.ready()
            _say("ready", drafts.info)
            while line := await lines.get():
                _say("done", await agent.serve(msgspec.json.decode(line, type=Block)))
        finally:
            await client.close()
            agent.close()
            drafts.close()


def _say(word: str, what: Struct) -> None:
    sys.stdout.buffer.write(f"{word} ".encode() + msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


async def _read(start: Start) -> None:
    """Run until the input ends, which ends all at once: whoever asked is gone."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        for line in input_lines():
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, b"")
        if not ended.wait(END_S):
            os._exit(1)  # still at work for somebody who has gone

    ended = threading.Event()
    threading.Thread(target=read, name="input", daemon=True).start()
    try:
        await _run(start, lines)
    finally:
        ended.set()


def main(arguments: list[str]) -> int:
    """Serve until standard input ends; return the exit status."""
    parent, config = arguments
    if int(parent):
        exit_with_parent(int(parent))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        asyncio.run(_read(msgspec.json.decode(config, type=Start)))
    except MultispinError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
