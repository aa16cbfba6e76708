"""Records: what a run leaves behind, one JSON object a line, and the figures drawn from it.

Read in this order:

    schema.py     RunHeader, RequestRecord, RoundRecord, EnergyRecord, ...: every field with its unit
    machine.py    the machine that a run was made on
    notes.py      what no sensor tells of a run
    files.py      records to lines of a file, and back
    kinds.py      the kinds that travel from a spool to a store
    reliability.py  what agents predicted of their drafts against what became of them
    idle.py       the idle baseline, measured
    journal.py    what a start of an end leaves behind besides its requests
    run_energy.py joules of a run, each meter counted once
    summary.py    records -> the figures of a run
"""

from multispin_models.records.files import JsonlContent, JsonlWriter, RecordError, read_jsonl, write_jsonl
from multispin_models.records.kinds import KINDS, AnyRecord, RecordRefused, decode_line, encode_line, is_summary
from multispin_models.records.machine import describe_end, describe_machine, read_boot_id, read_governor
from multispin_models.records.notes import FieldNotes, notes_from_flags
from multispin_models.records.reliability import Reliability, reliability
from multispin_models.records.run_energy import RunEnergy, energy_domain, energy_record, run_energy
from multispin_models.records.schema import (
    SCHEMA_VERSION,
    ConditionsRecord,
    EndRecord,
    EnergyRecord,
    Finish,
    GapRecord,
    IdleBaseline,
    Machine,
    MeteredEnd,
    RequestRecord,
    RoundRecord,
    RunHeader,
)
from multispin_models.records.summary import RequestSummary, Summary, summarize

__all__ = [
    "SCHEMA_VERSION",
    "Machine",
    "MeteredEnd",
    "RunHeader",
    "Finish",
    "RequestRecord",
    "RoundRecord",
    "EnergyRecord",
    "EndRecord",
    "ConditionsRecord",
    "GapRecord",
    "IdleBaseline",
    "FieldNotes",
    "notes_from_flags",
    "KINDS",
    "AnyRecord",
    "RecordRefused",
    "decode_line",
    "encode_line",
    "is_summary",
    "describe_end",
    "describe_machine",
    "read_boot_id",
    "read_governor",
    "RecordError",
    "JsonlContent",
    "JsonlWriter",
    "read_jsonl",
    "write_jsonl",
    "Reliability",
    "reliability",
    "RunEnergy",
    "energy_domain",
    "energy_record",
    "run_energy",
    "RequestSummary",
    "Summary",
    "summarize",
]
