"""Text to tokens and back from a GGUF file's metadata alone: the same ids as llama.cpp, without llama.cpp.

gguf_metadata       key/value header of the file
gguf_vocabulary     tokens, their types, which of them end a generation
gguf_pretokenizers  where words are cut
gguf_merging        words to ids
here                special tokens, and the `Tokenizer` protocol
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers.pre_tokenizers import ByteLevel

from multispin_models.chat_template import RenderChat, compile_chat_template
from multispin_models.errors import ModelError
from multispin_models.gguf_merging import byte_pair_encoder, sentencepiece_encoder
from multispin_models.gguf_metadata import GgufMetadata, read_gguf_metadata
from multispin_models.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, read_vocabulary
from multispin_models.language_model import ChatMessage
from multispin_models.vocabulary import vocabulary_hash

__all__ = ["GgufTokenizer", "load_gguf_tokenizer"]

_C_SPACES: Final = " \t\n\v\f\r"


def _byte_of_character() -> dict[str, int]:
    """Return GPT-2's map of printable characters to bytes: the others, in order, are moved behind U+0100."""
    shown = sorted(ord(character) for character in ByteLevel.alphabet() if ord(character) < 256)
    hidden = [byte for byte in range(256) if byte not in set(shown)]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + i): byte for i, byte in enumerate(hidden)}}


_BYTE_OF: Final = _byte_of_character()


class GgufTokenizer:
    """`Tokenizer` on a GGUF file's vocabulary."""

    def __init__(self, metadata: GgufMetadata) -> None:
        self._metadata = metadata
        self._vocabulary = vocabulary = read_vocabulary(metadata)
        build = byte_pair_encoder if vocabulary.is_bpe else sentencepiece_encoder
        self._encode_text = build(vocabulary)
        self._hash = vocabulary_hash(text.encode() for text in vocabulary.texts)
        special = [i for i, a in enumerate(vocabulary.attributes) if a & (CONTROL | USER_DEFINED | UNKNOWN)]
        special.sort(key=lambda i: -len(vocabulary.texts[i].encode()))  # the longest is looked for first
        self._special_ids = special
        self._render: RenderChat | None = None

    @property
    def vocabulary_hash(self) -> str:
        """sha256 of the vocabulary."""
        return self._hash

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary.texts)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """All tokens that llama.cpp holds for an end of generation."""
        return self._vocabulary.end_token_ids

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        """Return the ids of a text.

        Args:
            text: any text; a lone surrogate counts as "?".
            parse_special: "<|im_start|>" and the like become one token. User-defined tokens always do.
            add_special: put beginning-of-text and end-of-text tokens around it where the model's metadata asks for
                them. A text that brings its own (chat templates do) does not get a second.
        """
        vocabulary = self._vocabulary
        ids: list[int] = []
        after_special = True  # or at the start
        for part in self._parts(text.encode("utf-8", "replace").decode(), parse_special):
            if isinstance(part, int):
                ids.append(part)
            else:
                prefixed = not vocabulary.is_bpe and vocabulary.add_space_prefix and after_special
                ids += self._encode_text(" " + part if prefixed else part)
            after_special = isinstance(part, int)
        if add_special:
            has_bos = parse_special and ids[:1] == [vocabulary.bos_id]
            has_eos = parse_special and ids[-1:] == [vocabulary.eos_id]
            before = [vocabulary.bos_id] if vocabulary.add_bos and not has_bos else []
            behind = [vocabulary.eos_id] if vocabulary.add_eos and not has_eos else []
            ids = [i for i in (*before, *ids, *behind) if i is not None]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; b"" for control tokens.

        Raises:
            ValueError: no token of this vocabulary.
        """
        vocabulary = self._vocabulary
        if not 0 <= token_id < len(vocabulary.texts):
            raise ValueError(f"token id is {token_id}, allowed are 0 to {len(vocabulary.texts) - 1}")
        text, attribute = vocabulary.texts[token_id], vocabulary.attributes[token_id]
        if attribute & (CONTROL | UNKNOWN):
            return b""
        if attribute & USER_DEFINED:
            return text.encode()
        if attribute & NORMAL:
            return _decode_byte_level(text) if vocabulary.is_bpe else text.replace("\u2581", " ").encode()
        return bytes([int(text[3:5], 16)]) if attribute & BYTE else b""

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:
        """Return the prompt text of a conversation, to be encoded with both `parse_special` and `add_special`.

        Raises:
            ModelError: the file has no template, or the template refuses the conversation.
        """
        if self._render is None:
            source = self._metadata.get("tokenizer.chat_template", str)
            if not source:
                raise ModelError(f"model {self._metadata.path} has no chat template: send plain text instead")
            bos_token, eos_token = (
                self._vocabulary.texts[i] if i is not None else ""
                for i in (self._vocabulary.bos_id, self._vocabulary.eos_id)
            )
            self._render = compile_chat_template(source, bos_token=bos_token, eos_token=eos_token)
        return self._render(messages, variables)

    def _parts(self, text: str, parse_special: bool) -> Iterator[str | int]:
        """Yield the ids of special tokens, and the texts between them."""
        vocabulary = self._vocabulary
        parts: list[str | int] = [text]
        for token_id in self._special_ids:
            special = vocabulary.texts[token_id]
            if special in text and (parse_special or not vocabulary.attributes[token_id] & (CONTROL | UNKNOWN)):
                strips = token_id in vocabulary.strips_after
                parts = [piece for part in parts for piece in _split(part, special, token_id, strips=strips)]
        return (part for part in parts if part != "")


def load_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """Return the tokenizer of a GGUF file, without loading its weights.

    Raises:
        ModelError: no file, not GGUF, cut short, or its vocabulary is incomplete.
        UnsupportedModel: a tokenizer that is not known here.
    """
    return GgufTokenizer(read_gguf_metadata(path))


def _split(part: str | int, special: str, token_id: int, *, strips: bool) -> Iterator[str | int]:
    """Yield a part, cut at a special token; `strips` takes away the white space behind it."""
    if isinstance(part, int):
        yield part
        return
    first, *others = part.split(special)
    yield first
    for piece in others:
        yield token_id
        yield piece.lstrip(_C_SPACES) if strips else piece


def _decode_byte_level(text: str) -> bytes:
    """Return the bytes of a byte-level text; a character that is no byte is spelled out as llama.cpp does it."""
    try:
        return bytes([_BYTE_OF[character] for character in text])
    except KeyError:
        odd = f"{text}]".encode()
        return b"".join(
            bytes([_BYTE_OF[c]]) if c in _BYTE_OF else b"[UNK_BYTE_0x" + c.encode().hex().encode() + odd for c in text
        )
