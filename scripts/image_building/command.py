"""Makes what boxes are flashed with.

scripts/image card ap-07 --ssh-key ~/.ssh/id_ed25519.pub --token-file ap-07.token --out cards
      cards/ap-07/: copy all of it onto the boot partition (bootfs) of a stock Raspberry Pi OS Trixie card
scripts/image disk --ssh-key ~/.ssh/id_ed25519.pub --out images/arm64
      images/arm64/multispin-arm64.img: Debian 12 for virtual machines and boards with EFI; as root
scripts/image try --disk images/arm64 --out trial
      boots copies of it in qemu, beside a coordinator that it starts here, and says what was seen
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image_building import overlay
from image_building.card import ROOM_MB, SETTINGS, SITE_SETTINGS, Card, write_card
from image_building.disk import build_disk
from image_building.root import KERNELS, Root, check_new
from image_building.seed import checked_hostname, checked_login
from image_building.trial import Trial, try_disk
from multispin.progress import terminal_progress
from multispin_models.errors import ConfigError, MultispinError

__all__ = ["main"]

PACKAGE: Final = Path(__file__).resolve().parents[1] / "package"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `scripts/image`; return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return int({"card": _card, "disk": _disk, "try": _try}[args.form](args))
    except MultispinError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/image", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="card|disk|try")
    card = forms.add_parser("card", help="seed and overlay for one stock Raspberry Pi OS card")
    card.add_argument("name", metavar="NAME", help="host name of the box, and the folder in DIR")
    card.add_argument("--user", default="multispin", metavar="NAME", help="who may log in (default %(default)s)")
    card.add_argument(
        "--network-config", type=Path, metavar="FILE", help="netplan's, as for Wi-Fi (default: DHCP on eth0)"
    )
    disk = forms.add_parser("disk", help="a bootable Debian 12 image")
    disk.add_argument("--kernel", choices=list(KERNELS), default="generic", help="cloud: smaller, for virtual machines")
    disk.add_argument(
        "--sources", type=Path, metavar="FILE", help="apt's sources to build from (default: Debian's own)"
    )
    for form in (card, disk):
        form.add_argument("--arch", choices=("arm64",), default="arm64", help="default %(default)s")
        form.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
        form.add_argument("--ssh-key", type=Path, required=True, metavar="FILE", help="public keys of who may log in")
        form.add_argument("--token-file", type=Path, metavar="FILE", help="enrols this one box: multispin keys token")
        form.add_argument("--coordinator", metavar="ENDPOINT", help="tcp://HOST:PORT, where no enrolment says it")
        form.add_argument("--settings", type=Path, metavar="FILE", help="more settings of the agent, as TOML")
        form.add_argument("--pair", default=overlay.DEFAULT_PAIR, metavar="PAIR", help="default %(default)s")
        form.add_argument("--no-models", action="store_true", help="the box fetches them itself, with a network")
        form.add_argument("--package", type=Path, metavar="DEB", help="the agent's (default: built here)")
    trial = forms.add_parser("try", help="boot copies of a disk image in qemu and measure")
    trial.add_argument("--disk", type=Path, required=True, metavar="DIR", help="of `disk`")
    trial.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the copies, logs and result.json")
    trial.add_argument(
        "--cards", type=int, default=2, metavar="N", help="copies booted, one after the other (%(default)s)"
    )
    trial.add_argument("--tokens", type=int, default=12, metavar="N", help="of each text (default %(default)s)")
    trial.add_argument("--cores", type=int, default=1, metavar="N", help="of a guest (default %(default)s)")
    trial.add_argument(
        "--grown-mib", type=int, default=512, metavar="N", help="a card is larger than the image (%(default)s)"
    )
    trial.add_argument("--firmware", type=Path, metavar="FILE", help="boot by this EFI firmware, not by -kernel")
    trial.add_argument("--keep", action="store_true", help="keep the copies of the disk")
    return parser


def _card(args: argparse.Namespace) -> int:
    folder = args.out / checked_hostname(args.name)
    login = checked_login(args.user, _text(args.ssh_key))
    network = None if args.network_config is None else _text(args.network_config)
    site, token = _site(args), _token(args)
    with _package(args, "trixie") as package, _models(args) as models:
        card = Card(args.name, login, package, models, args.pair, args.coordinator, site, network, token)
        write_card(card, folder)
    size_mb = overlay.copied_size_mb(folder)
    print(f"{folder}: {size_mb:.0f} MB; copy all of it onto the card's boot partition (bootfs)")
    if size_mb > ROOM_MB:
        print(f"a stock card has about {ROOM_MB} MB left there: too much", file=sys.stderr)
    if token is None:
        print("no token: this box is enrolled by hand (coordinator/docs/keys.md)")
    return 0


def _disk(args: argparse.Namespace) -> int:
    check_new(args.out)
    login = checked_login("root", _text(args.ssh_key))
    texts = {SETTINGS: overlay.image_settings(args.pair, args.coordinator)}
    texts["authorized_keys"] = "".join(f"{key}\n" for key in login.keys)
    if (site := _site(args)) is not None:
        texts[SITE_SETTINGS] = site
    token = _token(args)
    with _package(args, "bookworm") as package, _models(args) as models:
        image = build_disk(Root(args.arch, package, models, args.kernel, args.sources), texts, token, args.out)
    print(f"{image}: {image.stat().st_size / 1e6:.0f} MB, {image.stat().st_blocks * 512 / 1e6:.0f} of them written")
    return 0


def _try(args: argparse.Namespace) -> int:
    check_new(args.out)
    return try_disk(
        Trial(args.disk, args.out, args.cards, args.tokens, args.cores, args.grown_mib, args.firmware, args.keep)
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _token(args: argparse.Namespace) -> str | None:
    return None if args.token_file is None else overlay.read_token(args.token_file)


def _site(args: argparse.Namespace) -> str | None:
    return None if args.settings is None else overlay.read_site_settings(args.settings)


@contextmanager
def _package(args: argparse.Namespace, distribution: str) -> Iterator[Path]:
    """Give the agent's package: the one that is named, or one that is built."""
    if args.package is not None:
        _check_package(args.package, distribution)
        yield args.package
        return
    with tempfile.TemporaryDirectory() as folder:
        print("building the agent's package ...", file=sys.stderr)
        command = [PACKAGE, "agent", "--arch", args.arch, "--distribution", distribution, "--out", folder]
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode:  # noqa: S603 - the project's own script
            raise ConfigError("the package could not be built: see above")
        [package] = Path(folder).glob("*.deb")
        yield package


def _check_package(package: Path, distribution: str) -> None:
    """Refuse a package of another Python than the system's: it would not find its modules."""
    suffix = {"bookworm": "deb12", "trixie": "deb13"}[distribution]
    if not (package.is_file() and package.name.startswith("multispin-agent_") and f"+{suffix}_" in package.name):
        raise ConfigError(
            f"package is {package}; a multispin-agent_*+{suffix}_*.deb is needed: scripts/package agent "
            f"--distribution {distribution}"
        )


@contextmanager
def _models(args: argparse.Namespace) -> Iterator[Path | None]:
    """Give the archive of what the agent drafts with; null if the box is to fetch it."""
    if args.no_models:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "models.tar"
        overlay.pack(overlay.model_files(args.pair, terminal_progress()), archive)
        yield archive
