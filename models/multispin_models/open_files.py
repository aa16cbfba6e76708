"""How many files and connections this process may hold open."""

import logging
import resource

__all__ = ["raise_file_limit"]

log = logging.getLogger(__name__)

WANTED = 65_536
ENOUGH = 4_096


def raise_file_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit of open files to the hard one, or to `wanted` if that is less; return what it is then.

    A connection is an open file, also of a stranger who never says a word. At the limit nobody else can connect until
    the strangers are given up (10 s); a login shell's soft limit, 1024, is soon reached.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return int(soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < ENOUGH:
        log.warning("at most %d files and connections can be open (hard limit): set LimitNOFILE or ulimit -Hn", limit)
    return int(limit)
