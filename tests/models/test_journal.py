"""The journal of an end: the box first, conditions before and after, joules last; a full disk stops nobody."""

import asyncio
import logging
from pathlib import Path

import pytest
from tests.models.test_records import MODEL, energy

from multispin_agent.config import Config
from multispin_models.records import AnyRecord, ConditionsRecord, EndRecord, EnergyRecord, FieldNotes
from multispin_models.records.journal import Account, Journal

NOTES = FieldNotes(supply="a battery", exclusions=("the door was open",))


def keep(sink: list[AnyRecord] | None, out: Path | None, account: Account) -> list[str]:
    """Keep a journal over a moment; return what happened, in order."""
    happened: list[str] = []

    def take(records: list[AnyRecord]) -> None:
        assert sink is not None
        sink.extend(records)
        happened.extend(type(record).__name__ for record in records)

    async def run() -> None:
        config = Config(notes=NOTES)
        journal = Journal("r", "agent:a", MODEL, config, account, None if sink is None else take, out)
        async with journal.kept():
            happened.append("work")

    asyncio.run(run())
    return happened


def test_the_box_comes_first_then_conditions_around_the_work_and_the_joules_at_the_end(tmp_path: Path) -> None:
    settled: list[int] = []
    account = Account("no sensor", lambda: settled.append(1), lambda: energy("agent:a", 5.0))
    sink: list[AnyRecord] = []
    assert keep(sink, tmp_path, account) == [
        *("EndRecord", "ConditionsRecord", "work", "ConditionsRecord", "EnergyRecord")
    ]
    box, before, after, joules = sink
    assert isinstance(box, EndRecord)
    assert (box.meter, box.meter_reason, box.notes) == (None, "no sensor", NOTES)
    assert box.configuration["num_draft_tokens"] == Config().num_draft_tokens
    assert isinstance(before, ConditionsRecord)
    assert isinstance(after, ConditionsRecord)
    assert (before.conditions.when, after.conditions.when) == ("before", "after")
    assert isinstance(joules, EnergyRecord)
    assert len(settled) == 2
    lines = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines == {"end.jsonl": 1, "conditions.jsonl": 2, "energy.jsonl": 1}


def test_without_a_place_for_records_none_are_made() -> None:
    assert keep(None, None, Account("no sensor", lambda: None, lambda: None)) == ["work"]


def test_a_disk_that_takes_nothing_is_told_and_work_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = tmp_path / "gone"
    with caplog.at_level(logging.ERROR):
        assert keep(None, gone, Account("no sensor", lambda: None, lambda: None)) == ["work"]
    assert "end.jsonl: EndRecord is lost: No such file or directory" in caplog.text
