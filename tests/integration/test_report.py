"""The table as a person sees it."""

import io
from typing import Any

import msgspec

from multispin.report import print_table
from multispin_models.records import RequestSummary, RoundRecord, Summary

REQUEST = RequestSummary(
    id="81",
    token_ids=(1, 2),
    text="x",
    finish="length",
    error=None,
    tokens=64,
    acceptance_rate=0.875,
    mean_acceptance_length=4.5,
    goodput_tokens_per_s=33.25,
    ttft_s=0.25,
    tpot_s=0.0285,
    payload_up_bytes_per_token=11.5,
    payload_down_bytes_per_token=9.25,
    energy_j_per_token=None,
    energy_label=None,
    energy_reason="one meter covers both ends",
)
SUMMARY = Summary(
    requests=2,
    completed=1,
    tokens=128,
    text_differences=None,
    acceptance_rate=0.5,
    mean_acceptance_length=3.0,
    goodput_tokens_per_s=61.04,
    ttft_s_median=0.5,
    tpot_s_median=0.03,
    payload_up_bytes_per_token=12.0,
    payload_down_bytes_per_token=8.0,
    energy_j_per_token=0.4321,
    energy_label="measured",
    energy_reason="one meter covers both ends, counted once: coordinator, agent:a: rapl, measured, covers socket",
    exact=True,
    per_request=(REQUEST,),
)
ROUND = RoundRecord(
    run_id="r",
    wire_request_id=1,
    agent_id="a",
    round=1,
    is_open=False,
    num_draft_tokens=4,
    num_accepted=2,
    next_token_id=5,
    sent_ns=1,
    draft_s=0.008,
    round_trip_s=0.03,
    residence_s=0.02,
    verify_s=0.018,
    network_s=0.01,
    batch_rows=5,
    ahead_hit=True,
    payload_up_bytes=30,
    payload_down_bytes=20,
)


def printed(summary: Summary, rounds: tuple[RoundRecord, ...] = ()) -> list[str]:
    stream = io.StringIO()
    print_table(summary, stream, rounds)
    return stream.getvalue().splitlines()


def changed(**changes: Any) -> RequestSummary:
    return msgspec.structs.replace(REQUEST, **changes)


def test_a_request_and_the_total_stand_in_the_columns_of_their_headings() -> None:
    lines = printed(SUMMARY)
    assert lines[0].split() == [
        "request",
        "tokens",
        "acceptance",
        "mean",
        "acc.",
        "goodput",
        "TTFT",
        "TPOT",
        "up",
        "down",
        "energy",
        "finish",
    ]
    assert lines[1].split() == ["rate", "length", "tok/s", "ms", "ms", "B/tok", "B/tok", "J/tok"]
    assert lines[3].split() == ["81", "64", "0.875", "4.50", "33.2", "250.0", "28.50", "11.5", "9.2", "-", "length"]
    assert lines[5].split() == [
        "total",
        "128",
        "0.500",
        "3.00",
        "61.0",
        "500.0",
        "30.00",
        "12.0",
        "8.0",
        "0.4321",
        "1/2",
    ]
    for heading in ("tokens", "goodput", "TPOT", "energy"):
        end = lines[0].index(heading) + len(heading)
        assert all(line[end - 1] != " " and line[end] == " " for line in (lines[0], lines[3], lines[5]))


def test_what_is_null_is_a_dash_with_its_reason_below() -> None:
    text = "\n".join(
        printed(msgspec.structs.replace(SUMMARY, energy_j_per_token=None, energy_label=None, energy_reason="no sensor"))
    )
    assert "energy: -: no sensor" in text
    assert "energy of a request: one meter covers both ends" in text


def test_the_label_stands_beside_the_joules() -> None:
    assert any(line.startswith("energy: 0.4321 J/token, measured: one meter") for line in printed(SUMMARY))


def test_the_table_says_whether_the_text_was_compared() -> None:
    assert any("not compared with the target alone (--check-text)" in line for line in printed(SUMMARY))
    compared = msgspec.structs.replace(SUMMARY, text_differences=3)
    assert any(
        line == "text: 3 tokens differ; target's engine exact to the last bit: yes" for line in printed(compared)
    )


def test_where_the_time_of_a_round_goes_is_told_if_the_rounds_are_given() -> None:
    opening = msgspec.structs.replace(ROUND, round=0, is_open=True, draft_s=9.0, round_trip_s=9.0)
    miss = msgspec.structs.replace(ROUND, ahead_hit=False)
    text = " ".join(" ".join(printed(SUMMARY, (opening, ROUND, miss))).split())
    assert (
        "rounds: 2; median ms: draft 8.00, round trip 30.00 (coordinator 20.00, of it verify 18.00; network 10.00); "
        "rows in a batch 5; drafts ahead used 0.500 of 2" in text
    )


def test_nothing_is_wider_than_118_columns_or_breaks_the_lines() -> None:
    wild = changed(
        id="a/very/long/name/of/a/request\nwith a newline/77", finish="error", error="word " * 100, tokens=9_999_999,
        ttft_s=9999.0, tpot_s=999.9, energy_j_per_token=12.5,
    )  # fmt: skip
    lines = printed(msgspec.structs.replace(SUMMARY, per_request=(wild,) * 9), (ROUND,))
    assert max(map(len, lines)) <= 118
    assert any(line.startswith("~") and "newline/77" in line for line in lines)
    assert any("error: and 4 more, in the records" in line for line in lines)
