"""A Debian root for an image: bootstrapped, the agent's package and models in it, and nothing that must be a box's own.

Programs of the target are run while packages are configured, so another machine than an arm64 one needs qemu-user's
handler. Needs root, mmdebstrap (and arch-test with it), and Debian's mirror.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from image_building.layout import Layout, fstab
from image_building.seed import FIRST_BOOT
from multispin_models.errors import ConfigError

__all__ = ["KERNELS", "Root", "bootstrap", "check_host", "check_new", "configure", "run"]

HERE: Final = Path(__file__).parent
KERNELS: Final = {"generic": "linux-image-arm64", "cloud": "linux-image-cloud-arm64"}
MACHINES: Final = {"arm64": "aarch64"}
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "systemd-boot-efi", "udev", "kmod", "dbus"),
    *("initramfs-tools", "zstd", "dosfstools", "openssh-server", "iproute2", "python3", "libstdc++6"),
)
NETWORK: Final = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"
# Keys of its own at the first start, whatever became of the rest of the first boot.
HOST_KEYS: Final = "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n"
GROW: Final = "[Partition]\nType=root\n"
# A kernel's package is done when its initrd is; then both go where the firmware finds them.
KERNEL_HOOK: Final = """\
#!/bin/sh
# Written by multispin's scripts/image: systemd-boot reads the newest kernel from the EFI system partition.
set -e
[ -d /boot/efi/loader ] || exit 0
for file in vmlinuz initrd.img; do
    cp -L "/$file" "/boot/efi/.$file.new"
    mv -f "/boot/efi/.$file.new" "/boot/efi/$file"
done
"""


class Root(NamedTuple):
    """What a root is made of.

    Attributes:
        arch: Debian's name.
        package: the agent's.
        models: archive of the cache; null for a box that fetches its models.
        kernel: of `KERNELS`.
        sources: file of apt's sources; null for mmdebstrap's own choice.
    """

    arch: str
    package: Path
    models: Path | None
    kernel: str
    sources: Path | None


def run(*command: object, stdin: str | None = None, is_shown: bool = False) -> str:
    """Run a command and return its output.

    Args:
        command: and its arguments.
        stdin: for it.
        is_shown: let it speak on standard error, for one that takes minutes; nothing is returned then.

    Raises:
        ConfigError: it failed; the message has the end of what it said.
    """
    streams = {"stdout": sys.stderr} if is_shown else {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(  # noqa: S603 - the commands are this package's
        [str(part) for part in command], input=stdin, text=True, check=False, **streams
    )
    if done.returncode:
        said = "" if is_shown else (done.stdout + done.stderr)[-3000:]
        raise ConfigError(f"{' '.join(map(str, command[:4]))} ... failed ({done.returncode}):\n{said}")
    return "" if is_shown else str(done.stdout)


def check_new(out: Path) -> None:
    """Refuse a folder that is there, before minutes of work.

    Raises:
        ConfigError: it is.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already: give a folder that is not")


def check_host(arch: str, tools: tuple[str, ...]) -> None:
    """Refuse a machine that cannot make an image, and say what is missing.

    Raises:
        ConfigError: not root, a tool is missing, or programs of the target do not run here.
    """
    packages = {
        "mmdebstrap": "mmdebstrap arch-test",
        "mkfs.vfat": "dosfstools",
        "mcopy": "mtools",
        "sfdisk": "fdisk",
        "mkfs.ext4": "e2fsprogs",
        "qemu-system-aarch64": "qemu-system-arm ipxe-qemu",
        "ssh": "openssh-client",
    }
    missing = [packages[tool] for tool in tools if shutil.which(tool) is None]
    if missing:
        raise ConfigError(f"missing here: apt-get install {' '.join(missing)}")
    if "mmdebstrap" not in tools:
        return
    if os.geteuid() != 0:
        raise ConfigError("only root can make a root file system: run it as root")
    handler = Path("/proc/sys/fs/binfmt_misc") / f"qemu-{MACHINES[arch]}"
    if platform.machine() != MACHINES[arch] and not handler.exists():
        raise ConfigError(
            f"programs for {arch} do not run here: apt-get install qemu-user-static; if {handler} is still not there, "
            "as in a container:\n  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc\n  grep -v '^#' "
            f"/usr/lib/binfmt.d/qemu-{MACHINES[arch]}.conf > /proc/sys/fs/binfmt_misc/register"
        )


def bootstrap(root: Root, folder: Path) -> None:
    """Make the root in a folder that is empty or not there: Debian, kernel, the agent's package."""
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
    kept = [f"--dpkgopt=path-include=/usr/share/doc/{name}" for name in ("*/copyright", "multispin-agent/*")]
    apt = 'MULTISPIN_COMPILED_ELSEWHERE=1 chroot "$1" apt-get install --yes --no-install-recommends'
    run(
        *("mmdebstrap", f"--arch={root.arch}", "--variant=minbase", "--mode=root", *left_out, *kept),
        f"--include={','.join((*PACKAGES, KERNELS[root.kernel]))}",
        f'--customize-hook=copy-in "{root.package.resolve()}" /tmp',
        f"--customize-hook={apt} /tmp/{root.package.name}",
        f'--customize-hook=rm "$1/tmp/{root.package.name}"',
        *("bookworm", folder, *([] if root.sources is None else [root.sources])),
        is_shown=True,
    )
    compile_modules(folder)


def compile_modules(folder: Path) -> None:
    """Compile the agent's modules, as its package does elsewhere: bytecode is the same on every processor."""
    [library] = (folder / "opt/multispin-agent/lib").glob("python3.*")
    if library.name == f"python{sys.version_info.major}.{sys.version_info.minor}":
        command = [sys.executable, "-I", "-m", "compileall", "-q", "-s", str(folder), "-p", "/", str(library)]
    else:  # emulated, which takes minutes
        python, inside = "/opt/multispin-agent/bin/python3", f"/{library.relative_to(folder)}"
        command = ["chroot", str(folder), python, "-I", "-m", "compileall", "-q", inside]
    # Its status says whether every file compiled: some wheels bring files that are no Python, and no package minds.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603


def configure(root: Root, layout: Layout, folder: Path) -> None:
    """Write the files that make the root an image: services, partitions, models; and take away what is a box's own."""
    files = {
        "etc/fstab": fstab(layout),
        "etc/hostname": "multispin-new\n",  # first-boot gives it a name of its own
        "etc/systemd/network/80-wired.network": NETWORK,
        "etc/systemd/system/ssh.service.d/10-host-keys.conf": HOST_KEYS,
        "etc/repart.d/50-root.conf": GROW,
        f"etc/systemd/system/{FIRST_BOOT}": (HERE / FIRST_BOOT).read_text(encoding="utf-8"),
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
    for name in ("etc/kernel/postinst.d/zz-multispin-boot", "etc/initramfs/post-update.d/zz-multispin-boot"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(KERNEL_HOOK, encoding="utf-8")
        path.chmod(0o755)
    (folder / "boot/efi").mkdir(exist_ok=True)
    wants = folder / "etc/systemd/system/multi-user.target.wants"
    units = {"systemd-networkd.service": "/lib/systemd/system", FIRST_BOOT: "/etc/systemd/system"}
    for unit, where in units.items():
        _link(wants / unit, f"{where}/{unit}")
    online = folder / "etc/systemd/system/network-online.target.wants"
    _link(online / "systemd-networkd-wait-online.service", "/lib/systemd/system/systemd-networkd-wait-online.service")
    _link(folder / "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    if root.models is not None:
        cache = folder / "var/cache/multispin-agent"
        cache.mkdir()
        run("tar", "--extract", "--no-same-owner", "--file", root.models, "--directory", cache)
    remove_identity(folder)


def remove_identity(folder: Path) -> None:
    """Take away what no two boxes may share: the system makes each of these at the first boot."""
    (folder / "etc/machine-id").write_text("")  # empty, not absent: the presets of a first boot would enable anything
    names = (
        "etc/ssh/ssh_host_*",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "var/lib/systemd/credential*",
    )
    for pattern in names:
        for path in folder.glob(pattern):
            path.unlink()


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
