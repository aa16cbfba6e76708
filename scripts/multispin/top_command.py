"""Watch daemons: a live table of what each did since the line before, from its /metrics.

multispin top http://127.0.0.1:8080 http://127.0.0.1:8082
multispin top --once --json http://127.0.0.1:8080
"""

import argparse
import http.client
import sys
import time
import urllib.request

import msgspec

from multispin.access import KEY_VARIABLE, authorization, checked_url
from multispin_models.clock import monotonic_ns
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]

TIMEOUT_S = 5.0
MOST_BYTES = 4 << 20
HOME_AND_CLEAR = "\x1b[H\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin top`."""
    parser.add_argument("urls", nargs="*", default=["http://127.0.0.1:8080"], metavar="URL", help="default %(default)s")
    parser.add_argument("--interval", type=float, default=2.0, metavar="S", help="seconds a line (default 2)")
    parser.add_argument("--once", action="store_true", help="end after one interval")
    parser.add_argument(
        "--http-keys-file", metavar="FILE", help=f"file of bearer keys; its first one is sent (else ${KEY_VARIABLE})"
    )
    parser.add_argument("--json", action="store_true", help="print one object an interval instead of a table")


def run(args: argparse.Namespace) -> int:
    """Run `multispin top`; return 0, or 1 if with --once a daemon did not answer."""
    try:
        from multispin.top_table import EndState, Readings, read_metrics, state_of, table  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(f"the HTTP interface is not installed ({error}): run scripts/setup") from error
    if not 0.1 <= args.interval <= 3600.0:
        raise ConfigError(f"--interval is {args.interval:g}, allowed are 0.1 to 3600 seconds")
    urls = [checked_url(url) for url in args.urls]
    headers = authorization(args.http_keys_file)

    def read(url: str) -> tuple[Readings, int] | str:
        try:
            return read_metrics(_fetch(url, headers)), monotonic_ns()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            return str(error) or type(error).__name__

    before = {url: read(url) for url in urls}
    while True:
        time.sleep(args.interval)
        states = []
        for url in urls:
            now, last = read(url), before[url]
            if isinstance(now, str):
                states.append(EndState(url, error=now))
            elif isinstance(last, str):
                states.append(EndState(url, error="answers again"))
            else:
                states.append(state_of(url, last[0], now[0], (now[1] - last[1]) / 1e9))
            before[url] = now
        if args.json:
            print(msgspec.json.encode({"ends": states}).decode(), flush=True)
        else:
            live = sys.stdout.isatty() and not args.once
            print((HOME_AND_CLEAR if live else "") + "\n".join(table(states)), flush=True)
        if args.once:
            return int(any(state.error is not None for state in states))


def _fetch(url: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(f"{url}/metrics", headers=headers)  # noqa: S310 - the scheme was checked
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
        return str(answer.read(MOST_BYTES).decode())
