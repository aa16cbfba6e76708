"""What the target is asked for training: openings of user turns, which the target itself completes.

An opening is the beginning of a request ("Summarize this text:\n\n"); the target goes on in the user's turn until it
ends it, so prompts are as varied as the target's own idea of what users write (self-instruct, Wang et al.,
arXiv 2212.10560). About one in three is complete as it stands. All of it is written for this project, none of it is
taken from a set of questions: an evaluation on any public set stays fair.

What a small target makes up as "a news report" is shorter and duller than what people paste into a request. Real
texts can be given, then a share of the openings asks for something to be done with one of them, as long as what people
paste (up to some 600 words), and others are about the names in them.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["NAME", "QUESTION_TOKENS", "SENTENCE_END", "Opening", "Passages", "draw_opening"]

QUESTION_TOKENS: Final = 24

Passages = Mapping[str, Sequence[str]]
"""Real texts of a few sentences or more, by the English name of their language ("English", "German")."""


class Opening(NamedTuple):
    """The beginning of a user's turn.

    Attributes:
        task: for the statistics.
        text: may be empty: the target invents the whole turn.
        complete: nothing is to be added.
        max_tokens: most tokens of the turn, the opening included; behind one that is nearly as long or longer the
            target may add QUESTION_TOKENS.
    """

    task: str
    text: str
    complete: bool
    max_tokens: int


_TOPICS: Final = (
    "the tides", "coffee", "a lighthouse keeper", "electric buses", "the history of paper", "vaccines", "jazz",
    "a village market", "sleep", "volcanoes", "the printing press", "remote work", "honey bees", "black holes",
    "a lost umbrella", "trains at night", "public libraries", "the Roman roads", "soil", "the immune system", "chess",
    "a robot that paints", "desalination", "the Silk Road", "migrating birds", "learning a language", "bread",
    "a city without cars", "coral reefs", "the moon", "old photographs", "running", "wind turbines", "a family recipe",
    "the French Revolution", "encryption", "photosynthesis", "glaciers", "a long winter", "the violin", "inflation",
    "forest fires", "a school play", "gravity", "tea in Japan", "football", "the stock market", "mental health",
    "space travel", "the ocean floor", "a small bakery", "plate tectonics", "online privacy", "a mountain hike",
)  # fmt: skip
_TOPIC_TASKS: Final = (
    "Explain {0} to a ten-year-old.", "Write a short story about {0}.", "Give me five facts about {0}.",
    "Write a poem about {0}.", "What are the advantages and disadvantages of {0}?", "Write an email about {0} to ",
    "Compare {0} and {1}.", "Write a blog post about {0} with a catchy title.", "How is {0} connected with {1}?",
    "Make an outline of a talk about {0}.", "Write a dialogue between two friends about {0}.",
    "I want to learn more about {0}. Where should I start?", "Describe {0} in one paragraph.",
    "What questions would you ask an expert on {0}?", "Argue for and against {0}.", "Why does {0} matter today?",
    "Write three headlines about {0}.", "Imagine you are a guide. Tell visitors about {0}.",
    "What is the most common mistake people make about {0}?", "Give step by step advice on {0} for a beginner.",
)  # fmt: skip
_NAMES: Final = ("Anna", "Ben", "Carla", "David", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Kim", "Lena")
_THINGS: Final = ("apples", "books", "tickets", "pencils", "stamps", "cookies", "marbles", "flowers", "bottles", "eggs")
_LANGUAGES: Final = ("German", "French", "Spanish", "Italian", "Portuguese", "Dutch", "English")
_STARTS: Final = (
    "What", "Who", "When did", "Where is", "Why do", "How many", "How do I", "How does", "Which", "Can you", "Is it",
    "Tell me", "Write a", "Explain", "Describe", "Give me", "Create a", "I am", "I need", "My", "Help me", "List",
    "Suggest", "Please", "In the", "The", "If", "Imagine", "Let's", "Could you", "Design a", "Edit", "Improve",
)  # fmt: skip
_PASSAGES: Final = (
    ("summary", "Summarize the following text:\n\n"), ("summary", "Summarize this article in three sentences.\n\n"),
    ("summary", "What are the main points of this text?\n\n"), ("summary", "Give a title and a summary.\n\n"),
    ("summary", "TL;DR of this news report, please:\n\n"), ("rewriting", "Rewrite this text in a friendlier tone:\n\n"),
    ("rewriting", "Correct the grammar and spelling:\n\n"), ("rewriting", "Make this paragraph shorter:\n\n"),
    ("rewriting", "Rewrite this email so that it is more formal:\n\n"),
    ("extraction", "List all names in this text:\n\n"),
    ("retrieval", "Answer the question from the passages.\n\nPassage 1: "),
    ("retrieval", "Read the documents and answer.\n\nDocument: "),
    ("retrieval", "Using only this context, answer the question at its end.\n\nContext: "),
    ("extraction", "Which dates and numbers does this text have?\n\n"), ("classification", "Is this review positive? "),
)  # fmt: skip
_CODE: Final = (
    "Write a Python function that ", "What does this code do?\n\n```python\ndef ", "Write a SQL query that ",
    "Find the bug in this program:\n\n```python\n", "Write a JavaScript function to ", "Explain the algorithm of ",
    "Write a C program that ", "How do I use a dictionary in Python to ", "Implement a class for ",
)  # fmt: skip

_PASSAGE_SHARE: Final = 0.45  # of the openings, where there are passages
_NAME_SHARE: Final = 0.2  # about a name in one of them
_TRANSLATION_SHARE: Final = 0.25  # of those with a passage, where one is in another language
_PASSAGE_WORDS: Final = (40, 600)
_PASSAGE_TASKS: Final = (
    ("summary", "Summarize: {0}"), ("summary", "Summarize: {0}"), ("summary", "Summarize the following text:\n\n{0}"),
    ("summary", "{0}\n\nTL;DR:"), ("summary", "{0}\n\nSummarize this in a few sentences."),
    ("summary", "What are the main points of this text?\n\n{0}"), ("rewriting", "Rewrite in simpler words:\n\n{0}"),
    ("extraction", "List all names and numbers in this text:\n\n{0}"),
)  # fmt: skip
_QUESTION_TASKS: Final = (
    "{0}\n\nQuestion: {1}", "{0}\n\n{1}", "{0}\n{1}", "Answer the question from the passages.\n\n{0}\n\n{1}",
    "Context: {0}\n\nQuestion: {1}", "{0}\n\nFrom the text above: {1}",
)  # fmt: skip
_QUESTIONS: Final = (
    "Who", "What", "What is", "When", "When did", "Where", "Where is", "Why", "How", "How many", "Which", "In what",
    "Describe", "List", "who", "what is the", "when did", "where is", "how many", "what does", "why did",
)  # fmt: skip
_NAME_TASKS: Final = (
    "What is {0} known for?", "Tell me about {0}.", "Write a paragraph about {0}.", "What do you know about {0}?",
    "Explain the importance of {0}.", "Discuss {0} and", "How did {0}", "Why did {0}", "When was {0}", "Who was {0}?",
    "Compare {0} and {1}.", "Imagine you are {0}.", "Write an essay on {0} in", "In the field of {0},", "where is {0}",
    "what is {0}", "who is {0}", "Give an overview of {0}.", "Make a table of facts about {0}.", "Which role does {0}",
)  # fmt: skip
NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}(?: (?:of (?:the )?)?[A-Z][a-z]+)*")
SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


def draw_opening(random_: random.Random, passages: Passages | None = None) -> Opening:
    """Return an opening; which one is a function of the generator's state and the passages alone.

    Args:
        random_: is drawn from.
        passages: real texts that a share of the openings is about.
    """
    if passages:
        about = random_.random()
        if about < _PASSAGE_SHARE:
            return _about_passage(random_, passages)
        if about < _PASSAGE_SHARE + _NAME_SHARE:
            return _about_names(random_, passages["English"])
    kind = random_.random()
    for share, draw in _KINDS:
        if kind < share:
            return draw(random_)
        kind -= share
    return _code(random_)


def _invented(_: random.Random) -> Opening:
    return Opening("self", "", False, 96)


def _started(random_: random.Random) -> Opening:
    return Opening("self", random_.choice(_STARTS), False, 80)


def _topic(random_: random.Random) -> Opening:
    topics = random_.sample(_TOPICS, 2)
    text = random_.choice(_TOPIC_TASKS).format(*topics)
    return Opening("topic", text, not text.endswith(" "), 64)


def _passage(random_: random.Random) -> Opening:
    return Opening(*random_.choice(_PASSAGES), False, 160)


def _about_passage(random_: random.Random, passages: Passages) -> Opening:
    others = sorted(set(passages) - {"English"})
    if others and random_.random() < _TRANSLATION_SHARE:
        language = random_.choice(others)
        sentence = random_.choice(SENTENCE_END.split(random_.choice(passages[language])))
        return Opening("translation", f"Translate {language} to English: {sentence}", True, 0)
    num_words = random_.randint(*_PASSAGE_WORDS)
    if random_.random() < 0.5:
        task, form = random_.choice(_PASSAGE_TASKS)
        return Opening(task, form.format(_stretch(random_, passages["English"], num_words)), True, 0)
    parts = random_.choice((1, 1, 2, 3))
    texts = "\n".join(_stretch(random_, passages["English"], num_words // parts) for _ in range(parts))
    return Opening("retrieval", random_.choice(_QUESTION_TASKS).format(texts, random_.choice(_QUESTIONS)), False, 0)


def _about_names(random_: random.Random, texts: Sequence[str]) -> Opening:
    names = [random_.choice(NAME.findall(random_.choice(texts)) or _TOPICS) for _ in range(2)]
    text = random_.choice(_NAME_TASKS).format(*names)
    return Opening("names", text, text.endswith((".", "?")), 64)


def _stretch(random_: random.Random, texts: Sequence[str], num_words: int) -> str:
    """Return the sentences from the beginning of a text and of those after it, of so many words in all or few more."""
    kept: list[str] = []
    first = random_.randrange(len(texts))
    for place in range(first, first + len(texts)):
        for sentence in SENTENCE_END.split(texts[place % len(texts)]):
            kept.append(sentence)
            num_words -= len(sentence.split())
            if num_words <= 0:
                return " ".join(kept)
    return " ".join(kept)


def _mathematics(random_: random.Random) -> Opening:
    return Opening("mathematics", _word_problem(random_), False, 80)


def _translation(random_: random.Random) -> Opening:
    origin, into = random_.sample(_LANGUAGES, 2)
    text = f"Translate {origin} to {into}: " if random_.random() < 0.6 else f"Translate into {into}:\n\n"
    return Opening("translation", text, False, 72)


def _code(random_: random.Random) -> Opening:
    return Opening("code", random_.choice(_CODE), False, 112)


def _word_problem(random_: random.Random) -> str:
    name, other = random_.sample(_NAMES, 2)
    thing, number = random_.choice(_THINGS), random_.randint(2, 60)
    return random_.choice(
        (
            f"{name} has {number} {thing}.", f"{name} buys {number} {thing} for ${random_.randint(1, 9)} each.",
            f"{name} and {other} share {number} {thing}.", f"A shop sells {number} {thing} on Monday and",
            f"A train leaves at {random_.randint(1, 12)} o'clock and",
            f"What is {number}% of {random_.randint(20, 900)}",
            f"Solve for x: {random_.randint(2, 9)}x +", f"{name} is {number} years old.", "A rectangle has a",
        )
    )  # fmt: skip


_KINDS: Final[tuple[tuple[float, Callable[[random.Random], Opening]], ...]] = (
    (0.16, _invented),
    (0.20, _started),
    (0.20, _topic),
    (0.16, _passage),
    (0.10, _mathematics),
    (0.08, _translation),
)  # what is left is code
