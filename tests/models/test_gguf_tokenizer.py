"""The tokenizer from a GGUF file's metadata gives llama.cpp's ids, on the default model and on made-up vocabularies."""

# ruff: noqa: RUF001 - look-alike characters are what is tested

import ctypes
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from multispin_models.errors import ModelError, UnsupportedModel
from multispin_models.gguf_pretokenizers import PRE_TOKENIZERS
from multispin_models.gguf_tokenizer import load_gguf_tokenizer
from multispin_models.language_model import ChatMessage

lib = pytest.importorskip("llama_cpp.llama_cpp", reason="the tokenizer that ours must equal is llama.cpp's")

BYTES = sorted(ByteLevel.alphabet())
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

TEXTS = {
    "latin": "The naïve café façade cost £12,345.67 in Zürich; ¿cuánto? Ça va — «œuvre» ﬁn. ſtraße STRASSE İstanbul ı",
    "contractions": "I'm you're he'll they've she'd it's don't I'M YOU'RE HE'LL they'VE 's 't ''s ' s x'ſ rock'n'roll",
    "vietnamese": "Tiếng Việt có dấu: ắ ằ ẳ ẵ ặ, đường phố Hà Nội",
    "polish and turkish": "Zażółć gęślą jaźń. Pijamalı hasta yağız şoföre çabucak güvendi.",
    "greek": "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. ΑΒΓ ᾳ ῷ",
    "cyrillic": "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак ґанок ѣ",
    "armenian and georgian": "Բարեւ աշխարհ։ გამარჯობა მსოფლიო Ა ᲀ",
    "hebrew": "שָׁלוֹם עוֹלָם, 42 ספרים (כן!) ״ציטוט״",
    "arabic": "السَّلامُ عليكم، ٣٤٥ كتابًا؟ ﷽ لا\u200cنی‌شود\u061c",
    "persian and urdu": "این یک آزمایش است ۱۲۳۴ — یہ ایک جملہ ہے۔",
    "devanagari": "नमस्ते दुनिया क्षत्रिय १२३ हिन्दी में॥",
    "bengali tamil telugu": "আমি বাংলায় গান গাই ৳১০০ வணக்கம் உலகம் తెలుగు లిపి ൧൨",
    "thai lao khmer burmese": "สวัสดีชาวโลก ๑๒๓ ກໍ່ ភាសាខ្មែរ មាន៖ မြန်မာဘာသာ ၁၂",
    "tibetan": "བོད་སྐད་ལ་འཇུག་པ། ༡༢༣",
    "chinese": "我爱北京天安门，一共１２３个人。“引号”《书名》、㊗️🈶",
    "rare han": "𠀀𠮷野家 𪚥 龘 豈 ⿰氵可 \U0002f800",
    "japanese": "日本語のテキスト、カタカナ・ﾊﾝｶｸ゛ﾟ、々〆ヶ。ゔ〜ー",
    "korean": "안녕하세요 세계! 한글 \u1112\u1161\u11ab ㄱㄴㄷ ㈜",
    "ethiopic and cherokee": "ሰላም ለዓለም፡፡ ፲፪ ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ꮳꮃꭹ",
    "ancient": "𐎠𐎡𐎢 𒀀𒁀 𓀀𓂀 𐌰𐌱 ᚠᚢᚦ 𐤀𐤁 𑀓 𞤀𞤣",
    "emoji": "👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇵🇱🇯🇵 ❤️‍🔥 1️⃣ #️⃣ 🧑🏿‍🦰 😀😀😀\u20e3 ☺︎ 🏴\U000e0067\U000e0062\U000e007f",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞ e\u0301 n\u0303 \u0301alone",
    "numbers": "0 1 12 123 1234 12345 3.14159e-10 0xDEADBEEF 1_000_000 ½ ¾ Ⅷ ⅻ ² ₃ ① ㊿ 𝟘𝟙 ٤٥ १२ 一二 1st 2nd v1.2.3",
    "mathematics": "∀x∈ℝ: ∫₀^∞ e^{−x²}dx = √π/2 ≠ ∅ ⊕ 𝒜𝔅ℂ ← → ⇒ ∎",
    "punctuation": "!!! ??? ... … ;;; --- — – ‐ ''' \"\"\" ``` ~~~ ^^^ ||| $$$ <<<>>> [[{{(())}}]] @#%&* §¶†‡ ‰ ⁂ ¡¿",
    "code": 'def f(x: int) -> str:\n\treturn f"{x!r:>9}"\n\n\nfor (i=0;i<n;++i){a[i]|=~b[i]<2;}\r\n</p>&lt;\\n\\t$PATH',
    "json": '{"a":[1,2.5e3,null,true,"\\u00e9\\\\"],  "b" : {}}',
    "whitespace": " a  b   c    d\te\t\tf\n\ng\n\n\nh \n i\n  j\r\nk\r\n\r\nl\rm \t \n \t x  ",
    "only spaces": " " * 37,
    "leading and trailing": "   x   ",
    "newlines": "\n\n\n\r\n\r\n\n \n  \n",
    "odd spaces": "a\xa0b\u2003c\u3000d\u2028e\u2029f\u0085g\u1680h\u205fi\u202fj\u200bk\ufeffl\u180em\vn\fo \u3000",
    "controls": "a\x00b\x01c\x1b[31md\x7fe\x80f\x9fg\x1c\x1d\x1e\x1fh",
    "directions": "\u202eabc\u202c \u2066x\u2069 \u200f\u200e soft\u00adhyphen wo\u2060rd",
    "private and unassigned": "\ue000\uf8ff\U000f0000\U0010ffff \u0378\u0380 \ufdd0\ufffe\uffff \U0001ffff\ufffd",
    "unicode 16": "\u1c89\u1c8a \ua7cb\ua7da x\U00010d40\U00010d50y \U00016d40 \U0001cc00 \U0001fae9 \u0897",
    "look-alikes": "аpple ΑΒС 🄰🅱 ｆｕｌｌ ｗｉｄｔｈ ＡＢＣ１２３ Ⓐ ㍿ ﬀ ǆ ǅ K Å",
    "long word": "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "repeats": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" + "ab" * 40 + "0" * 33 + "=" * 65 + "\u3042" * 20,
    "almost special": "<|im_start|<|im_end|> |><|endoftext|><|im_start|>user\n<|im_sta",
    "special": "<|im_start|>system\nYou <|im_end|>\n<|im_start|> <|im_start|>x<|endoftext|><file_sep><|im_end|>",
    "chat": "<|im_start|>user\nHi there!  How's it going?<|im_end|>\n<|im_start|>assistant\n",
    "empty": "",
}


class Reference:
    """llama.cpp's own tokenizer for a file, called through its C interface."""

    def __init__(self, path: Path) -> None:
        from multispin_models.llamacpp.gguf_file import open_gguf  # noqa: PLC0415 - needs llama_cpp

        self._file = open_gguf(path, vocab_only=True)
        self.vocab = self._file.vocab
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        raw = text.encode()
        room = 2 * len(raw) + 16
        ids = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(self.vocab, raw, len(raw), ids, room, add_special, parse_special)
        assert count >= 0
        return ids[:count]

    def without_doubles(self, ids: list[int]) -> list[int]:
        bos, eos = lib.llama_vocab_bos(self.vocab), lib.llama_vocab_eos(self.vocab)
        start = int(lib.llama_vocab_get_add_bos(self.vocab) and ids[:2] == [bos, bos])
        stop = len(ids) - int(lib.llama_vocab_get_add_eos(self.vocab) and ids[-2:] == [eos, eos])
        return ids[start:stop]

    def token_bytes(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(4096)
        size = lib.llama_token_to_piece(self.vocab, token_id, buffer, 4096, 0, False)
        return buffer.raw[:size]

    def end_token_ids(self) -> set[int]:
        return {i for i in range(self.n_vocab) if lib.llama_vocab_is_eog(self.vocab, i)}


class Both:
    """Our tokenizer beside llama.cpp's, on one file."""

    def __init__(self, path: Path) -> None:
        self.ours = load_gguf_tokenizer(path)
        self.theirs = Reference(path)

    def check(self, text: str) -> None:
        for parse_special, add_special in itertools.product((False, True), repeat=2):
            flags = {"parse_special": parse_special, "add_special": add_special}
            theirs = self.theirs.encode(text, **flags)
            if parse_special and add_special:  # llama.cpp doubles a token that the text brings itself, and warns
                theirs = self.theirs.without_doubles(theirs)
            assert self.ours.encode(text, **flags) == theirs, (text, flags)

    def check_vocabulary(self) -> None:
        assert self.ours.n_vocab == self.theirs.n_vocab
        assert self.ours.end_token_ids == self.theirs.end_token_ids()
        for token_id in range(self.theirs.n_vocab):
            assert self.ours.token_bytes(token_id) == self.theirs.token_bytes(token_id), token_id


@pytest.fixture(scope="module")
def default(target_gguf: Path) -> Both:
    return Both(target_gguf)


WriteGguf = Callable[..., Path]


@pytest.fixture(scope="module")
def write_gguf(tmp_path_factory: pytest.TempPathFactory) -> WriteGguf:
    """Write a file with nothing but a vocabulary; keyword arguments are `tokenizer.ggml` keys."""
    folder = tmp_path_factory.mktemp("vocabularies")
    numbers = itertools.count()

    def write(tokens: list[str], *, model: str = "gpt2", name: str = "made up", **keys: Any) -> Path:
        path = folder / f"{next(numbers)}.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_name(name)
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        for key, value in keys.items():
            add: Callable[[str, Any], None] = {
                str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array,
            }[type(value)]  # fmt: skip
            add(f"tokenizer.ggml.{key}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path

    return write


def mixed_text(rng: random.Random) -> str:
    """Return a text that jumps between scripts, spaces, digits and suffixes."""
    snippets = list(TEXTS.values())
    parts = []
    for _ in range(rng.randint(1, 12)):
        snippet = rng.choice(snippets)
        start = rng.randrange(len(snippet) + 1)
        parts.append(snippet[start : start + rng.randint(1, 9)])
    return "".join(parts)


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_every_script_gives_the_ids_of_llamacpp(default: Both, text: str) -> None:
    default.check(text)
    default.check(text + " " + text)


@pytest.mark.model
def test_mixed_scripts_give_the_ids_of_llamacpp(default: Both) -> None:
    rng = random.Random(11)
    for _ in range(2000):
        default.check(mixed_text(rng))


@pytest.mark.model
@settings(max_examples=400, deadline=None)
@given(text=st.text(max_size=200))
def test_any_text_gives_the_ids_of_llamacpp(default: Both, text: str) -> None:
    default.check(text)


@pytest.mark.model
@settings(max_examples=400, deadline=None)
@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_text_give_the_ids_of_llamacpp(default: Both, raw: bytes) -> None:
    default.check(raw.decode("utf-8", "replace"))


@pytest.mark.model
@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "|>", " ", "\n", "user"]))
)
def test_special_tokens_in_any_order_give_the_ids_of_llamacpp(default: Both, parts: list[str]) -> None:
    default.check("".join(parts))


@pytest.mark.model
def test_the_bytes_of_the_tokens_are_the_text_again(default: Both) -> None:
    lost = b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"  # this vocabulary has no token for them, and llama.cpp drops them too
    for text in TEXTS.values():
        raw = b"".join(map(default.ours.token_bytes, default.ours.encode(text)))
        assert raw == bytes(byte for byte in text.encode() if byte not in lost)


@pytest.mark.model
def test_every_token_and_the_end_tokens_are_those_of_llamacpp(default: Both) -> None:
    default.check_vocabulary()
    with pytest.raises(ValueError, match="token id is 49152, allowed are 0 to 49151"):
        default.ours.token_bytes(49152)
    with pytest.raises(ValueError, match="token id is -1"):
        default.ours.token_bytes(-1)


@pytest.mark.model
def test_both_engines_have_one_vocabulary_hash_and_one_chat_template(default: Both, target_gguf: Path) -> None:
    from multispin_models.llamacpp import tokenizer as llamacpp_tokenizer  # noqa: PLC0415 - needs llama_cpp

    other = llamacpp_tokenizer.load_llamacpp_tokenizer(target_gguf)
    messages = [ChatMessage("user", "Hi!"), ChatMessage("assistant", "Hello."), ChatMessage("user", "  Bye\n")]
    assert default.ours.vocabulary_hash == other.vocabulary_hash
    assert default.ours.apply_chat_template(messages) == other.apply_chat_template(messages)
    assert default.ours.apply_chat_template(messages).endswith("<|im_start|>assistant\n")
    assert default.ours.apply_chat_template(messages, add_generation_prompt=False).endswith("Bye\n<|im_end|>\n")


@pytest.mark.model
def test_a_lone_surrogate_counts_as_a_question_mark(default: Both) -> None:
    assert default.ours.encode("a\ud800b") == default.ours.encode("a?b")


@pytest.fixture(scope="module")
def pairs_of(write_gguf: WriteGguf) -> Callable[[str], Both]:
    """Both tokenizers on a vocabulary that shows where a pre-tokenizer cuts: any two bytes of one word can merge."""
    pairs = [(a, b) for a in BYTES for b in BYTES]
    random.Random(3).shuffle(pairs)
    tokens, merges = BYTES + [a + b for a, b in pairs], [f"{a} {b}" for a, b in pairs]
    return lambda pre: Both(write_gguf(tokens, pre=pre, merges=merges))


@pytest.mark.parametrize("pre", {rule.patterns: name for name, rule in PRE_TOKENIZERS.items()}.values())
def test_every_word_rule_cuts_where_llamacpp_cuts(pairs_of: Callable[[str], Both], pre: str) -> None:
    both = pairs_of(pre)
    new_in_16 = [*range(0x1C80, 0x1C90), *range(0xA7C0, 0xA7E0), *range(0x10D40, 0x10D90), *range(0x1F8B0, 0x1F8C4)]
    characters = [c for c in (*range(0x3000), *range(0x3000, 0x110000, 997), *new_in_16) if not 0xD800 <= c < 0xE000]
    batches = (characters[i : i + 32] for i in range(0, len(characters), 32))
    for group in batches:
        text = "".join(f"a{c}b {c}{c}1{c}!{c}\nA{c}" for c in map(chr, group))
        assert both.ours.encode(text) == both.theirs.encode(text), group
    rng = random.Random(5)
    for text in (*TEXTS.values(), *(mixed_text(rng) for _ in range(300))):
        assert both.ours.encode(text) == both.theirs.encode(text), text


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_pre_tokenizer_name_means_what_it_means_to_llamacpp(write_gguf: WriteGguf, pre: str) -> None:
    # "hello" and "Ġhello" are no result of a merge: they show whether whole words are taken before merging
    merges = ["h e", "l l", "Ġ h", "1 2", "12 3", "! !", "Ċ Ċ", "' s", "' S", "a b", "A b"]
    tokens = [*BYTES, *(merge.replace(" ", "") for merge in merges), "hello", "Ġhello", "<|im_end|>"]
    both = Both(write_gguf(tokens, pre=pre, merges=merges, token_type=[NORMAL] * (len(tokens) - 1) + [CONTROL]))
    for text in ("hello hello  hello", "123 1234", "a!!\n\n b's it'S", "aAb abA<|im_end|>hello", *TEXTS.values()):
        both.check(text)
    both.check_vocabulary()


def test_bytes_without_a_token_and_merges_that_lead_nowhere_are_treated_as_by_llamacpp(write_gguf: WriteGguf) -> None:
    tokens = [t for t in BYTES if t not in {"b", "Ġ", "Ã"}] + ["aa", "abc", "cd", "xy", "ca"]
    # "b" is missing yet joins "ab"; "ab" and "cda" are no tokens; one merge stands twice, three can never apply
    merges = ["a b", "c d", "cd a", "ab c", "a a", "x y", "c d", "c a", "nospace", " lead", "tail "]
    both = Both(write_gguf(tokens, pre="gpt-2", merges=merges))
    for length in range(1, 7):
        for letters in itertools.product("abcd", repeat=length):
            both.check("".join(letters))
    both.check("a bé xyÃ b")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_merges_give_the_ids_of_llamacpp(write_gguf: WriteGguf, data: st.DataObject) -> None:
    part = st.text("abé ", min_size=1, max_size=3).map(lambda t: t.replace(" ", "Ġ").replace("é", "Ã©"))
    merges = data.draw(st.lists(st.tuples(part, part), min_size=1, max_size=25))
    singles, joined = ["a", "b", "Ã", "©", "Ġ"], [part for a, b in merges for part in (a, b, a + b)]
    pre = data.draw(st.sampled_from(["gpt-2", "llama-bpe"]))
    tokens = list(dict.fromkeys(singles + joined))
    if pre == "gpt-2":  # some merges lead nowhere, some letters are missing
        tokens = data.draw(st.lists(st.sampled_from(tokens), min_size=1, unique=True))
    both = Both(write_gguf([*tokens, "<x>"], pre=pre, add_bos_token=False, merges=[f"{a} {b}" for a, b in merges]))
    for text in data.draw(st.lists(st.text("abé ", min_size=1, max_size=30), min_size=1, max_size=20)):
        assert both.ours.encode(text) == both.theirs.encode(text)


def test_token_types_are_treated_as_by_llamacpp(write_gguf: WriteGguf) -> None:
    special = {
        "<unk>": UNKNOWN, "<s>": CONTROL, "<s><t>": CONTROL, "<t>x": CONTROL, "<user>": USER_DEFINED,
        "   ": USER_DEFINED, "  ": USER_DEFINED, "[hid]": UNUSED, "<0x41>": BYTE, "ü中": NORMAL, "": NORMAL,
        "<|channel|>": CONTROL,
    }  # fmt: skip
    types = [NORMAL] * len(BYTES) + list(special.values())
    both = Both(write_gguf([*BYTES, *special], pre="gpt-2", merges=["a b"], token_type=types))
    both.check_vocabulary()
    assert both.ours.token_bytes(len(BYTES) + 1) == b""
    assert both.ours.token_bytes(len(BYTES) + 4) == b"<user>"
    rng = random.Random(2)
    for _ in range(500):
        both.check("".join(rng.choices([*special, "a", " ", "b<", "\n", "[EMPTY_266]"], k=rng.randint(1, 12))))


END_CASES: dict[str, dict[str, Any]] = {
    "every text": {"texts": [
        "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]",
        "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[e~[", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|fim_prefix|>", "<SUF>", "<fim_middle>", "<other>",
    ]},
    "harmony": {"texts": ["<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|message|>", "<|constrain|>"]},
    "solar": {"texts": ["<|end|>", "<|flush|>", "<|calls|>"]},
    "no calls": {"texts": ["<|end|>", "<|return|>"]},
    "gemma": {"texts": ["</s>", "<|tool_response>"]},
    "by number": {"texts": ["<x>", "<y>", "<z>", "<w>", "<|file_sep|>", "<PRE>"],
                  "eos_token_id": 256, "eot_token_id": 257, "eom_token_id": 258, "fim_sep_token_id": 259,
                  "prefix_token_id": 3},
    "out of range": {"texts": ["<|im_end|>"], "eos_token_id": 9999, "eot_token_id": 9999, "fim_pad_token_id": 9999},
    "without any": {"texts": ["<x>"]},
}  # fmt: skip


@pytest.mark.parametrize("case", END_CASES.values(), ids=END_CASES.keys())
@pytest.mark.parametrize("token_type", [NORMAL, CONTROL])
def test_the_end_tokens_are_those_of_llamacpp(write_gguf: WriteGguf, case: dict[str, Any], token_type: int) -> None:
    texts = case["texts"]
    keys = {key: value for key, value in case.items() if key != "texts"}
    types = [NORMAL] * len(BYTES) + [token_type] * len(texts)
    both = Both(write_gguf([*BYTES, *texts], pre="gpt-2", merges=["a b"], token_type=types, **keys))
    both.check_vocabulary()
    both.check("a" + "b ".join(texts))


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_tokens_around_a_text_are_added_and_never_doubled(write_gguf: WriteGguf, model: str) -> None:
    tokens = ["<s>", "</s>", *BYTES, *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [CONTROL, CONTROL] + [NORMAL] * 256 + [BYTE] * 256
    around = {"bos_token_id": 0, "eos_token_id": 1, "add_bos_token": True, "add_eos_token": True}
    more: dict[str, Any] = {"add_space_prefix": False} if model == "llama" else {"pre": "gpt-2", "merges": ["a b"]}
    both = Both(write_gguf(tokens, model=model, token_type=types, **around, **more))
    a = tokens.index("a")
    for text in ("a", "", "<s>", "aa</s>"):
        plain = both.ours.encode(text, add_special=True)
        assert plain == both.theirs.encode(text, add_special=True)
        assert (plain[0], plain[-1]) == (0, 1)
    for text in ("a", "<s>a", "a</s>", "<s>a</s>"):
        assert both.ours.encode(text, add_special=True, parse_special=True) == [0, a, 1]
    assert both.ours.encode("<s><s>a", add_special=True, parse_special=True) == [0, 0, a, 1]


def sentencepiece(extra: list[str], scores: list[float]) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "c", *extra]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (4 + len(extra))
    return {"tokens": tokens, "model": "llama", "token_type": types, "scores": [0.0] * 263 + scores}


@pytest.mark.parametrize("seed", range(20))
def test_sentencepiece_with_equal_scores_gives_the_ids_of_llamacpp(write_gguf: WriteGguf, seed: int) -> None:
    rng = random.Random(seed)
    short = ["".join(letters) for length in (2, 3, 4) for letters in itertools.product("ab\u2581", repeat=length)]
    odd = ["a\u0142", "\u0142b", "b\u2581c", "\u2581c", "aaaaa", "ababab"]
    if seed % 2:  # words that no token crosses are remembered
        short = [text for text in short + odd if "\u2581" not in text.lstrip("\u2581")]
    extra = rng.sample(short, k=min(len(short), rng.randint(5, 80)))
    scores = [float(-rng.randint(1, 3)) for _ in extra]
    both = Both(write_gguf(**sentencepiece(extra, scores), add_space_prefix=seed % 4 < 2))
    for _ in range(200):
        both.check("".join(rng.choices(["a", "b", " ", "\u2581", "c", "\u0142", "<s>", "aab"], k=rng.randint(0, 30))))


def test_sentencepiece_falls_back_to_bytes_in_every_script(write_gguf: WriteGguf) -> None:
    both = Both(write_gguf(**sentencepiece(["\u2581a", "bc", "\u2581\u2581"], [-1.0, -2.0, -3.0])))
    both.check_vocabulary()
    for text in TEXTS.values():
        both.check(text)
    both.check("a bc" * 300 + "x" * 300)


def test_special_tokens_of_phi_3_swallow_the_white_space_behind_them(write_gguf: WriteGguf) -> None:
    vocabulary = sentencepiece(["<|end|>", "<|user|>", "<|endoftext|>"], [0.0, 0.0, 0.0])
    vocabulary["token_type"][-3:] = [CONTROL, USER_DEFINED, CONTROL]
    both = Both(write_gguf(**vocabulary, name="Phi-3 mini"))
    for text in ("<|user|>\n a<|end|> \t\n<|user|>  ", "<s>  a</s>  b<|endoftext|>  a", "<|end|>\u00a0a", "<|user|>"):
        both.check(text)
    assert both.ours.encode("<|end|> \n a", parse_special=True) == both.ours.encode("<|end|>a", parse_special=True)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedModel, r"the tokenizer is 'bert', supported without llama.cpp are 'gpt2'"),
        ({"pre": "kimi-k2"}, UnsupportedModel, r"pre-tokenizer is 'kimi-k2', supported .* smollm"),
        ({"pre": "gpt-2"}, ModelError, r"has no tokenizer.ggml.merges"),
        ({"model": "llama"}, ModelError, r"no token for byte 0x00"),
        ({"token_type": [1, 1]}, ModelError, "2 token types for 257 tokens"),
        ({"model": "llama", "scores": [0.0]}, ModelError, "1 token scores for 257 tokens"),
        ({"merges": [1, 2]}, ModelError, r"merges is numbers, it must be strings"),
        ({"merges": ["a b"], "pre": "llama-bpe"}, UnsupportedModel, "holds 'ab', which is no token"),
        ({"merges": ["a b"], "pre": "glm4", "add_bos_token": False}, UnsupportedModel, "holds 'ab'"),
        ({"merges": ["a b"], "pre": "glm4", "add_bos_token": True}, ModelError, "there is no bos_token_id"),
    ],
)
def test_a_vocabulary_that_cannot_be_served_is_refused(
    write_gguf: WriteGguf, keys: dict[str, Any], error: type[ModelError], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_gguf_tokenizer(write_gguf([*BYTES, "more"], **keys))


def test_a_token_that_stands_twice_and_a_missing_template_are_refused(write_gguf: WriteGguf) -> None:
    with pytest.raises(ModelError, match="token 'a' stands twice"):
        load_gguf_tokenizer(write_gguf([*BYTES, "a"], merges=["a b"]))
    tokenizer = load_gguf_tokenizer(write_gguf([*BYTES, "ab"], merges=["a b"]))
    with pytest.raises(ModelError, match="no chat template: send plain text"):
        tokenizer.apply_chat_template([ChatMessage("user", "hi")])
