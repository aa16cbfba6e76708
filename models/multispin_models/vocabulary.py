"""One number for a vocabulary, so that two ends can see that they speak of the same tokens.

>>> vocabulary_hash([b"a", b"bc"]) == vocabulary_hash([b"ab", b"c"])
False
"""

import hashlib
import struct
from collections.abc import Iterable

__all__ = ["vocabulary_hash"]


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
