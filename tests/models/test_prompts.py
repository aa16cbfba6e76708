"""Files of requests: what a line may say, and which line and field is wrong."""

import argparse
import io
import sys
from pathlib import Path

import pytest

from multispin_models.errors import ConfigError
from multispin_models.language_model import ChatMessage
from multispin_models.prompts import Job, JobDefaults, add_job_flags, encode_prompt, job_defaults, read_jobs
from multispin_models.sampling import Sampling

DEFAULTS = JobDefaults(max_tokens=9, sampling=Sampling(0.5, 7, 0.9, 3))


def jobs(folder: Path, text: str, limit: int | None = None) -> list[Job]:
    path = folder / "prompts.jsonl"
    path.write_text(text, encoding="utf-8")
    return read_jobs(str(path), DEFAULTS, limit)


def test_a_line_that_says_only_its_prompt_takes_the_defaults(tmp_path: Path) -> None:
    assert jobs(tmp_path, '{"prompt": "Hi"}\n') == [Job("1", "Hi", 9, Sampling(0.5, 7, 0.9, 3))]


def test_a_line_overrides_the_defaults_that_it_names(tmp_path: Path) -> None:
    line = (
        '{"id": "x", "prompt": "Hi", "max_tokens": 2, "temperature": 0, "seed": 5, "stop": ["."], "ignore_end": true}'
    )
    assert jobs(tmp_path, line) == [Job("x", "Hi", 2, Sampling(0.0, 7, 0.9, 5), (".",), ignore_end=True)]


def test_of_turns_the_first_is_the_prompt_and_fields_of_other_formats_are_passed_over(tmp_path: Path) -> None:
    line = '{"question_id": 81, "category": "writing", "turns": ["One.", "Two."]}'
    assert [(job.job_id, job.prompt) for job in jobs(tmp_path, line)] == [("81", "One.")]


def test_empty_lines_are_passed_over_and_a_name_is_the_number_of_the_line(tmp_path: Path) -> None:
    assert [job.job_id for job in jobs(tmp_path, '\n{"prompt": "a"}\r\n\n{"prompt": "b"}')] == ["2", "4"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_line_ends_with_a_line_feed_and_not_with_what_unicode_calls_a_line_end(
    separator: str, tmp_path: Path
) -> None:
    assert [job.prompt for job in jobs(tmp_path, f'{{"prompt": "a{separator}b"}}\n')] == [f"a{separator}b"]


def test_a_limit_takes_the_first_lines(tmp_path: Path) -> None:
    text = '{"prompt": "a"}\n\n{"prompt": "b"}\nnot read any more'
    assert [job.prompt for job in jobs(tmp_path, text, 2)] == ["a", "b"]


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"prompt": "a"}'))
    assert [job.prompt for job in read_jobs("-", DEFAULTS)] == ["a"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: Expected `object`"),
        ("{}", "line 2: give either 'prompt'"),
        ('{"prompt": "a", "turns": ["b"]}', "line 2: give either 'prompt'"),
        ('{"prompt": ""}', r"line 2: .*\$\.prompt"),
        ('{"turns": []}', r"line 2: .*\$\.turns"),
        ('{"turns": [""]}', r"line 2: .*\$\.turns"),
        ('{"prompt": "a", "max_tokens": 0}', r"line 2: .*\$\.max_tokens"),
        ('{"prompt": "a", "temperature": -1}', "line 2: "),
        ('{"prompt": "a", "top_p": 0}', "line 2: "),
        ('{"prompt": "a", "seed": -1}', "line 2: "),
        ('{"prompt": "a", "seed": 18446744073709551616}', "line 2: "),
        ('{"prompt": "a", "stop": [""]}', r"line 2: .*\$\.stop"),
        ('{"prompt": "a", "id": 1}', "ids 1 stand on several lines"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"prompts\.jsonl.*{reason}"):
        jobs(tmp_path, f'{{"id": 1, "prompt": "fine"}}\n{line}')


def test_a_file_without_a_line_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no line"):
        jobs(tmp_path, "\n \n")
    with pytest.raises(ConfigError, match=r"gone\.jsonl cannot be read"):
        read_jobs(str(tmp_path / "gone.jsonl"), DEFAULTS)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_jobs(str(tmp_path / "bytes"), DEFAULTS)


class EchoTokenizer:
    """Every letter is its number; the template is brackets."""

    vocabulary_hash = "echo"
    end_token_ids = frozenset({0})

    def encode(self, text: str, *, parse_special: bool = False, add_special: bool = False) -> list[int]:
        assert parse_special
        assert add_special
        return [ord(letter) for letter in text]

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def apply_chat_template(self, messages: list[ChatMessage], **variables: object) -> str:
        return "".join(f"<{message.role}:{message.content}>" for message in messages)


def test_a_prompt_is_the_users_turn_in_the_chat_template() -> None:
    assert encode_prompt(EchoTokenizer(), "Hi") == [ord(letter) for letter in "<user:Hi>"]


def flags(*given: str) -> JobDefaults:
    parser = argparse.ArgumentParser()
    add_job_flags(parser)
    return job_defaults(parser.parse_args(given))


def test_flags_become_defaults() -> None:
    assert flags() == JobDefaults()
    assert flags("--max-tokens", "5", "--temperature", "0.8", "--seed", "3", "--ignore-end") == JobDefaults(
        5, Sampling(0.8, seed=3), ignore_end=True
    )


@pytest.mark.parametrize("wrong", [("--max-tokens", "0"), ("--temperature", "nan"), ("--top-p", "2"), ("--seed", "-1")])
def test_a_flag_out_of_range_is_a_config_error(wrong: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="flags"):
        flags(*wrong)
