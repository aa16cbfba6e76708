"""Starts a coordinator: settings, target, probes, socket; then serves until SIGTERM or SIGINT.

    multispin coordinator --bind tcp://127.0.0.1:5599

The line "ready ENDPOINT MODEL-INFO" on standard output says that agents are served, and by what.
"""

import argparse
import asyncio
import logging
import secrets
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import zmq

import multispin_models
from multispin_coordinator.attribution import PassMeter
from multispin_coordinator.config import RELOADABLE, Config
from multispin_coordinator.offers import open_offer
from multispin_coordinator.page.feed import Begin, Feed
from multispin_coordinator.page.journal import PageJournal
from multispin_coordinator.server import Server
from multispin_coordinator.store import RecordStore
from multispin_coordinator.timing import time_passes
from multispin_models.cache import Progress
from multispin_models.channel import check_endpoint
from multispin_models.clock import monotonic_ns
from multispin_models.energy import OpenedMeter, Sampler, open_meter
from multispin_models.energy.meter import Label
from multispin_models.engine_thread import EngineThread
from multispin_models.engines import ENGINES, Loaded, load_side, log_progress
from multispin_models.errors import ConfigError, MultispinError, UnsupportedModel
from multispin_models.journal import start_logging
from multispin_models.language_model import ModelInfo
from multispin_models.open_files import raise_file_limit
from multispin_models.probes import probe_exactness, probe_rollback
from multispin_models.records.idle import measure_idle
from multispin_models.records.journal import Account, Journal
from multispin_models.service_manager import Reloader, notify, watchdog, watchdog_interval_s
from multispin_models.settings import add_setting_flags, read_settings

if TYPE_CHECKING:
    from multispin_coordinator.page.endpoint import Page
    from multispin_models.api.app import Api
    from multispin_models.api.server import HttpServer

__all__ = ["add_arguments", "load_target", "run"]

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin coordinator`."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; flags win over it")
    parser.add_argument("--bind", metavar="ENDPOINT", help="listen here, tcp://ADDRESS:PORT (default %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="folder for the coordinator's own records, energy.jsonl")
    parser.add_argument("--run-id", metavar="ID", help="in these (default: random)")
    parser.add_argument("--store", metavar="FILE", help="SQLite file for the records that agents upload")
    add_setting_flags(parser, ENGINES)
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="texts that the target writes alone at once")
    parser.add_argument("--http-listen", metavar="HOST:PORT", help="serve users over HTTP here: the target alone")
    parser.add_argument("--http-keys-file", metavar="FILE", help="bearer keys, one a line, mode 0600")
    parser.add_argument("--page", choices=["off", "figures", "texts"], help="what the live page at /page there shows")
    parser.add_argument("--page-keys-file", metavar="FILE", help="keys for the page, as in --http-keys-file")


def load_target(config: Config, progress: Progress) -> tuple[Loaded, ModelInfo]:
    """Return the target, loaded and probed, and its info with `exact` filled in.

    Raises:
        UnsupportedModel: it cannot roll back; or it is not exact and the configuration asks for that.
    """
    limits = config.limits
    loaded = load_side(
        config.pair,
        "target",
        config.engine,
        n_ctx=limits.max_context_tokens,
        max_sequences=limits.max_sessions,
        max_rows=limits.max_rows,
        num_threads=config.threads,
        progress=progress,
    )
    log.info("probing roll-back and exactness")
    probe_rollback(loaded.model)
    report = probe_exactness(loaded.model)
    if not report.exact:
        found = (
            f"engine is not exact: {report.rows_different} of {report.rows_compared} rows differ between batch shapes, "
            f"by up to {report.max_difference:.3g}: the text may differ from that of the target alone; "
            "for llama.cpp, scripts/setup llamacpp builds it exactly"
        )
        if config.require_exact:
            raise UnsupportedModel(found)
        log.warning("%s", found)
    return loaded, msgspec.structs.replace(loaded.model.info, exact=report.exact)


class _Interface(NamedTuple):
    api: "Api"
    http: "HttpServer"
    page: "Page | None"

    async def stop(self) -> None:
        """End what is under way, then the connections."""
        if self.page is not None:
            self.page.stop()
        await self.api.stop()
        await self.http.stop()


def _listen(config: Config, listen: str) -> _Interface:
    """Return the HTTP interface of the coordinator's own users, with the live page.

    Raises:
        ConfigError: it is not installed, or cannot listen there; or the page would show texts to whom it must not.
    """
    try:
        from multispin_coordinator.page.access import open_access  # noqa: PLC0415 - an extra
        from multispin_coordinator.page.endpoint import Page  # noqa: PLC0415
        from multispin_models.api.interface import open_interface  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"the HTTP interface is not installed ({error}): run scripts/setup") from error
    page = None if config.page == "off" else Page(open_access(config))
    routes = [] if page is None else page.routes
    return _Interface(*open_interface(listen, config.http_keys_file, config.http, config.pair, routes), page)


def _page_journal(config: Config) -> PageJournal | None:
    """Return what the page is made from; None where there is no page."""
    if config.http_listen is None or config.page == "off":
        return None
    return PageJournal(monotonic_ns(), keeps_tokens=config.page == "texts")


def _open(
    interface: _Interface,
    config: Config,
    server: Server,
    loaded: Loaded,
    info: ModelInfo,
    opened: OpenedMeter,
    label: Label | None,
) -> None:
    from multispin_coordinator.api.collector import CoordinatorCollector  # noqa: PLC0415 - an extra
    from multispin_coordinator.api.service import AloneService  # noqa: PLC0415

    service = AloneService(config, server, loaded.tokenizer, info, label)
    interface.api.open(service, CoordinatorCollector(server.dispatcher, label))
    if interface.page is not None and server.dispatcher.journal is not None:
        begin = Begin(
            version=multispin_models.__version__,
            target=info.name,
            recipe=info.recipe,
            engine=info.engine,
            exact=bool(info.exact),
            policy=config.policy,
            schedule=config.schedule,
            energy_label=label,
            energy_reason=None if label is not None else opened.reason or "the meter is too slow for passes",
        )
        interface.page.open(Feed(server.dispatcher.journal, begin, loaded.tokenizer.token_bytes))


def _start_meter(opened: OpenedMeter, config: Config) -> PassMeter:
    """Return the account of passes on a running sampler, after the idle baseline was measured."""
    if opened.meter is None:
        return PassMeter(None)
    sampler = Sampler(opened.meter)
    sampler.start()
    return PassMeter(sampler, measure_idle(sampler, config.idle_s))


def _journal(config: Config, server: Server, info: ModelInfo, meter: PassMeter, opened: OpenedMeter) -> Journal:
    """Return what keeps the records of the coordinator itself."""
    run_id = config.run_id or secrets.token_hex(8)
    read = opened.reason if opened.meter is None else opened.meter.info
    out = None if config.out is None else Path(config.out)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    account = Account(read, meter.settle, lambda: meter.record(run_id))
    return Journal(run_id, "coordinator", info, config, account, server.keep_own, out)


async def serve(config: Config, reread: Callable[[], Config]) -> None:
    """Load the target and serve until SIGTERM or SIGINT; a signal while it loads ends it after the load.

    Args:
        config: at the start.
        reread: returns what the files say now; called on SIGHUP.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.info, "reload: not serving yet, the settings are those of the start")
    check_endpoint(config.bind, config.security)
    opened = open_meter(config.meter)
    if opened.meter is None:
        log.info("%s", opened.reason)
    async with AsyncExitStack() as stack:
        interface = None if config.http_listen is None else _listen(config, config.http_listen)
        if interface is not None:
            stack.push_async_callback(interface.http.stop)
            interface.http.start()
            log.info("users: answering at %s", interface.http.url)
        with EngineThread() as loader:
            meter = await loader.run(_start_meter, opened, config)
            loaded, info = await loader.run(load_target, config, log_progress)
            # A control that knows what a pass costs need not try what it cannot judge.
            times = [] if config.policy == "fixed" else await loader.run(time_passes, loaded.model)
        context = stack.enter_context(zmq.Context())
        offered = None
        if config.draft_offer is not None:
            offered = await asyncio.to_thread(open_offer, config.draft_offer, loaded.tokenizer.vocabulary_hash)
            log.info("offering draft %s, sha256 %s", offered.offer.file_name, offered.offer.sha256)
        store = None if config.store is None else RecordStore(Path(config.store))
        server = Server(
            config,
            loaded,
            info,
            meter,
            context,
            store=store,
            pass_times=times,
            journal=_page_journal(config),
            offered=offered,
        )
        meter.start()
        # The signal to whoever started this.
        print(f"ready {server.endpoint} {msgspec.json.encode(info).decode()}", flush=True)  # noqa: T201
        loop.add_signal_handler(signal.SIGHUP, Reloader(config, reread, RELOADABLE, server.reconfigure))
        serving = asyncio.create_task(server.serve(_journal(config, server, info, meter, opened)))
        if interface is not None:
            _open(interface, config, server, loaded, info, opened, meter.label)
        notify("READY=1", f"STATUS=serving at {server.endpoint}")
        await stack.enter_async_context(watchdog(server.engine, watchdog_interval_s()))
        await asyncio.wait({serving, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        if interface is not None:  # users first, then what serves them
            await interface.stop()
        serving.cancel()
        try:
            await serving
        except asyncio.CancelledError:
            log.info("stopped by signal")
        finally:
            loaded.model.close()
            meter.close()


def run(args: argparse.Namespace) -> int:
    """Run `multispin coordinator`; return the exit status."""
    start_logging()
    try:
        config = read_settings(Config, args)
        raise_file_limit()
        log.info("settings: %s", msgspec.json.encode(config).decode())
        asyncio.run(serve(config, lambda: read_settings(Config, args)))
    except MultispinError as error:
        log.error("%s", error)  # noqa: TRY400 - what to do is in the message, not in the trace
        return 1
    return 0
