"""Starts an agent: settings, draft model, connection; then serves requests until they end or a signal comes.

    multispin agent --http-listen 127.0.0.1:8080                serve users over HTTP, as OpenAI's clients speak it
    multispin agent --prompts prompts.jsonl --out runs/a        serve a file, write records, end
    multispin agent < requests.jsonl                            serve lines from standard input, text to standard output

Over HTTP, the line "ready URL" on standard output says that the coordinator has welcomed the agent.
A line is {"prompt": ...} or {"turns": [...]} (its first turn), and may carry id, max_tokens, temperature, top_k,
top_p, seed, stop, ignore_end.
"""

import argparse
import asyncio
import logging
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import zmq

from multispin_agent.attribution import BoxEnergy, account_of
from multispin_agent.box_status import read_box_status, tell_box_status
from multispin_agent.client import Client
from multispin_agent.condition import tell_condition
from multispin_agent.config import RELOADABLE, Config
from multispin_agent.draft_source import DraftSource, open_draft_source
from multispin_agent.serve_file import ServeFile
from multispin_agent.spool import Spool
from multispin_agent.staging import settled_config
from multispin_agent.supply import follow_supply
from multispin_agent.upload import Recorder
from multispin_models.channel import check_endpoint
from multispin_models.energy import Sampler, open_meter
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import ENGINES
from multispin_models.errors import ConfigError, MultispinError
from multispin_models.journal import start_logging
from multispin_models.messages import BoxStatus
from multispin_models.open_files import raise_file_limit
from multispin_models.prompts import Job, add_job_flags, job_defaults, read_jobs
from multispin_models.records import read_boot_id
from multispin_models.records.idle import measure_idle
from multispin_models.records.journal import Journal
from multispin_models.service_manager import Reloader, notify, watchdog, watchdog_interval_s
from multispin_models.settings import add_setting_flags, read_settings

__all__ = ["add_arguments", "run"]

log = logging.getLogger(__name__)

UPLOAD_PATIENCE_S = 30.0  # for the last records, when a file is served
FLUSH_S = 1.0  # likewise, when users were; with http.stop_grace_s below TimeoutStopSec of the unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin agent`."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; flags win over it")
    parser.add_argument("--agent-id", metavar="NAME", help="unique among the agents of a coordinator")
    parser.add_argument("--coordinator", metavar="ENDPOINT", help="where the coordinator listens, tcp://HOST:PORT")
    parser.add_argument("--draft", metavar="SOURCE", help="model (default), lookup, or lookup+model")
    parser.add_argument("--lookup-min-ngram", type=int, metavar="N", help="shortest match of a lookup, in tokens")
    parser.add_argument("--num-draft-tokens", type=int, metavar="L", help="tokens drafted a round")
    parser.add_argument(
        "--draft-entries", type=int, metavar="M", help="tokens that a draft is sampled from, by a rejection rule"
    )
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="requests served at once")
    parser.add_argument(
        "--kept-sequences", type=int, metavar="N", help="kept for next turns beside these; 0 keeps none"
    )
    parser.add_argument(
        "--no-draft-ahead",
        dest="draft_ahead",
        action="store_false",
        default=None,
        help="rest while a verdict is in flight",
    )
    parser.add_argument(
        "--no-draft-ahead-on-battery",
        dest="draft_ahead_on_battery",
        action="store_false",
        default=None,
        help="the same, but only while the box runs from its battery",
    )
    parser.add_argument("--spool", metavar="FILE", help="SQLite file that keeps records until the coordinator has them")
    add_setting_flags(parser, ENGINES)
    parser.add_argument("--http-listen", metavar="HOST:PORT", help="serve users over HTTP here, in place of a file")
    parser.add_argument("--http-keys-file", metavar="FILE", help="bearer keys, one a line, mode 0600")
    parser.add_argument("--prompts", metavar="FILE", default="-", help="JSON lines; - is standard input (default)")
    parser.add_argument(
        "--out", metavar="DIR", help="write requests.jsonl and rounds.jsonl here; what is there is kept"
    )
    parser.add_argument(
        "--json", action="store_true", help="without --out: print an object a request, not its text alone"
    )
    parser.add_argument("--share", metavar="I/N", default="0/1", help="serve every N-th line, from line I on")
    parser.add_argument("--run-id", metavar="ID", help="in every record (default: random)")
    add_job_flags(parser)


def _share(jobs: list[Job], share: str) -> list[Job]:
    """Return the jobs of share "I/N": every N-th from the I-th on, counted from 0."""
    try:
        start, step = (int(part) for part in share.split("/"))
    except ValueError:
        start, step = -1, 0
    if not 0 <= start < step:
        raise ConfigError(f"--share is {share!r}, allowed is I/N with 0 <= I < N")
    return jobs[start::step]


def _start_meter(config: Config) -> BoxEnergy | str:
    """Return the account of this box, after the idle baseline was measured; or the reason why there is none."""
    opened = open_meter(config.meter)
    if opened.meter is None:
        return opened.reason
    sampler = Sampler(opened.meter)
    sampler.start()
    return BoxEnergy(sampler, measure_idle(sampler, config.idle_s))


def _start_recorder(config: Config, client: Client) -> Recorder | None:
    """Return what takes records to the coordinator; None if there is no spool."""
    if config.spool is None:
        return None
    boot_id = read_boot_id() or f"unknown-{secrets.token_hex(8)}"  # without one, a start counts as a boot
    spool = Spool(Path(config.spool), config.agent_id, boot_id, config.spool_max_bytes)
    log.info("spool %s holds %d records of earlier", config.spool, spool.num_records)
    return Recorder(spool, client, config.agent_id, config.upload_bytes_per_s)


def _load_drafts(config: Config, *, serves_users: bool) -> DraftSource:
    """Return what drafts: of users the draft that was last taken from the coordinator, if it loads."""
    settled = settled_config(config) if serves_users else config
    if settled is not config:
        try:
            return open_draft_source(settled)
        except MultispinError as error:
            log.error("the draft that the coordinator offered is not used, pair %s is: %s", config.pair, error)  # noqa: TRY400
    return open_draft_source(config, may_go_without=serves_users)


class _Drafts:
    """Where drafts come from now; a service that swaps them says so."""

    def __init__(self, source: DraftSource) -> None:
        self.now: Callable[[], DraftSource] = lambda: source


def _box_status(config: Config, drafts: _Drafts, recorder: Recorder | None) -> BoxStatus:
    disk = Path.cwd() if config.spool is None else Path(config.spool).parent
    missing = drafts.now().missing
    degraded = f"nothing is drafted: {missing}" if missing else ""
    return read_box_status(disk, None if recorder is None else recorder.num_spooled, degraded)


class _Opened(NamedTuple):
    client: Client
    drafts: _Drafts
    engine: EngineThread
    meter: BoxEnergy | str
    recorder: Recorder | None


@asynccontextmanager
async def _open(config: Config) -> AsyncIterator[_Opened]:
    """Load what drafts and connect; at the end close both."""
    engine = EngineThread()
    meter = await engine.run(_start_meter, config)
    drafts = _Drafts(await engine.run(partial(_load_drafts, config, serves_users=config.http_listen is not None)))
    with zmq.Context() as context:
        client = Client(config, drafts.now().info, context)
        sampler = meter.sampler if isinstance(meter, BoxEnergy) else meter
        tellings = [
            asyncio.create_task(tell_condition(client.send, lambda: drafts.now().info, sampler)),
            asyncio.create_task(follow_supply(config, client.set_draft_ahead)),
        ]
        try:
            recorder = _start_recorder(config, client)
            read = partial(_box_status, config, drafts, recorder)
            tellings.append(
                asyncio.create_task(tell_box_status(client.send, read, lambda: not client.why_absent(client.now_ns())))
            )
            try:
                yield _Opened(client, drafts, engine, meter, recorder)
            finally:
                if recorder is not None:
                    await recorder.close()
        finally:
            for telling in tellings:
                telling.cancel()
            await asyncio.gather(*tellings, return_exceptions=True)
            await client.close()
            engine.shutdown()
            drafts.now().close()
            if isinstance(meter, BoxEnergy):
                meter.close()


async def _serve_file(config: Config, args: argparse.Namespace) -> int:
    """Serve a file of requests; return 0, 1 if one failed, 130 after a signal."""
    jobs = _share(read_jobs(args.prompts, job_defaults(args), args.limit), args.share)
    run_id = args.run_id or secrets.token_hex(8)
    out = None if args.out is None else Path(args.out)
    async with _open(config) as opened:
        serve_file = ServeFile(
            config,
            opened.client,
            opened.drafts.now(),
            opened.engine,
            opened.meter,
            out,
            run_id,
            opened.recorder,
            as_json=args.json,
        )
        serving = asyncio.create_task(_served(serve_file, jobs, opened.recorder))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
        with suppress(asyncio.CancelledError):
            return await serving
        log.info("stopped by signal")
        return 130


async def _served(serve_file: ServeFile, jobs: list[Job], recorder: Recorder | None) -> int:
    """Serve jobs; then wait for a while until their records are on the coordinator's disk."""
    status = await serve_file.run(jobs)
    if recorder is not None and not await recorder.flush(UPLOAD_PATIENCE_S):
        log.warning("not all records are uploaded: the spool keeps them, the next start with it goes on")
    return status


async def _serve_http(config: Config, args: argparse.Namespace) -> int:
    """Serve users until a signal comes; one that comes while the model loads ends it after the load."""
    assert config.http_listen is not None
    if args.prompts != "-" or args.out is not None:
        raise ConfigError("--http-listen serves users: --prompts and --out are of an agent that serves a file")
    try:
        from multispin_agent.api.service import AgentService  # noqa: PLC0415 - an extra
        from multispin_agent.swapping import DraftSwapper  # noqa: PLC0415
        from multispin_models.api.interface import open_interface  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"the HTTP interface is not installed ({error}): run scripts/setup") from error
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGHUP, log.info, "reload: not serving yet, the settings are those of the start"
    )
    api, server = open_interface(config.http_listen, config.http_keys_file, config.http, config.pair)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        server.start()
        log.info("answering at %s; loading the draft", server.url)
        opened = await stack.enter_async_context(_open(config))
        run_id = args.run_id or secrets.token_hex(8)
        if not isinstance(opened.meter, str):
            opened.meter.start()
        if opened.recorder is not None:
            stack.push_async_callback(opened.recorder.flush, FLUSH_S)  # last, what is left goes with the next start
        journal = Journal(
            run_id,
            f"agent:{config.agent_id}",
            opened.drafts.now().info,
            config,
            account_of(opened.meter, run_id, config.agent_id),
            None if opened.recorder is None else opened.recorder.take,
            None,
        )
        await stack.enter_async_context(journal.kept())
        service = AgentService(
            config, opened.client, opened.drafts.now(), opened.engine, opened.meter, run_id, opened.recorder
        )
        opened.drafts.now = lambda: service.source
        if config.accept_drafts:
            stack.callback(DraftSwapper(config, opened.client, service).close)
        # Users first, then what serves them.
        stack.push_async_callback(server.stop)
        stack.push_async_callback(api.stop)
        api.open(service, service.collector)
        reload = Reloader(config, lambda: read_settings(Config, args), RELOADABLE, service.reconfigure)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        told = asyncio.create_task(_tell_ready(opened.client, server.url))
        await stack.enter_async_context(watchdog(opened.engine, watchdog_interval_s()))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({told, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            told.result()  # a refusal for good ends the agent
        await stopped
        told.cancel()
        notify("STOPPING=1")
    log.info("stopped by signal")
    return 0


async def _tell_ready(client: Client, url: str) -> None:
    notify(f"STATUS=answering at {url}; waiting for the coordinator's welcome")
    await client.ready()
    notify("READY=1", f"STATUS=serving at {url}")
    print(f"ready {url}", flush=True)  # noqa: T201 - the signal to whoever started this


async def _serve(config: Config, args: argparse.Namespace) -> int:
    check_endpoint(config.coordinator, config.security)
    return await (_serve_file if config.http_listen is None else _serve_http)(config, args)


def run(args: argparse.Namespace) -> int:
    """Run `multispin agent`; return the exit status."""
    start_logging()
    try:
        raise_file_limit()
        return asyncio.run(_serve(read_settings(Config, args), args))
    except MultispinError as error:
        log.error("%s", error)  # noqa: TRY400 - what to do is in the message, not in the trace
        return 1
