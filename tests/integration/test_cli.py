"""The command line: help that names its flags, exit statuses, and errors of one line without a traceback."""

import argparse
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import multispin_models
from multispin import cli


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Why is the sky blue?"}\n')
    return path


WITHOUT_JSON = {
    "coordinator": "a daemon: what it is ready with stands in its one line as JSON",
    "models distill": "writes files, its log in JSON lines among them",
    "records fields": "a document",
    "shape": "runs until it is stopped: one line says that the classes are set",
}


def leaves(parser: argparse.ArgumentParser, name: str) -> dict[str, argparse.ArgumentParser]:
    """Return the sub-commands that have none of their own."""
    if module := getattr(parser, "module", ""):  # its flags come when it is called
        importlib.import_module(module).add_arguments(parser)
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        return {name: parser}
    found: dict[str, argparse.ArgumentParser] = {}
    for own, sub in inner[0].choices.items():
        found |= leaves(sub, f"{name} {own}")
    return found


def test_every_sub_command_has_a_form_for_programs() -> None:
    found: dict[str, argparse.ArgumentParser] = {}
    for command in cli.COMMANDS:
        parser = argparse.ArgumentParser()
        importlib.import_module(command.module).add_arguments(parser)
        found |= leaves(parser, command.name)
    assert len(found) > 25
    without = {name for name, parser in found.items() if "--json" not in parser._option_string_actions}
    assert without == set(WITHOUT_JSON)


def assert_one_line(ran: Any, *parts: str) -> None:
    assert ran.status == 1
    assert ran.stdout == ""
    [line] = ran.stderr.splitlines()
    for part in parts:
        assert part in line


def test_the_command_without_arguments_names_its_sub_commands(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin()
    assert ran.status == 2
    assert "COMMAND" in ran.stderr
    shown = run_multispin("--help")
    assert shown.status == 0
    for command in cli.COMMANDS:
        assert f" {command.name} {command.summary} " in " ".join(shown.stdout.split()) + " "


def test_the_version_is_that_of_the_package(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin("--version")
    assert (ran.status, ran.stdout) == (0, f"multispin {multispin_models.__version__}\n")


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_the_help_of_a_sub_command_says_what_every_flag_is_for(
    run_multispin: Callable[..., Any], command: cli.Command
) -> None:
    ran = run_multispin(command.name, "--help")
    assert ran.status == 0, ran.stderr
    parser = argparse.ArgumentParser()
    module = importlib.import_module(command.module)
    module.add_arguments(parser)
    assert str(module.__doc__).strip().splitlines()[0] in ran.stdout
    for action in parser._actions:
        assert all(flag in ran.stdout for flag in action.option_strings)
        assert action.help or not action.option_strings, f"{command.name} {action.option_strings} has no help"


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_an_unknown_flag_is_wrong_usage(run_multispin: Callable[..., Any], command: cli.Command) -> None:
    ran = run_multispin(command.name, "--no-such-flag")
    assert ran.status == 2
    assert "Traceback" not in ran.stderr
    assert f"usage: multispin {command.name}" in ran.stderr or "usage: multispin" in ran.stderr


def test_an_unknown_sub_command_is_wrong_usage(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin("locale")
    assert ran.status == 2
    assert "invalid choice: 'locale'" in ran.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--prompts", "absent.jsonl"), ("prompts absent.jsonl cannot be read",)),
        (("--prompts", "empty.jsonl"), ("empty.jsonl has no line",)),
        (("--prompts", "broken.jsonl"), ("broken.jsonl, line 2",)),
        (("--prompts", "neither.jsonl"), ("neither.jsonl, line 1", "'prompt'", "'turns'")),
        (("--prompts", "twice.jsonl"), ("ids a stand on several lines",)),
        (("--prompts", "-"), ("standard input: give a file",)),
        (("--limit", 0), ("has no line",)),
        (("--agents", 0), ("num_agents", ">= 1")),
        (("--agents", -1), ("num_agents", ">= 1")),
        (("--concurrent-per-agent", 0), ("concurrent_per_agent", ">= 1")),
        (("--threads", 0), ("threads", ">= 1")),
        (("--num-draft-tokens", -1), ("num_draft_tokens", ">= 0")),
        (("--num-draft-tokens", 65), ("num_draft_tokens", "<= 64")),
        (("--max-context-tokens", 1), ("max_context_tokens", ">= 16")),
        (("--max-tokens", 0), ("max_tokens", ">= 1")),
        (("--temperature", -1), ("temperature", ">= 0")),
        (("--temperature", "nan"), ("temperature",)),
        (("--top-p", 0), ("top_p", "> 0")),
        (("--seed", -1), ("seed", ">= 0")),
        (("--pair", "no-such-pair"), ("no-such-pair", "smollm2-135m")),
        (("--pair", "absent.toml"), ("absent.toml cannot be read",)),
        (("--meter", "sundial"), ("sundial", "allowed are")),
        (("--meter", "replay:absent.csv"), ("absent.csv cannot be read",)),
        (("--out", "prompts.jsonl"), ("--out prompts.jsonl",)),
        (("--out", "/proc/run"), ("--out /proc/run",)),
        (("--out", "."), ("--out . is not empty",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and str(value[0]).startswith("--") else "",
)
def test_a_wrong_setting_of_a_local_run_is_one_line_that_names_it(
    run_multispin: Callable[..., Any],
    prompts: Path,
    tmp_path: Path,
    flags: tuple[object, ...],
    said: tuple[str, ...],
) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (tmp_path / "neither.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "prompt": "b"}\n' * 2)
    ran = run_multispin("local", "--prompts", prompts.name, "--out", "run", *flags, cwd=tmp_path)
    assert_one_line(ran, "multispin local: ", *said)
    assert not (tmp_path / "run" / "run.jsonl").exists()


@pytest.mark.parametrize("command", [("local", "--out", "run", "--prompts", "prompts.jsonl"), ("bench", "overhead")])
@pytest.mark.parametrize("flag", [("--coordinator-cpus", "4096"), ("--agent-cpus", "x")])
def test_cores_that_this_machine_does_not_have_are_refused(
    run_multispin: Callable[..., Any], prompts: Path, command: tuple[str, ...], flag: tuple[str, str]
) -> None:
    ran = run_multispin(*command, *flag, cwd=prompts.parent)
    assert ran.status == 2
    assert f"argument {flag[0]}: '{flag[1]}': allowed are numbers out of" in ran.stderr


def test_an_earlier_run_is_not_written_over(run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "coordinator.toml").write_text("")
    ran = run_multispin("local", "--prompts", prompts, "--out", tmp_path / "run")
    assert_one_line(ran, "holds an earlier run", "--overwrite")


def test_overwriting_spares_a_folder_that_holds_no_run(
    run_multispin: Callable[..., Any], prompts: Path, tmp_path: Path
) -> None:
    ran = run_multispin("local", "--prompts", prompts, "--out", tmp_path, "--overwrite")
    assert_one_line(ran, "holds no run")
    assert prompts.exists()


@pytest.mark.parametrize("command", ["agent", "coordinator"])
def test_a_daemons_wrong_setting_is_one_line_that_names_it(run_multispin: Callable[..., Any], command: str) -> None:
    for flags, said in (
        (("--threads", 0), "--threads: threads is 0"),
        (("--meter", "sundial"), "'sundial', allowed are"),
    ):
        ran = run_multispin(command, *flags, stdin='{"prompt": "a"}')
        assert ran.status == 1
        [line] = [line for line in ran.stderr.splitlines() if " INFO " not in line]
        assert " ERROR " in line
        assert said in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--share", "2/2"), "--share is '2/2'"),
        (("--share", "x"), "--share is 'x'"),
        (("--prompts", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("--agent-id", "a b"), "agent_id"),
        (("--num-draft-tokens", 65), "num_draft_tokens"),
    ],
)
def test_an_agents_wrong_flag_is_one_line_that_names_it(
    run_multispin: Callable[..., Any], flags: tuple[object, ...], said: str
) -> None:
    assert_one_line(run_multispin("agent", *flags, stdin='{"prompt": "a"}'), said)


def test_json_of_models_is_one_object_or_list(run_multispin: Callable[..., Any]) -> None:
    ran = run_multispin("models", "list", "--json")
    assert ran.status == 0, ran.stderr
    assert json.loads(ran.stdout)
