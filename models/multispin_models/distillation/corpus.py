"""The text that the target wrote, on disk: shards that appear whole, in plain arrays.

corpus.json          what made it: target, seed, settings; another one is refused, not mixed in
text-000042.npz      some conversations: their numbers, tokens, and the target's likeliest tokens at each position

No pickle: arrays of numbers only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import BadZipFile

import msgspec
import numpy as np
import numpy.typing as npt

from multispin_models.cache import staging
from multispin_models.errors import ModelError

__all__ = ["Conversation", "CorpusSettings", "open_corpus", "read_corpus", "write_shard"]

_DESCRIPTION: Final = "corpus.json"


class CorpusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the text is a function of, together with a conversation's number.

    Attributes:
        target_fingerprint: of the model that wrote, as in ModelInfo.
        target_recipe: quantization as served.
        vocabulary_hash: as in ModelInfo.
        seed: of openings, temperatures and noise.
        max_answer_tokens: most tokens of an answer.
        top: how many of the likeliest tokens are kept at a position.
        prompts_sha256: of the user's own prompts, "" where openings are drawn.
        passages_sha256: of the real texts that openings are about, "" without them.
    """

    target_fingerprint: str
    target_recipe: str
    vocabulary_hash: str
    seed: int
    max_answer_tokens: int
    top: int
    prompts_sha256: str = ""
    passages_sha256: str = ""


class Conversation(NamedTuple):
    """One text.

    Attributes:
        number: from 0 up.
        task: of its opening.
        temperature: of the answer.
        tokens: [n] int32, the template's included.
        first_scored: position of the first token that has likeliest tokens; those before are the template's.
        answer_start: position of the answer's first token.
        top_ids: [n - first_scored, top] uint32; row i stands for the choice of token first_scored + i.
        top_log_probabilities: the same shape, float16, at temperature 1, falling.
    """

    number: int
    task: str
    temperature: float
    tokens: npt.NDArray[np.int32]
    first_scored: int
    answer_start: int
    top_ids: npt.NDArray[np.uint32]
    top_log_probabilities: npt.NDArray[np.float16]


def open_corpus(folder: Path, settings: CorpusSettings) -> set[int]:
    """Make a corpus, or open one that was made with the same settings; return the numbers that it has.

    Raises:
        ModelError: the folder has a corpus of other settings, or a damaged shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _DESCRIPTION
    if path.exists():
        found = _read_settings(path)
        if found != settings:
            names = [name for name in settings.__struct_fields__ if getattr(found, name) != getattr(settings, name)]
            raise ModelError(
                f"corpus {folder} was made with another {', '.join(names)}: name another folder, or the same settings"
            )
    else:
        with staging(path) as partial:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    return {number for shard in _shards(folder) for number in _load(shard, ("numbers",))["numbers"].tolist()}


def write_shard(folder: Path, conversations: Sequence[Conversation]) -> Path:
    """Write conversations as the next shard; it appears whole or not at all."""
    shards = _shards(folder)
    path = folder / f"text-{int(shards[-1].stem[5:]) + 1 if shards else 0:06}.npz"
    tasks = sorted({c.task for c in conversations})
    with staging(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            numbers=np.array([c.number for c in conversations], np.int64),
            task_names=np.array(tasks),
            tasks=np.array([tasks.index(c.task) for c in conversations], np.int32),
            temperatures=np.array([c.temperature for c in conversations], np.float32),
            lengths=np.array([len(c.tokens) for c in conversations], np.int32),
            first_scored=np.array([c.first_scored for c in conversations], np.int32),
            answer_starts=np.array([c.answer_start for c in conversations], np.int32),
            tokens=np.concatenate([c.tokens for c in conversations]),
            top_ids=np.concatenate([c.top_ids for c in conversations]),
            top_log_probabilities=np.concatenate([c.top_log_probabilities for c in conversations]),
        )
    return path


def read_corpus(folder: Path, known: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[Conversation]]]:
    """Yield each shard's name and conversations, those in `known` left out.

    Raises:
        ModelError: there is no corpus, or a shard is damaged.
    """
    _read_settings(folder / _DESCRIPTION)
    for shard in _shards(folder):
        if shard.name not in known:
            yield shard.name, _conversations(shard)


def _conversations(shard: Path) -> list[Conversation]:
    a = _load(shard, None)
    try:
        lengths, firsts = a["lengths"], a["first_scored"]
        ends, scored_ends = np.cumsum(lengths), np.cumsum(lengths - firsts)
        if ends[-1] != len(a["tokens"]) or scored_ends[-1] != len(a["top_ids"]):
            raise ModelError(f"shard {shard}: lengths do not add up to its tokens: delete it and generate again")
        return [
            Conversation(
                number=int(a["numbers"][i]),
                task=str(a["task_names"][a["tasks"][i]]),
                temperature=float(a["temperatures"][i]),
                tokens=a["tokens"][ends[i] - lengths[i] : ends[i]],
                first_scored=int(firsts[i]),
                answer_start=int(a["answer_starts"][i]),
                top_ids=a["top_ids"][scored_ends[i] - lengths[i] + firsts[i] : scored_ends[i]],
                top_log_probabilities=a["top_log_probabilities"][
                    scored_ends[i] - lengths[i] + firsts[i] : scored_ends[i]
                ],
            )
            for i in range(len(lengths))
        ]
    except KeyError as error:
        raise ModelError(f"shard {shard} has no array {error}: delete it and generate again") from error


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("text-[0-9]*.npz"))


def _load(shard: Path, names: Sequence[str] | None) -> dict[str, npt.NDArray[Any]]:
    try:
        with shard.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (arrays.files if names is None else names)}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ModelError(f"shard {shard} cannot be read ({error}): delete it and generate again") from error


def _read_settings(path: Path) -> CorpusSettings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=CorpusSettings)
    except OSError as error:
        raise ModelError(f"corpus {path.parent} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise ModelError(f"corpus {path.parent}: {path.name} is not valid ({error}): name another folder") from error
