"""Builds multispin-agent and multispin-coordinator for Debian 12 or 13: an environment under /opt, units, settings.

    wheels of the target platform from the registry --pip install --target--> /opt/multispin-PART/lib/python3.N/...
    unit, settings, rules, documents                ------------------------> /lib/systemd/system, /etc/multispin, ...
    templates in this folder, @PART@ and the like filled in ---------------> DEBIAN/control, postinst, prerm, postrm

Nothing is run of the target platform, so arm64 is built on amd64. The same commit and the same wheels give the same
bytes: times are the commit's, owners root's, and nothing of the building machine is kept.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from email.utils import formatdate
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
TEMPLATES: Final = ROOT / "scripts/debian"
PARTS: Final = ("agent", "coordinator")
EXTRAS: Final = "onnx,onnx-export,api"
# glibc of Debian 12 is 2.36, of Debian 13 2.41; a wheel names the oldest it runs on.
GLIBC: Final = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28", "_2_31", "_2_34")
MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


class Distribution(NamedTuple):
    """What a package is built for.

    Attributes:
        name: Debian's.
        python: the system's, which is the environment's interpreter.
        suffix: of the package's version.
        system: the folder that holds systemd/ and udev/.
    """

    name: str
    python: str
    suffix: str
    system: str


# Raspberry Pi OS of a name has the same Python. From trixie on /lib is a link that packages may not ship files through.
DISTRIBUTIONS: Final = {
    "bookworm": Distribution("bookworm", "3.11", "deb12", "lib"),
    "trixie": Distribution("trixie", "3.13", "deb13", "usr/lib"),
}


class Target(NamedTuple):
    """What is built.

    Attributes:
        part: of `PARTS`.
        arch: Debian's name of the architecture.
        distribution: of `DISTRIBUTIONS`.
        version: of the package.
        epoch_s: time of everything in it.
    """

    part: str
    arch: str
    distribution: Distribution
    version: str
    epoch_s: int

    @property
    def name(self) -> str:
        """The package's name."""
        return f"multispin-{self.part}"


def run(*command: object, **environment: str) -> str:
    """Run a command, return its output; end the build with it if it fails."""
    done = subprocess.run(  # noqa: S603 - the commands are this file's
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"package: {' '.join(map(str, command[:6]))} ... failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def pip_flags(arch: str, python: str) -> list[str]:
    """Return the flags that make pip choose wheels of the target instead of this machine's."""
    tag = python.replace(".", "")
    flags = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    flags += [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]
    return flags + [f"--platform=manylinux{glibc}_{MACHINES[arch]}" for glibc in GLIBC]


def fetch_wheels(arch: str, python: str, folder: Path, epoch_s: int) -> None:
    """Bring multispin's own wheel and those that it needs on the target into a folder."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT, SOURCE_DATE_EPOCH=str(epoch_s))
    [own] = folder.glob("multispin-*.whl")
    # pip itself: the environment fetches the default models with it.
    flags = pip_flags(arch, python)
    run(*pip, "download", *flags, "--dest", folder, f"multispin[{EXTRAS}] @ {own.as_uri()}", "pip")


def install_wheels(arch: str, python: str, wheels: Path, site_packages: Path) -> None:
    """Unpack all wheels of a folder as the target's pip would."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(
        *(*pip, "install", *pip_flags(arch, python), "--no-index", "--no-deps", "--no-compile"),
        *("--target", site_packages),
        *sorted(wheels.glob("*.whl")),
    )
    shutil.rmtree(site_packages / "bin", ignore_errors=True)  # start with this machine's interpreter
    for path in site_packages.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # modules and libraries are loaded, not run
    for direct_url in site_packages.glob("*.dist-info/direct_url.json"):
        direct_url.unlink()  # says where on this machine the wheel was
    for record in site_packages.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "direct_url.json," not in line and "bin/" not in line[:10]))


def lay_out(target: Target, wheels: Path, root: Path) -> None:
    """Put every file where the package has it."""
    home, python = root / "opt" / target.name, target.distribution.python
    install_wheels(target.arch, python, wheels, home / f"lib/python{python}/site-packages")
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to(f"/usr/bin/python{python}")
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n")
    put(home / "bin/multispin", filled("multispin", target), 0o755)
    system = root / target.distribution.system
    for unit in sorted((ROOT / target.part).glob("*.service")):
        put(system / "systemd/system" / unit.name, unit.read_text())
    put(root / f"etc/multispin/{target.part}.toml", (ROOT / target.part / f"{target.part}.toml").read_text())
    (root / f"etc/multispin/{target.part}.toml.d").mkdir()
    (root / "etc/multispin/keys").mkdir(mode=0o700)
    if target.part == "agent":
        put(home / "bin/take-enrolment-token", (ROOT / "agent/take-enrolment-token").read_text(), 0o755)
    if target.part == "coordinator":
        rules = "60-multispin-rapl.rules"
        put(system / "udev/rules.d" / rules, (ROOT / "coordinator" / rules).read_text())
        put(
            root / "usr/lib/sysusers.d/multispin-meter.conf",
            (ROOT / "coordinator/multispin-meter.sysusers").read_text(),
        )
    documents = root / "usr/share/doc" / target.name
    put(documents / "README.md", (ROOT / "agent/docs/box.md").read_text())
    put(documents / "image.md", (ROOT / "agent/docs/image.md").read_text())
    put(documents / "keys.md", (ROOT / "coordinator/docs/keys.md").read_text())
    put(documents / "copyright", filled("copyright", target))
    put(documents / "wheels.txt", "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(wheels.glob("*.whl"))))
    documents.joinpath("changelog.Debian.gz").write_bytes(
        gzip.compress(filled("changelog", target).encode(), 9, mtime=0)
    )
    put(root / "usr/share/lintian/overrides" / target.name, filled("lintian-overrides", target))


def put(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def filled(template: str, target: Target) -> str:
    """Return a template with its @NAMES@ filled in."""
    text = (TEMPLATES / template).read_text()
    day = formatdate(target.epoch_s)
    depends = {"agent": "", "coordinator": ", systemd"}[target.part]  # whose sysusers makes the group
    what = {
        "agent": "drafts tokens for the users of an edge box",
        "coordinator": "verifies the drafts of all edge boxes",
    }[target.part]
    names = {"PART": target.part, "NAME": target.name, "ARCH": target.arch, "VERSION": target.version, "DATE": day}
    names |= {"PYTHON": target.distribution.python, "DISTRIBUTION": target.distribution.name}
    for name, value in {**names, "DEPENDS": depends, "WHAT": what}.items():
        text = text.replace(f"@{name}@", value)
    return text


def add_control(target: Target, root: Path) -> None:
    """Write DEBIAN/: what dpkg reads."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    size_kb = sum(path.stat().st_size for path in files) // 1024
    sums = "".join(f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)  # noqa: S324 - dpkg's format
    put(root / "DEBIAN/control", filled("control", target).replace("@SIZE@", str(size_kb)))
    put(root / "DEBIAN/md5sums", sums)
    put(root / "DEBIAN/conffiles", f"/etc/multispin/{target.part}.toml\n")
    for script in ("postinst", "prerm", "postrm"):
        put(root / "DEBIAN" / script, filled(script, target), 0o755)


def build(target: Target, wheels: Path, out: Path) -> Path:
    """Return the package's file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o755)
        os.umask(0o022)
        lay_out(target, wheels, root)
        add_control(target, root)
        for path in root.rglob("*"):
            if path.is_dir() and not path.is_symlink() and path != root / "etc/multispin/keys":
                path.chmod(0o755)
            os.utime(path, (target.epoch_s, target.epoch_s), follow_symlinks=False)
        out.mkdir(parents=True, exist_ok=True)
        package = out / f"{target.name}_{target.version}_{target.arch}.deb"
        run(
            *("dpkg-deb", "--root-owner-group", "-Zxz", "-z1", "--threads-max=1", "--build", root, package),
            SOURCE_DATE_EPOCH=str(target.epoch_s),
        )
    return package


def main() -> None:
    """Build what the command line says."""
    parser = argparse.ArgumentParser(prog="scripts/package", description="Build Debian packages.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="agent, coordinator (default: both)")
    parser.add_argument("--arch", choices=list(MACHINES), default="amd64", help="default %(default)s")
    parser.add_argument(
        "--distribution", choices=list(DISTRIBUTIONS), default="bookworm", help="whose Python (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR", help="default dist/")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take these instead of the registry's")
    parser.add_argument("--revision", default="1", metavar="N", help="of the package (default %(default)s)")
    args = parser.parse_args()
    distribution = DISTRIBUTIONS[args.distribution]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    epoch = run("git", "-C", ROOT, "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as folder:
        wheels = args.wheels or Path(folder)
        if args.wheels is None:
            fetch_wheels(args.arch, distribution.python, wheels, int(epoch))
        for part in args.parts or PARTS:
            full_version = f"{version}-{args.revision}+{distribution.suffix}"
            target = Target(part, args.arch, distribution, full_version, int(epoch))
            package = build(target, wheels, args.out)
            print(f"{sha256(package)}  {package}")  # noqa: T201


if __name__ == "__main__":
    main()
