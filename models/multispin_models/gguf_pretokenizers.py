"""How a text is cut into words before byte pairs are merged, for each `tokenizer.ggml.pre`.

The rules are those of llama.cpp's `llama-vocab.cpp`, one pattern after the other, each on the pieces of the one before.
Its tables of letters, numbers, marks and punctuation are Unicode 15.1; Oniguruma, inside `tokenizers`, has
Unicode 16, so what is new there is taken out of the classes, and all 1,112,064 characters fall in the same class.
"""

from typing import Final, NamedTuple

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from multispin_models.errors import UnsupportedModel

__all__ = ["PRE_TOKENIZERS", "WordRule", "build_pre_tokenizer", "word_rule"]


class WordRule(NamedTuple):
    """One way to cut words.

    Attributes:
        patterns: regular expressions in Oniguruma's syntax, with \\p{L} and the like for Unicode 15.1.
        ignore_merges: a word that is a token is taken whole, whatever the merges say.
        add_bos: a beginning-of-text token is put first where the metadata does not say.
        has_default_bos: token 11 begins a text where the metadata names none, as in GPT-2's time.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    has_default_bos: bool = True


# Letters, numbers, marks and punctuation of Unicode 16, and what is unassigned between two of them.
_NEW_IN_16: Final = (
    "897-897 1B4E-1B4F 1B7F-1B7F 1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D40-10D85 10EC2-10EFC 11380-113E2 "
    "116D0-116E3 11BC0-11BF9 11F5A-11F5A 13460-143FA 16100-16139 16D40-16D79 18CFF-18CFF 1CCF0-1CCF9 1E5D0-1E5FF"
)
_OLD: Final = (
    "[^" + "".join(r"\x{%s}-\x{%s}" % tuple(span.split("-")) for span in _NEW_IN_16.split()) + "]"  # noqa: UP031
)

_SUFFIXES: Final = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2: Final = rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_LLAMA3: Final = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_QWEN35: Final = (
    rf"{_SUFFIXES}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
# llama.cpp has no table of cases here: every letter beyond ASCII is both upper and lower.
_NOT_LOWER, _NOT_UPPER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_CASED: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}*{_NOT_UPPER}+SUFFIX|[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}+{_NOT_UPPER}*SUFFIX|"
    rf"NUMBER| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_TEKKEN: Final = _CASED.replace("SUFFIX", "").replace("NUMBER", r"\p{N}")
_GPT4O: Final = _CASED.replace("SUFFIX", f"(?:{_SUFFIXES})?").replace("NUMBER", r"\p{N}{1,3}")

_GPT2_RULE: Final = WordRule((_GPT2,))
_DIGITS_RULE: Final = WordRule((r"\p{N}", _GPT2))
_LLAMA3_RULE: Final = WordRule((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_RULE: Final = WordRule((_QWEN2,))
_PLAIN_LLAMA3_RULE: Final = WordRule((_LLAMA3,))

PRE_TOKENIZERS: Final[dict[str, WordRule]] = {
    "default": WordRule((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "falcon": WordRule((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"), _GPT2_RULE),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), _DIGITS_RULE
    ),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"), _LLAMA3_RULE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _PLAIN_LLAMA3_RULE),
    "chatglm-bpe": _PLAIN_LLAMA3_RULE._replace(has_default_bos=False),
    **dict.fromkeys(("glm4", "glm5"), _PLAIN_LLAMA3_RULE._replace(ignore_merges=True, has_default_bos=False)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"), _QWEN2_RULE
    ),
    "qwen35": WordRule((_QWEN35,)),
    "tekken": WordRule((_TEKKEN,), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "minimax-m2"), WordRule((_GPT4O,))),
}


def word_rule(name: str) -> WordRule:
    """Return the rule for a value of `tokenizer.ggml.pre`.

    Raises:
        UnsupportedModel: no rule has that name.
    """
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModel(
            f"the model's pre-tokenizer is {name!r}, supported without llama.cpp are {known}; "
            "take the llamacpp engine for this model"
        )
    return rule


def build_pre_tokenizer(rule: WordRule) -> PreTokenizer:
    """Return the cutter of a rule: words as byte-level characters, "Ġ" for a space."""
    splits: list[PreTokenizer] = [Split(Regex(_for_unicode_15(p)), "isolated") for p in rule.patterns]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def _for_unicode_15(pattern: str) -> str:
    for letter in "LNMP":
        pattern = pattern.replace(rf"\p{{{letter}}}", rf"[\p{{{letter}}}&&{_OLD}]")
    return pattern
