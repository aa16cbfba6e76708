"""Puts a loaded model's weights into huge pages: reading them all for every token then seldom waits for page tables.

A pass with one row reads every weight once. With pages of 4 KiB that is tens of thousands of translations, each of them
two walks through page tables on a virtual machine. The bits of the results are the same. See madvise(2), MADV_COLLAPSE
(since Linux 6.1), and Documentation/admin-guide/mm/transhuge.rst of the kernel.
"""

import ctypes
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Mapping", "move_to_huge_pages", "worth_moving"]

log = logging.getLogger(__name__)

_SETTINGS: Final = Path("/sys/kernel/mm/transparent_hugepage")
_SMAPS: Final = Path("/proc/self/smaps")
_MADV_COLLAPSE: Final = 25
_LEAST_BYTES: Final = 4 << 20
_LEAST_RESIDENT: Final = 0.75  # a mapping that is mostly empty, as a thread's stack, would only grow
_HEAD: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+) *(.*)")


class Mapping(NamedTuple):
    """A range of this process's memory: [start, end) in bytes."""

    start: int
    end: int


def move_to_huge_pages(settings: Path = _SETTINGS, smaps: Path = _SMAPS) -> None:
    """Move this process's large, filled, private memory into huge pages.

    Nothing is moved where the kernel cannot, where its operator says never, or while free memory is too scattered: the
    model works all the same.

    Args:
        settings: the kernel's, of transparent huge pages.
        smaps: this process's mappings.
    """
    try:
        if "[never]" in (settings / "enabled").read_text():
            log.info("weights stay in small pages: %s says never", settings / "enabled")
            return
        page = int((settings / "hpage_pmd_size").read_text())
        mappings = worth_moving(smaps.read_text().splitlines(), page)
    except (OSError, ValueError) as error:
        log.info("weights stay in small pages: %s", error)
        return
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for mapping in mappings:
        if madvise(mapping.start, mapping.end - mapping.start, _MADV_COLLAPSE):
            reason = os.strerror(ctypes.get_errno())
            log.info(
                "of %d bytes at %x some stay in small pages: %s", mapping.end - mapping.start, mapping.start, reason
            )


def worth_moving(smaps: Iterable[str], page: int) -> list[Mapping]:
    """Return the mappings worth moving, cut to whole huge pages.

    Args:
        smaps: lines of /proc/PID/smaps.
        page: bytes of a huge page.
    """
    found = []
    mapping, resident = Mapping(0, 0), 0
    for line in smaps:
        if head := _HEAD.match(line):
            start, end, rights, inode, name = head.groups()
            private = rights == "rw-p" and inode == "0" and name in {"", "[heap]"}
            mapping = Mapping(int(start, 16), int(end, 16)) if private else Mapping(0, 0)
        elif line.startswith("Rss:"):
            resident = int(line.split()[1]) << 10
        elif line.startswith("AnonHugePages:"):  # comes after Rss
            left = resident - (int(line.split()[1]) << 10)
            whole = Mapping(-(-mapping.start // page) * page, mapping.end // page * page)
            filled = resident >= _LEAST_RESIDENT * (mapping.end - mapping.start)
            if filled and left >= _LEAST_BYTES and whole.end > whole.start:
                found.append(whole)
    return found
