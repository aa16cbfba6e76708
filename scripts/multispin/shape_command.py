"""Give coordinators' traffic its share of a link that this box owns, until this command ends. Needs root.

    multispin shape eth0 --rate 2Mbit/s --class 10.0.0.7:5599=500kbit/s

HTB classes by `tc` on outgoing packets: each class has its rate guaranteed and may borrow what is idle; everything else
has what is left. They go when the command ends by Ctrl-C or SIGTERM; what a killed one left behind, the next replaces.
"""

import argparse
import signal

from multispin_agent.shaping import parse_class, parse_rate, shaped, why_not_here
from multispin_models.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `multispin shape`."""
    parser.add_argument("interface", metavar="INTERFACE", help="network interface whose outgoing link is shaped")
    parser.add_argument("--rate", required=True, metavar="RATE", help="of the link, as 2Mbit/s")
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="[ADDRESS:]PORT=RATE",
        help="traffic to a coordinator and its rate; may be given again",
    )


def run(args: argparse.Namespace) -> int:
    """Run `multispin shape` until a signal comes; return the exit status."""
    if why := why_not_here():
        raise ConfigError(f"multispin shape: {why}")
    classes = [parse_class(text) for text in args.classes]
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # one that comes while the classes are set waits for its turn
    with shaped(args.interface, parse_rate(args.rate), classes):
        print(f"ready {args.interface}", flush=True)
        signal.sigwait(signals)
    return 0
