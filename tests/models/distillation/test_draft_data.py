"""What the shipped draft's training text was asked for: the same file from the same input, with every brace filled."""

import random
from pathlib import Path
from types import ModuleType

import pytest

from draft_data import passages, requests
from draft_data.passages import handbook, speeches
from draft_data.requests import Lexicon, Requests, read_lexicon

NOUNS = """\
  1 the licence, indented
00001740 03 n 01 entity 0 000 | that which exists
00002000 06 n 02 desk_lamp 0 light 0 000 | gives light
00003000 06 n 01 hammer 0 000 | a tool
00004000 05 n 01 axolotl 0 000 | an animal that no tagged text has
00005000 18 n 01 carpenter 0 001 @ 00001740 n 0000 | works with wood
00006000 18 n 01 Ada_Lovelace 0 001 @i 00005000 n 0000 | wrote the first program
00007000 15 n 01 Lima 0 001 @i 00001740 n 0000 | a city
00008000 04 n 01 Agincourt 0 001 @i 00001740 n 0000 | a battle
00009000 10 n 01 C++ 0 000 | not a plain word
"""
INDEX = """\
  1 the licence, indented
entity n 1 1 @ 1 7 00001740
hammer n 1 1 @ 1 2 00003000
desk_lamp n 1 1 @ 1 0 00002000
axolotl n 1 1 @ 1 0 00004000
carpenter n 1 1 @ 1 3 00005000
"""
VERBS = "paint v 1 1 @ 1 9 00000001\nquip v 1 1 @ 1 1 00000002\nset_out v 1 1 @ 1 9 00000003\n"


@pytest.fixture
def lexicon(tmp_path: Path) -> Lexicon:
    for name, text in {"data.noun": NOUNS, "index.noun": INDEX, "index.verb": VERBS}.items():
        (tmp_path / name).write_text(text)
    texts = tmp_path / "passages.jsonl"
    texts.write_text(
        '{"prompt": "Yesterday the king met Anna of Kleve.", "category": "English"}\n'
        '{"prompt": "Am Montag kam die Post.", "category": "German"}\n'
    )
    return read_lexicon(tmp_path, texts, random.Random(1))


def test_the_lexicon_has_plain_words_by_what_they_are(lexicon: Lexicon) -> None:
    assert dict(zip(lexicon.common, lexicon.weights, strict=True)) == {"entity": 7, "hammer": 2}
    assert (lexicon.rare, lexicon.things, lexicon.kinds) == (["desk lamp"], ["hammer"], ["carpenter"])
    assert (lexicon.people, lexicon.places, lexicon.events) == (["Ada Lovelace"], ["Lima"], ["Agincourt"])
    assert (lexicon.names, lexicon.verbs) == (["Anna of Kleve"], ["paint"])


def test_requests_are_a_function_of_the_seed_and_every_brace_is_filled(lexicon: Lexicon) -> None:
    twice = [Requests(lexicon, random.Random(5)) for _ in range(2)]
    first, again = ([one.draw() for _ in range(4000)] for one in twice)
    assert first == again
    assert {kind for _, kind in first} == {"explain", "write", "role", "practical", "qa", "code", "reason", "math"}
    assert not [text for text, _ in first if "{" in text or "}" in text or not text.strip()]
    assert len({text for text, _ in first}) > 1500


def test_passages_are_whole_sentences_of_about_a_length(tmp_path: Path) -> None:
    (tmp_path / "1980_x.txt").write_text("One two three four five. " * 200)
    (tmp_path / "1960_x.txt").write_text("Too old. " * 500)
    found = list(speeches(tmp_path))
    assert [len(text.split()) for text in found] == [260] * 3  # what is left, 220 words, is dropped
    assert all(text.endswith(".") for text in found)


def test_the_handbook_gives_german_paragraphs(tmp_path: Path) -> None:
    paragraphs = (
        "Der <em>Kern</em> ist &amp; bleibt die Mitte von allem.",
        "This one was left in English and the reader sees it.",
        "Zu kurz.",
    )
    (tmp_path / "a.html").write_text("".join(f'<div class="para">{text}</div>' for text in paragraphs))
    assert list(handbook(tmp_path)) == ["Der Kern ist & bleibt die Mitte von allem."]


@pytest.mark.parametrize(("program", "count"), [(passages, 3), (requests, 2)])
def test_an_input_that_is_not_there_is_named(
    program: ModuleType, count: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["program", *["/nowhere"] * count])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    written = capsys.readouterr()
    assert "/nowhere" in written.err
    assert written.out == ""
