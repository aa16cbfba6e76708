"""What the target is asked for training: openings of user turns, which the target itself completes.

An opening is the beginning of a request ("Summarize this text:\n\n"); the target goes on in the user's turn until it
ends it, so prompts are as varied as the target's own idea of what users write (self-instruct, Wang et al.,
arXiv 2212.10560). About one in three is complete as it stands. All of it is written for this project, none of it is
taken from a set of questions: an evaluation on any public set stays fair.
"""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["Opening", "draw_opening"]


class Opening(NamedTuple):
    """The beginning of a user's turn.

    Attributes:
        task: for the statistics.
        text: may be empty: the target invents the whole turn.
        complete: nothing is to be added.
        max_tokens: most tokens of the turn, the opening included.
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


def draw_opening(random_: random.Random) -> Opening:
    """Return an opening; which one is a function of the generator's state alone."""
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
