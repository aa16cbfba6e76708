"""Run a command that ends with whoever started it: python -m multispin.campaign.tied PARENT COMMAND ..."""

import os
import sys

from multispin_models.process import exit_with_parent

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Become the command; the kernel's order to end with the parent outlives that. Return 127 if it cannot."""
    exit_with_parent(int(arguments[0]))
    try:
        os.execvp(arguments[1], arguments[1:])  # noqa: S606 - the plan's own words, no shell
    except OSError as error:
        print(f"{arguments[1]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
