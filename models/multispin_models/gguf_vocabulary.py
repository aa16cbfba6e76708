"""The vocabulary in a GGUF file's metadata, with the corrections that llama.cpp makes when it loads one.

A token has a type (normal, control, user-defined, byte, ...), but files are wrong about it, and none says which tokens
end a generation. llama.cpp settles both by the tokens' texts; the lists here are those of its `llama-vocab.cpp`.

Concession: where a file has two candidates for one fill-in-the-middle role and names neither, llama.cpp takes the
one that its hash table gives first, here it is the one with the lower id.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from multispin_models.errors import ModelError, UnsupportedModel
from multispin_models.gguf_metadata import GgufMetadata
from multispin_models.gguf_pretokenizers import WordRule, word_rule

__all__ = ["BYTE", "CONTROL", "NORMAL", "UNKNOWN", "USER_DEFINED", "GgufVocabulary", "read_vocabulary"]

# Bits, because a text can make a token of another type a control token as well.
UNKNOWN, NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 2, 4, 8, 16
_OF_TOKEN_TYPE: Final = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 6: BYTE}  # 0 undefined, 5 unused: none

_END_TEXTS: Final = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
    *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
    *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),  # noqa: RUF001
)
_ROLES: Final = {  # fill in the middle: metadata names of the id, texts to look for without one, ends a generation
    ("fim_pre", "prefix"): (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),  # noqa: RUF001
        *("<|code_prefix|>", "<|prefix|>"),
    ),
    ("fim_suf", "suffix"): (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),  # noqa: RUF001
        *("<|code_suffix|>", "<|suffix|>"),
    ),
    ("fim_mid", "middle"): (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),  # noqa: RUF001
        *("<|code_middle|>", "<|middle|>"),
    ),
    ("fim_pad",): ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("fim_rep",): ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("fim_sep",): ("<|file_sep|>",),
}
_ENDING_ROLES: Final = ("fim_pad", "fim_rep", "fim_sep")
_SHOWN_TEXTS: Final = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")  # gpt-oss: always rendered


class GgufVocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens and the rules around them.

    Attributes:
        is_bpe: byte pairs with merges ("gpt2"); otherwise SentencePiece with scores ("llama").
        rule: how words are cut, for byte pairs.
        texts: of the tokens, by id.
        ids: of the texts.
        attributes: by id, bits of CONTROL, NORMAL, ...
        scores: by id, for SentencePiece.
        merges: left and right text, best first, for byte pairs.
        bos_id, eos_id: null where there is none.
        add_bos, add_eos: put them around a text when special tokens are asked for.
        add_space_prefix: a text begins with a space, for SentencePiece.
        strips_after: ids of special tokens that swallow the white space behind them.
        end_token_ids: end a generation.
    """

    is_bpe: bool
    rule: WordRule
    texts: list[str]
    ids: dict[str, int]
    attributes: list[int]
    scores: tuple[float, ...]
    merges: list[tuple[str, str]]
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strips_after: frozenset[int]
    end_token_ids: frozenset[int]


def read_vocabulary(metadata: GgufMetadata) -> GgufVocabulary:
    """Return the vocabulary of a file.

    Raises:
        UnsupportedModel: a tokenizer or pre-tokenizer that is not known here; says which are.
        ModelError: parts are missing or contradict each other.
    """
    model = metadata.get("tokenizer.ggml.model", str)
    if model not in {"gpt2", "llama"}:
        raise UnsupportedModel(
            f"model file {metadata.path}: the tokenizer is {model!r}, supported without llama.cpp are 'gpt2' "
            "(byte pairs) and 'llama' (SentencePiece); take the llamacpp engine for this model"
        )
    is_bpe = model == "gpt2"
    rule = word_rule(metadata.get("tokenizer.ggml.pre", str) or "default") if is_bpe else WordRule((), add_bos=True)
    raw_tokens = _required(metadata, "tokenizer.ggml.tokens", list)
    texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(_decoded(metadata, "tokens", raw_tokens))]
    ids = {text: i for i, text in enumerate(texts)}
    if len(ids) != len(texts):
        double = next(text for i, text in enumerate(texts) if ids[text] != i)
        raise ModelError(f"model file {metadata.path}: token {double!r} stands twice; convert the model again")
    attributes = _attributes(metadata, len(texts))
    default_ids = {"bos": 11 if rule.has_default_bos else None, "eos": 11} if is_bpe else {"bos": 1, "eos": 2}
    special = {name: _special_id(metadata, (name,), len(texts), default) for name, default in default_ids.items()}
    end_token_ids = _find_ends(metadata, ids, attributes, special["eos"])
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", bool)
    vocabulary = GgufVocabulary(
        is_bpe=is_bpe,
        rule=rule,
        texts=texts,
        ids=ids,
        attributes=attributes,
        scores=() if is_bpe else _scores(metadata, len(texts)),
        merges=_merges(metadata) if is_bpe else [],
        bos_id=special["bos"],
        eos_id=special["eos"],
        add_bos=rule.add_bos if add_bos is None else add_bos,
        add_eos=bool(metadata.get("tokenizer.ggml.add_eos_token", bool)),
        add_space_prefix=metadata.get("tokenizer.ggml.add_space_prefix", bool) is not False,
        strips_after=_strips_after(metadata, ids, attributes),
        end_token_ids=end_token_ids,
    )
    for name, wanted in (("bos", vocabulary.add_bos), ("eos", vocabulary.add_eos)):
        if wanted and special[name] is None:
            raise ModelError(f"model file {metadata.path}: add_{name}_token is set and there is no {name}_token_id")
    return vocabulary


def _required(metadata: GgufMetadata, key: str, kind: type[list[bytes]]) -> list[bytes]:
    value = metadata.get(key, kind)
    if value is None:
        raise ModelError(f"model file {metadata.path} has no {key}: it holds no vocabulary; take a complete model file")
    return value


def _decoded(metadata: GgufMetadata, what: str, raw: Iterable[bytes]) -> list[str]:
    try:
        return [text.decode("utf-8") for text in raw]
    except UnicodeDecodeError as error:
        raise ModelError(f"model file {metadata.path}: {what} hold {error.object!r}, which is not UTF-8") from error


def _attributes(metadata: GgufMetadata, n_tokens: int) -> list[int]:
    types = metadata.get("tokenizer.ggml.token_type", tuple)
    if types is None:
        return [NORMAL] * n_tokens
    if len(types) < n_tokens:
        raise ModelError(f"model file {metadata.path}: {len(types)} token types for {n_tokens} tokens")
    return [_OF_TOKEN_TYPE.get(number, 0) for number in types[:n_tokens]]


def _scores(metadata: GgufMetadata, n_tokens: int) -> tuple[float, ...]:
    scores = metadata.get("tokenizer.ggml.scores", tuple) or (0.0,) * n_tokens
    if len(scores) < n_tokens:
        raise ModelError(f"model file {metadata.path}: {len(scores)} token scores for {n_tokens} tokens")
    return scores


def _merges(metadata: GgufMetadata) -> list[tuple[str, str]]:
    """Return the merges without the double ones, of which the first counts, and those that can never apply."""
    raw = _decoded(metadata, "merges", _required(metadata, "tokenizer.ggml.merges", list))
    pairs = [(left, right) for left, _, right in [merge.partition(" ") for merge in raw]]
    return [pair for pair in dict.fromkeys(pairs) if pair[0] and pair[1] and " " not in pair[1]]


def _special_id(metadata: GgufMetadata, names: tuple[str, ...], n_tokens: int, default: int | None) -> int | None:
    """Return the last id under one of the names that is a token, or the default if that is one."""
    stated = [metadata.get(f"tokenizer.ggml.{name}_token_id", int) for name in names]
    return next((i for i in (*reversed(stated), default) if i is not None and 0 <= i < n_tokens), None)


def _find_ends(
    metadata: GgufMetadata, ids: dict[str, int], attributes: list[int], eos_id: int | None
) -> frozenset[int]:
    """Return the ids that end a generation; tokens known by their text become control tokens, in place."""
    n_tokens = len(attributes)
    ends = {_special_id(metadata, (name,), n_tokens, None) for name in ("eot", "eom")} | {eos_id}
    for names, texts in _ROLES.items():
        role_id = _special_id(metadata, names, n_tokens, None)
        found = [ids[text] for text in texts if text in ids]
        if role_id is None and found:
            role_id = min(found)
            attributes[role_id] |= CONTROL
        if names[0] in _ENDING_ROLES:
            ends.add(role_id)
    for text in _END_TEXTS:
        if text in ids:
            ends.add(ids[text])
            attributes[ids[text]] |= CONTROL
    for text in _SHOWN_TEXTS:
        if text in ids:
            attributes[ids[text]] = USER_DEFINED
    end_texts = {text for text in _END_TEXTS if text in ids and ids[text] in ends}
    calls = end_texts & {"<|call|>", "<|calls|>"}
    if "<|end|>" in end_texts and calls and end_texts & {"<|return|>", "<|flush|>"}:  # it closes a part of the answer
        ends.discard(ids["<|end|>"])
        attributes[ids["<|end|>"]] = USER_DEFINED
    if "</s>" in end_texts and "<|tool_response>" in end_texts:  # Gemma 4
        ends.discard(ids["</s>"])
        attributes[ids["</s>"]] = NORMAL
    return frozenset(i for i in ends if i is not None)


def _strips_after(metadata: GgufMetadata, ids: dict[str, int], attributes: list[int]) -> frozenset[int]:
    """Return the special tokens that swallow white space: those of Phi-3, which no metadata tells."""
    name = (metadata.get("general.name", str) or "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    keeps = {ids.get(text) for text in ("<unk>", "<s>", "<|endoftext|>")}
    special = {i for i, attribute in enumerate(attributes) if attribute & (CONTROL | USER_DEFINED | UNKNOWN)}
    return frozenset(special | ({ids["</s>"]} if "</s>" in ids else set())) - keeps
