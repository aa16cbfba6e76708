"""Text without special tokens to ids: byte pairs by `tokenizers`, SentencePiece by a heap in Python.

Both merge neighbours until nothing merges. Byte pairs take the pair of the lowest rank, and stay within a word.
SentencePiece takes the pair whose text is the token of the highest score, over the whole text; `tokenizers` knows no
equal ranks, which scores have, so the heap is here. It is slower by two orders of magnitude, so words are remembered
where the vocabulary lets none of its tokens cross from one to the next.
"""

import heapq
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Final

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from multispin_models.errors import ModelError, UnsupportedModel
from multispin_models.gguf_pretokenizers import build_pre_tokenizer
from multispin_models.gguf_vocabulary import GgufVocabulary

__all__ = ["EncodeText", "byte_pair_encoder", "sentencepiece_encoder"]

EncodeText = Callable[[str], list[int]]

_SPACE: Final = "\u2581"  # stands for a space in SentencePiece's tokens
_REMEMBERED_WORDS: Final = 1 << 15
_REMEMBERED_CHARACTERS: Final = 64  # of one word, so that no prompt can fill the memory


def byte_pair_encoder(vocabulary: GgufVocabulary) -> EncodeText:
    """Return the encoder of a byte-pair vocabulary.

    A byte or the result of a merge that is no token still takes part in merging, as in llama.cpp: it has an id behind
    the vocabulary, which is replaced at the end by the tokens of its ASCII characters, or by nothing.

    Raises:
        UnsupportedModel: merges that lead to no token, where words that are tokens are taken whole.
    """
    ids = vocabulary.ids
    n_tokens = len(ids)
    parts = (part for left, right in vocabulary.merges for part in (left, right, left + right))
    strangers = dict.fromkeys(part for part in (*ByteLevel.alphabet(), *parts) if part not in ids)
    odd = next((text for text in strangers if len(text) > 1), None)
    if odd is not None and vocabulary.rule.ignore_merges:  # `tokenizers` would take such a word whole
        raise UnsupportedModel(
            f"a merge of the vocabulary holds {odd!r}, which is no token, and words that are tokens are taken whole: "
            "both together are not supported without llama.cpp; take the llamacpp engine for this model"
        )
    stand_ins = {n_tokens + i: [ids[c] for c in text if c in ids and c < "\x80"] for i, text in enumerate(strangers)}
    all_ids = {**ids, **{text: n_tokens + i for i, text in enumerate(strangers)}}
    model = BPE(vocab=all_ids, merges=vocabulary.merges, ignore_merges=vocabulary.rule.ignore_merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = build_pre_tokenizer(vocabulary.rule)

    def encode(text: str) -> list[int]:
        # A batch of one: unlike `encode` it lets other threads run, so that rounds go on while a prompt is read.
        found: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if max(found, default=0) < n_tokens:
            return found
        return [known for token_id in found for known in stand_ins.get(token_id, (token_id,))]

    return encode


def sentencepiece_encoder(vocabulary: GgufVocabulary) -> EncodeText:
    """Return the encoder of a SentencePiece vocabulary with byte fall-back.

    Raises:
        ModelError: a byte has no token.
    """
    ids, scores = vocabulary.ids, vocabulary.scores
    byte_ids: list[int] = []
    for byte in range(256):
        token_id = ids.get(f"<0x{byte:02X}>", ids.get(chr(byte)) if byte < 128 else None)
        if token_id is None:
            raise ModelError(
                f"the vocabulary has no token for byte 0x{byte:02X}, SentencePiece needs all 256; "
                "convert the model again"
            )
        byte_ids.append(token_id)

    def encode(text: str) -> list[int]:
        pieces = _merge_by_score(text, ids, scores)
        runs = ([ids[piece]] if piece in ids else [byte_ids[byte] for byte in piece.encode()] for piece in pieces)
        return [token_id for run in runs for token_id in run]

    crossing = re.compile(f"[^{_SPACE}]{_SPACE}")
    if any(crossing.search(text) for text in vocabulary.texts if _SPACE in text):
        return lambda text: encode(text.replace(" ", _SPACE))
    encode_word = lru_cache(_REMEMBERED_WORDS)(encode)
    word = re.compile(f"{_SPACE}*[^{_SPACE}]*")

    def encode_words(text: str) -> list[int]:
        parts = word.findall(text.replace(" ", _SPACE))
        return [i for part in parts for i in (encode_word if len(part) <= _REMEMBERED_CHARACTERS else encode)(part)]

    return encode_words


def _merge_by_score(text: str, ids: dict[str, int], scores: tuple[float, ...]) -> list[str]:
    """Return the pieces of a text: the best pair is merged, of equals the leftmost, until no pair is a token."""
    pieces = list(text)
    following = [*range(1, len(text) + 1)]
    previous = [*range(-1, len(text) - 1)]
    heap = [(-scores[ids[a + b]], i, a + b) for i, (a, b) in enumerate(pairwise(text)) if a + b in ids]
    heapq.heapify(heap)

    def offer(left: int, right: int) -> None:
        if left >= 0 and right < len(pieces) and (merged := pieces[left] + pieces[right]) in ids:
            heapq.heappush(heap, (-scores[ids[merged]], left, merged))

    while heap:
        _, left, merged = heapq.heappop(heap)
        right = following[left]
        if not pieces[left] or right == len(pieces) or pieces[left] + pieces[right] != merged:
            continue  # one of the two has changed since
        pieces[left], pieces[right] = merged, ""
        following[left] = after = following[right]
        if after < len(pieces):
            previous[after] = left
        offer(previous[left], left)
        offer(left, after)
    return [piece for piece in pieces if piece]
