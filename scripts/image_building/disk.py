"""A bootable image: an EFI system partition and a root, in one file; kernel and initrd beside it, for qemu.

DIR/multispin-arm64.img     to be written to a disk or card as it is
DIR/vmlinuz, initrd.img     the same as inside
DIR/image.json              partitions and packages
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from image_building.layout import MIB, Layout, loader_entry, new_layout, sfdisk_script
from image_building.overlay import write_overlay
from image_building.root import Root, bootstrap, check_host, configure, run

__all__ = ["build_disk", "copy_to_boot", "image_path"]

TOOLS: Final = ("mmdebstrap", "mkfs.vfat", "mkfs.ext4", "mcopy", "sfdisk")
ESP_MIB: Final = 256  # two kernels with their initrds, while one is exchanged
SPARE_MIB: Final = 128
_BOOT_LOADERS: Final = {"arm64": ("systemd-bootaa64.efi", "BOOTAA64.EFI")}


def image_path(folder: Path, arch: str) -> Path:
    """Return the image's file in a folder of `build_disk`."""
    return folder / f"multispin-{arch}.img"


def build_disk(root: Root, texts: Mapping[str, str], token: str | None, out: Path) -> Path:
    """Make the image; return its file.

    Args:
        root: what is in it.
        texts: files for the boot partition's folder `multispin`, by name.
        token: that enrols the one box that this image is for; null for an image of many boxes.
        out: folder that is not there yet.

    Raises:
        ConfigError: something is missing here, or a step failed.
    """
    check_host(root.arch, TOOLS)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="image-", dir=out) as work:
        folder = Path(work) / "root"
        bootstrap(root, folder)
        layout = new_layout(root.arch, _used_mib(folder, root.models), ESP_MIB, SPARE_MIB)
        configure(root, layout, folder)
        for name in ("vmlinuz", "initrd.img"):
            shutil.copy(_in_root(folder, name), out / name)
        write_overlay(Path(work) / "multispin", texts, {}, token)
        image = image_path(out, root.arch)
        _assemble(layout, folder, Path(work) / "multispin", image)
        packages = run("dpkg-query", f"--admindir={folder}/var/lib/dpkg", "--show").splitlines()
    (out / "image.json").write_text(json.dumps({**layout._asdict(), "packages": packages}, indent=1) + "\n")
    return image


def _in_root(folder: Path, name: str) -> Path:
    """Return what a link at the top of the root points to."""
    return folder / str((folder / name).readlink()).lstrip("/")


def _used_mib(folder: Path, models: Path | None) -> int:
    used_bytes = int(run("du", "--summarize", "--block-size=1", "--one-file-system", folder).split()[0])
    return (used_bytes + (0 if models is None else models.stat().st_size)) // MIB


def _assemble(layout: Layout, root: Path, overlay: Path, image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(layout.disk_mib * MIB)
    run("sfdisk", "--quiet", image, stdin=sfdisk_script(layout))
    size = f"{layout.root_mib}M"
    offset = layout.root_offset_mib * MIB
    run("mkfs.ext4", "-q", "-F", "-L", "multispin", "-d", root, "-E", f"offset={offset}", image, size)
    _make_esp(layout, root, overlay, image)


def _make_esp(layout: Layout, root: Path, overlay: Path, image: Path) -> None:
    """Make the EFI system partition with what boots, and the overlay."""
    sectors_1k = layout.esp_mib * 1024
    # Clusters of one sector: with its own choice of eight mkfs makes too few of them for FAT32.
    run(
        "mkfs.vfat",
        "-F",
        32,
        "-s",
        1,
        "-n",
        "MULTISPIN",
        "--offset",
        layout.esp_offset_mib * MIB // 512,
        image,
        sectors_1k,
    )
    loader, name = _BOOT_LOADERS[layout.arch]
    folder = overlay.parent / "esp"
    for path in ("EFI/BOOT", "EFI/systemd", "loader/entries"):
        (folder / path).mkdir(parents=True)
    shutil.copy(root / "usr/lib/systemd/boot/efi" / loader, folder / "EFI/BOOT" / name)
    shutil.copy(root / "usr/lib/systemd/boot/efi" / loader, folder / "EFI/systemd" / loader)
    (folder / "loader/loader.conf").write_text("timeout 0\n")
    (folder / "loader/entries/multispin.conf").write_text(loader_entry(layout, "multispin box"))
    for file in ("vmlinuz", "initrd.img"):
        shutil.copy(_in_root(root, file), folder / file)
    shutil.copytree(overlay, folder / "multispin")
    copy_to_boot(image, sorted(folder.iterdir()), "::")


def copy_to_boot(image: Path, paths: list[Path], where: str, offset_mib: int = 1) -> None:
    """Copy files and folders to the boot partition of an image, as onto a card; `where` as mtools names it."""
    run("mcopy", "-s", "-Q", "-o", "-i", f"{image}@@{offset_mib}M", *paths, where)
