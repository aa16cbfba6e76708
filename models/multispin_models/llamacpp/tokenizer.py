"""Text to tokens and back with a GGUF file's vocabulary."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from multispin_models.chat_template import RenderChat, compile_chat_template
from multispin_models.errors import ModelError
from multispin_models.language_model import ChatMessage
from multispin_models.llamacpp.gguf_file import GgufFile, open_gguf
from multispin_models.vocabulary import vocabulary_hash

__all__ = ["LlamaCppTokenizer", "load_llamacpp_tokenizer"]


class LlamaCppTokenizer:
    """`Tokenizer` on llama.cpp's vocabulary."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self._vocab = file.vocab
        n_tokens = lib.llama_vocab_n_tokens(self._vocab)
        self._pieces: list[bytes | None] = [None] * n_tokens
        self._render: RenderChat | None = None
        self._hash = vocabulary_hash(lib.llama_vocab_get_text(self._vocab, i) for i in range(n_tokens))
        self._ends = frozenset(i for i in range(n_tokens) if lib.llama_vocab_is_eog(self._vocab, i))

    @property
    def vocabulary_hash(self) -> str:
        """sha256 of the vocabulary."""
        return self._hash

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""
        return len(self._pieces)

    @property
    def end_token_ids(self) -> frozenset[int]:
        """All tokens that llama.cpp holds for an end of generation."""
        return self._ends

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        """Return the ids of a text.

        Args:
            text: any text.
            parse_special: "<|im_start|>" and the like become one token.
            add_special: put a beginning-of-text token before it where the model's metadata asks for one. A text that
                brings its own (chat templates do) does not get a second.
        """
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, parse_special)
        if count < 0:  # more tokens than bytes
            room = -count
            ids = (ctypes.c_int32 * room)()
            count = lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, add_special, parse_special)
        tokens: list[int] = ids[:count]
        bos = lib.llama_vocab_bos(self._vocab)
        if add_special and parse_special and tokens[:2] == [bos, bos] and lib.llama_vocab_get_add_bos(self._vocab):
            del tokens[0]
        return tokens

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; b"" for control tokens.

        Raises:
            ValueError: no token of this vocabulary.
        """
        if not 0 <= token_id < len(self._pieces):
            raise ValueError(f"token id is {token_id}, allowed are 0 to {len(self._pieces) - 1}")
        piece = self._pieces[token_id]
        if piece is None:
            buffer = ctypes.create_string_buffer(64)
            size = lib.llama_token_to_piece(self._vocab, token_id, buffer, 64, 0, False)
            if size < 0:
                buffer = ctypes.create_string_buffer(-size)
                size = lib.llama_token_to_piece(self._vocab, token_id, buffer, -size, 0, False)
            piece = self._pieces[token_id] = buffer.raw[:size]
        return piece

    def apply_chat_template(self, messages: Sequence[ChatMessage], **variables: Any) -> str:
        """Return the prompt text of a conversation, to be encoded with both `parse_special` and `add_special`.

        Raises:
            ModelError: the file has no template, or the template refuses the conversation.
        """
        if self._render is None:
            source = lib.llama_model_chat_template(self._file.model, None)
            if not source:
                raise ModelError(f"model {self._file.path} has no chat template: send plain text instead")
            self._render = compile_chat_template(
                source.decode("utf-8"),
                bos_token=self._text(lib.llama_vocab_bos(self._vocab)),
                eos_token=self._text(lib.llama_vocab_eos(self._vocab)),
            )
        return self._render(messages, variables)

    def _text(self, token_id: int) -> str:
        text: bytes = lib.llama_vocab_get_text(self._vocab, token_id) if token_id >= 0 else b""
        return text.decode("utf-8")


def load_llamacpp_tokenizer(path: Path) -> LlamaCppTokenizer:
    """Return the tokenizer of a GGUF file, without loading its weights.

    Raises:
        ModelError: as in `open_gguf`.
    """
    return LlamaCppTokenizer(open_gguf(path, vocab_only=True))
