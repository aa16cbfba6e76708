"""Recorded boards: `recorded/NAME.txt` unpacked into a tree that stands for the root of a board's file system.

    PATH = VALUE        a file with a line of text; !EIO in place of it is a file whose read fails with that error
    PATH <<             a file with the lines up to the next <<

Comments say where the files, names and units come from.
"""

from pathlib import Path

__all__ = ["unpack"]

_RECORDED = Path(__file__).parent / "recorded"
_FAILS_WITH_EIO = "/proc/self/mem"  # nothing is mapped at address 0


def unpack(name: str, root: Path) -> Path:
    """Write a board's files under a folder, and return the folder."""
    lines = iter((_RECORDED / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if not line or line.startswith("#"):
            continue
        path, mark, value = line.partition(" = " if " = " in line else " ")
        file = root / path.removesuffix(" =")
        file.parent.mkdir(parents=True, exist_ok=True)
        if value == "!EIO":
            file.symlink_to(_FAILS_WITH_EIO)
        elif value == "<<":
            file.write_text("".join(f"{text}\n" for text in iter(lambda: next(lines), "<<")))
        else:
            assert mark, line
            file.write_text("" if value == "=" else f"{value}\n")
    return root
