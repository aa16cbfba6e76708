"""Files of requests: JSON lines, each a prompt and how to draw its text.

{"id": "a", "prompt": "Why is the sky blue?", "max_tokens": 64, "temperature": 0.8}
{"question_id": 81, "turns": ["Compose a post about Hawaii.", "Rewrite it."]}       (the first turn is the prompt)
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from multispin_models.errors import ConfigError
from multispin_models.language_model import ChatMessage, Tokenizer
from multispin_models.sampling import Sampling

__all__ = ["Job", "JobDefaults", "add_job_flags", "encode_prompt", "job_defaults", "read_jobs"]

MAX_PROMPT_CHARACTERS = 4_000_000
_Prompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class JobDefaults(Struct, frozen=True, forbid_unknown_fields=True):
    """What a line that does not say otherwise asks for."""

    max_tokens: Annotated[int, Meta(ge=1, lt=1 << 31)] = 128
    sampling: Sampling = Sampling()
    ignore_end: bool = False


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a file.

    Attributes:
        job_id: the line's `id` or `question_id`, or its number.
        prompt: text of the user's turn; the model's chat template is put around it.
        max_tokens, sampling, stop, ignore_end: as in the request.
        task: the line's `category`, "" without one; only figures by task read it.
    """

    job_id: str
    prompt: str
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    ignore_end: bool = False
    task: str = ""


class _Line(Struct, frozen=True):
    """A line as it stands in the file; fields of other formats are passed over."""

    id: str | int | None = None
    question_id: str | int | None = None
    prompt: _Prompt | None = None
    turns: Annotated[list[_Prompt], Meta(min_length=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, lt=1 << 31)] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[Annotated[str, Meta(min_length=1)], ...] = ()
    ignore_end: bool | None = None
    category: str = ""


def read_jobs(path: str, defaults: JobDefaults, limit: int | None = None) -> list[Job]:
    """Return the requests of a file, "-" for standard input; at most the first `limit`.

    Raises:
        ConfigError: the file cannot be read, or a line is not valid; names file, line and field.
    """
    where = "standard input" if path == "-" else path
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"prompts {where} cannot be read: {error}") from error
    jobs: list[Job] = []
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would cut at U+2028, which JSON allows
        if line.strip() and (limit is None or len(jobs) < limit):
            jobs.append(_job(line, f"{where}, line {number}", str(number), defaults))
    if not jobs:
        raise ConfigError(f"prompts {where} has no line: give {{'prompt': ...}} or {{'turns': [...]}} a line")
    if repeated := [name for name, lines in Counter(job.job_id for job in jobs).items() if lines > 1]:
        raise ConfigError(
            f"prompts {where}: ids {', '.join(sorted(repeated)[:5])} stand on several lines; make them unique"
        )
    return jobs


def _job(text: str, where: str, number: str, defaults: JobDefaults) -> Job:
    try:
        line = msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if (line.prompt is None) == (line.turns is None):
        raise ConfigError(f"{where}: give either 'prompt' (text) or 'turns' (list of texts, the first is used)")
    prompt = line.prompt if line.prompt is not None else (line.turns or [""])[0]
    name = next((str(name) for name in (line.id, line.question_id) if name is not None), number)
    return Job(
        job_id=name,
        prompt=prompt,
        max_tokens=defaults.max_tokens if line.max_tokens is None else line.max_tokens,
        sampling=_sampling(line, defaults.sampling, where),
        stop=line.stop,
        ignore_end=defaults.ignore_end if line.ignore_end is None else line.ignore_end,
        task=line.category,
    )


def _sampling(line: _Line, default: Sampling, where: str) -> Sampling:
    given: dict[str, Any] = {
        name: value for name in Sampling.__struct_fields__ if (value := getattr(line, name)) is not None
    }
    try:
        return msgspec.convert(list({**msgspec.structs.asdict(default), **given}.values()), Sampling)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_named(error, '$')}") from error


def _named(error: msgspec.ValidationError, path: str) -> str:
    """Return what an error says with the name of a draw's parameter, which the wire tells by its place."""
    text = str(error)
    for place, name in enumerate(Sampling.__struct_fields__):
        text = text.replace(f"{path}[{place}]", f"$.{name}")
    return text


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the tokens of a user's turn in the model's chat template."""
    text = tokenizer.apply_chat_template([ChatMessage("user", prompt)])
    return tokenizer.encode(text, parse_special=True, add_special=True)


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how requests are drawn where their line does not."""
    parser.add_argument("--limit", type=int, metavar="N", help="take only the first N lines of the file")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="length (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="default %(default)s: greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 keeps all (default)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default %(default)s)")
    parser.add_argument("--ignore-end", action="store_true", help="go on past end-of-text until the length")


def job_defaults(args: argparse.Namespace) -> JobDefaults:
    """Return the defaults from these flags.

    Raises:
        ConfigError: one is out of range.
    """
    sampling = {name: getattr(args, name) for name in Sampling.__struct_fields__}
    values = {"max_tokens": args.max_tokens, "sampling": list(sampling.values()), "ignore_end": args.ignore_end}
    try:
        return msgspec.convert(values, JobDefaults)
    except msgspec.ValidationError as error:
        raise ConfigError(f"flags {values}: {_named(error, '$.sampling')}") from error
