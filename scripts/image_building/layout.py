"""The partitions of a disk image, and the files in it that depend on them. Numbers in, text out.

    GPT   1  EFI system partition, FAT32: systemd-boot, kernel, initrd, and the folder `multispin`
          2  root, ext4, the last one: it grows to the whole disk at the first boot

What is said of them in the image is their PARTUUID, so that any bus and any number of disks will do.
"""

import uuid
from typing import Final, NamedTuple

__all__ = ["COMMAND_LINE", "Layout", "fstab", "loader_entry", "new_layout", "sfdisk_script"]

ESP_TYPE: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT_TYPES: Final = {"arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"}  # Discoverable Partitions Specification
SECTOR_BYTES: Final = 512
MIB: Final = 1 << 20
COMMAND_LINE: Final = "rw console=tty0 console=ttyAMA0 panic=10"


class Layout(NamedTuple):
    """Sizes in MiB; partitions begin at multiples of a MiB.

    Attributes:
        arch: Debian's name.
        esp_mib, root_mib: sizes of the partitions.
        disk_uuid, esp_uuid, root_uuid: of the table and of the partitions.
    """

    arch: str
    esp_mib: int
    root_mib: int
    disk_uuid: str
    esp_uuid: str
    root_uuid: str

    @property
    def esp_offset_mib(self) -> int:
        """Where the first partition begins."""
        return 1

    @property
    def root_offset_mib(self) -> int:
        """Where the second begins."""
        return self.esp_offset_mib + self.esp_mib

    @property
    def disk_mib(self) -> int:
        """Size of the whole, with a MiB for the second copy of the table."""
        return self.root_offset_mib + self.root_mib + 1


def new_layout(arch: str, root_used_mib: int, esp_mib: int, spare_mib: int) -> Layout:
    """Return a layout for what there is to hold.

    Args:
        arch: Debian's name.
        root_used_mib: what the files of the root take.
        esp_mib: size of the first partition.
        spare_mib: room for what is written before the root has grown.

    >>> new_layout("arm64", 1000, 256, 200).disk_mib
    1508
    """
    root_mib = root_used_mib + root_used_mib // 20 + spare_mib  # a twentieth is the file system's own
    return Layout(arch, esp_mib, root_mib, *(str(uuid.uuid4()) for _ in range(3)))


def sfdisk_script(layout: Layout) -> str:
    """Return what sfdisk reads."""
    sectors = MIB // SECTOR_BYTES
    first = f"start={layout.esp_offset_mib * sectors}, size={layout.esp_mib * sectors}"
    second = f"start={layout.root_offset_mib * sectors}, size={layout.root_mib * sectors}"
    return (
        f"label: gpt\nlabel-id: {layout.disk_uuid}\nunit: sectors\n\n"
        f'{first}, type={ESP_TYPE}, uuid={layout.esp_uuid}, name="boot"\n'
        f'{second}, type={ROOT_TYPES[layout.arch]}, uuid={layout.root_uuid}, name="root"\n'
    )


def fstab(layout: Layout) -> str:
    """Return /etc/fstab: the root grows; only root reads the boot partition, where a token may lie.

    A box whose boot partition is late or broken comes up all the same.
    """
    return (
        f"PARTUUID={layout.root_uuid} / ext4 noatime,x-systemd.growfs 0 1\n"
        f"PARTUUID={layout.esp_uuid} /boot/efi vfat umask=0077,nofail,x-systemd.device-timeout=10min 0 2\n"
    )


def loader_entry(layout: Layout, title: str) -> str:
    """Return systemd-boot's entry."""
    return (
        f"title {title}\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=PARTUUID={layout.root_uuid} {COMMAND_LINE}\n"
    )
