"""One number for a vocabulary, so that two ends can see that they speak of the same tokens.

>>> vocabulary_hash([b"a", b"bc"]) == vocabulary_hash([b"ab", b"c"])
False
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from itertools import zip_longest

__all__ = ["explain_differences", "vocabulary_hash"]


def vocabulary_hash(tokens: Iterable[bytes]) -> str:
    """Return the sha256 (hex) of a vocabulary.

    Args:
        tokens: the text of every token in the order of its id, as stored in a GGUF file's `tokenizer.ggml.tokens`
            (before any decoding of byte-level text).

    Returns:
        Hash of the count, then of every text behind its length; both as 32-bit little-endian numbers.
    """
    texts = list(tokens)
    digest = hashlib.sha256(struct.pack("<I", len(texts)))
    for text in texts:
        digest.update(struct.pack("<I", len(text)))
        digest.update(text)
    return digest.hexdigest()


def explain_differences(target: Sequence[bytes], draft: Sequence[bytes], most: int = 8) -> list[str]:
    """Return a line for each id that does not stand for the same token, at most so many, and what is left.

    Args:
        target, draft: the text of every token in the order of its id.
        most: lines of single ids.

    >>> explain_differences([b"a", b"b", b"c"], [b"a", b"c"])
    ["id 1: target 'b', draft 'c' (the target's id 2)", "id 2: target 'c' (the draft's id 1), draft has none"]
    """
    ids_of_target, ids_of_draft = ({text: i for i, text in enumerate(texts)} for texts in (target, draft))
    differing = [(i, ours, theirs) for i, (ours, theirs) in enumerate(zip_longest(target, draft)) if ours != theirs]
    lines = []
    for i, ours, theirs in differing[:most]:
        left = "target has none" if ours is None else f"target {_shown(ours)}"
        right = "draft has none" if theirs is None else f"draft {_shown(theirs)}"
        if ours is not None and ours in ids_of_draft:
            left += f" (the draft's id {ids_of_draft[ours]})"
        if theirs is not None and theirs in ids_of_target:
            right += f" (the target's id {ids_of_target[theirs]})"
        lines.append(f"id {i}: {left}, {right}")
    if len(differing) > most:
        lines.append(f"and {len(differing) - most} ids more")
    return lines


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "backslashreplace"))
