"""The complete requests that a part of the shipped draft's training text answers.

    python -m draft_data.requests WORDNET PASSAGES.jsonl > requests.jsonl

Templates written for this project (templates.toml) are filled with the nouns, people, places and events of WordNet and
with names out of the passages, so that a small target is asked about everything a dictionary has. Like the built-in
openings, none of it is taken from a set of questions. The same input gives the same file.

WORDNET is the folder with `data.noun`, `index.noun` and `index.verb`: /usr/share/wordnet of Debian's wordnet-base.
"""

import argparse
import itertools
import json
import random
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from multispin_models.distillation.openings import NAME

__all__ = ["Lexicon", "Requests", "read_lexicon"]

_SEED: Final = 20261128
_COUNT: Final = 120_000
_TEMPLATES: Final = Path(__file__).with_name("templates.toml")
_WORD: Final = re.compile(r"[A-Za-z\- ']{3,}")
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# numbers of WordNet's lexicographer files
_ACT, _ANIMAL, _ARTIFACT, _EVENT, _FOOD = 4, 5, 6, 11, 13
_PLACE, _PERSON, _PLANT, _SUBSTANCE, _TIME = 15, 18, 20, 27, 28


class Lexicon(NamedTuple):
    """What fills the templates.

    Attributes:
        common: nouns that WordNet's own tagged texts have.
        weights: how often they have each.
        rare: other nouns.
        things: common nouns that can be bought and counted.
        kinds: of people ("carpenter").
        people, places, events: that have a name.
        names: out of the passages, of anything.
        verbs: that the tagged texts have more than twice.
    """

    common: list[str]
    weights: list[int]
    rare: list[str]
    things: list[str]
    kinds: list[str]
    people: list[str]
    places: list[str]
    events: list[str]
    names: list[str]
    verbs: list[str]


def read_lexicon(wordnet: Path, passages: Path, drawn: random.Random) -> Lexicon:
    """Return the words of WordNet, as far as they are plain, each in the first meaning that the file has of it."""
    tagged = {lemma: count for lemma, count in _tag_counts(wordnet / "index.noun") if count}
    common: list[str] = []
    weights: list[int] = []
    rare: list[str] = []
    things: list[str] = []
    kinds: list[str] = []
    named: dict[int, list[str]] = {}
    seen: set[str] = set()
    for fields, is_instance in _meanings(wordnet / "data.noun"):
        lemma, file = fields[4], int(fields[1])
        word = lemma.replace("_", " ")
        if not _WORD.fullmatch(word) or word.lower() in seen:
            continue
        if is_instance:
            seen.add(word.lower())
            named.setdefault(file, []).append(word)
            continue
        if word[0].isupper() or (file in {_FOOD, _SUBSTANCE} and drawn.random() < 0.6):
            continue
        seen.add(word.lower())
        count = tagged.get(lemma.lower(), 0)
        if file == _PERSON:
            kinds.append(word)
            continue
        if file in {_ANIMAL, _PLANT} and not count:
            continue
        if count:
            common.append(word)
            weights.append(count)
        else:
            rare.append(word)
        if file in {_ARTIFACT, _FOOD} and count and " " not in word and not word.endswith("s"):
            things.append(word)
    verbs = [lemma for lemma, count in _tag_counts(wordnet / "index.verb") if count > 2 and "_" not in lemma]
    english = [line for line in map(json.loads, passages.read_text().splitlines()) if line["category"] == "English"]
    names = sorted({name for line in english for name in NAME.findall(line["prompt"])})
    events = [word for file in (_ACT, _TIME, _EVENT) for word in named.get(file, [])]
    people, places = named.get(_PERSON, []), named.get(_PLACE, [])
    return Lexicon(common, weights, rare, things, kinds, people, places, events, names, verbs)


def _tag_counts(index: Path) -> Iterator[tuple[str, int]]:
    """Yield each lemma and how many of its meanings stand in WordNet's tagged texts."""
    for line in index.read_text().splitlines():
        if not line.startswith(" "):  # the licence
            fields = line.split()
            yield fields[0], int(fields[-1 - int(fields[2])])


def _meanings(data: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the fields of each meaning before its gloss, and whether it is a single thing with a name."""
    for line in data.read_text().splitlines():
        if not line.startswith(" "):
            head = line.partition(" | ")[0]
            yield head.split(), " @i " in head


class Requests:
    """Draws requests; a pure function of the lexicon and the generator's state.

    Args:
        lexicon: fills the templates.
        drawn: is drawn from.
    """

    def __init__(self, lexicon: Lexicon, drawn: random.Random) -> None:
        self._words, self._drawn = lexicon, drawn
        self._cumulated = list(itertools.accumulate(weight**0.6 for weight in lexicon.weights))
        with _TEMPLATES.open("rb") as file:
            self._templates: dict[str, list[str]] = tomllib.load(file)
        pick = self._template
        self._kinds: tuple[tuple[float, str, Callable[[], str]], ...] = (
            (0.24, "explain", lambda: self._fill(pick("explain")) + pick("ending")),
            (0.18, "write", lambda: self._fill(pick("write")) + pick("ending")),
            (0.10, "role", lambda: self._fill(pick("role"), self._fill(pick("role_question")))),
            (0.14, "practical", lambda: self._fill(pick("practical"))),
            (0.19, "qa", lambda: self._fill(pick("question"))),
            (0.05, "code", lambda: self._fill(pick("code"))),
            (0.03, "reason", lambda: self._fill(pick("reasoning"))),
            (0.07, "math", self._mathematics),
        )

    def draw(self) -> tuple[str, str]:
        """Return a request and its kind."""
        share = self._drawn.random()
        kinds = iter(self._kinds)
        part, kind, write = next(kinds)
        while share >= part:
            share -= part
            part, kind, write = next(kinds)
        text = write()
        return (text[0].upper() + text[1:] if kind == "reason" else text), kind

    def _template(self, name: str) -> str:
        return self._drawn.choice(self._templates[name])

    def _noun(self) -> str:
        share = self._drawn.random()
        if share < 0.55:
            return self._drawn.choices(self._words.common, cum_weights=self._cumulated)[0]
        return self._drawn.choice(self._words.common if share < 0.85 else self._words.rare)

    def _fill(self, template: str, question: str = "") -> str:
        """Return a template, filled.

        n to n5 are nouns, p and p2 kinds of people, i and i2 names of anything, l and l2 of places, who and who2 of
        people, e of an event, v a verb, q a question, t what a function does, t2 what is done in a language, t3 what a
        pattern is of, c a concept of programming, d and d2 numbers, f to f3 first names.
        """
        choice, words = self._drawn.choice, self._words
        nouns = [self._noun() for _ in range(5)]
        filling = {"n": nouns[0], **{f"n{i + 1}": nouns[i] for i in range(1, 5)}, "q": question}
        filling |= {"p": choice(words.kinds), "p2": choice(words.kinds)}
        named = (words.names, words.people, words.places, words.places, words.events, words.names)
        filling |= {"i": choice(choice(named)), "i2": choice(choice(named))}
        filling |= {"l": choice(words.places), "l2": choice(words.places)}
        filling |= {"who": choice(words.people), "who2": choice(words.people), "e": choice(words.events)}
        filling |= {"v": choice(words.verbs), "t": self._template("function_that"), "t2": self._template("how_to")}
        filling |= {"t3": self._template("pattern_of"), "c": self._template("concept")}
        filling |= {"d": str(self._number(2, 9)), "d2": str(self._number(2, 9))}
        filling |= {key: self._template("first_name") for key in ("f", "f2", "f3")}
        return template.format_map(filling | {"day": choice(_DAYS)})

    def _number(self, least: int, most: int) -> int:
        return self._drawn.randint(least, most)

    def _mathematics(self) -> str:
        number = self._number
        a, b, c, d = number(2, 60), number(2, 20), number(2, 12), number(1, 9)
        f, g, h = self._drawn.sample(self._templates["first_name"], 3)
        n, m = self._drawn.choice(self._words.things), self._drawn.choice(self._words.things)
        filling: dict[str, str | int] = {"f": f, "g": g, "h": h, "n": n, "m": m, "a": a, "b": b, "c": c, "d": d}
        filling |= {"a*2": a * 2, "a*3": a * 3, "a*4": a * 4, "a*5": a * 5, "a*10": a * 10, "a*b": a * b}
        filling |= {"a*b+d": a * b + d, "a+b*c": a + b * c, "b+3": b + 3, "b+5": b + 5, "c+d": c + d, "c*d": c * d}
        filling |= {"5-45": number(1, 9) * 5, "1-99": number(1, 99), "20-900": number(20, 900), "2-6": number(2, 6)}
        return self._template("mathematics").format_map(filling)


def main() -> None:
    """Write the file to standard output."""
    parser = argparse.ArgumentParser(description="Write complete requests, JSON lines, to standard output.")
    parser.add_argument("wordnet", type=Path, help="folder with data.noun, index.noun and index.verb")
    parser.add_argument("passages", type=Path, help="what draft_data.passages wrote")
    args = parser.parse_args()
    drawn = random.Random(_SEED)  # noqa: S311 - to be repeated
    try:
        lexicon = read_lexicon(args.wordnet, args.passages, drawn)
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    requests = Requests(lexicon, drawn)
    for _ in range(_COUNT):
        text, kind = requests.draw()
        sys.stdout.write(json.dumps({"prompt": text, "category": kind}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
