"""The wire: frames in and out are inverses, small, and nothing else is taken for a message."""

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from multispin_models.draft_payload import pack_candidates, pack_weights
from multispin_models.errors import WireError, WireVersionError
from multispin_models.messages import (
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    AgentMessage,
    BoxStatus,
    Close,
    Condition,
    CoordinatorMessage,
    Draft,
    DraftOffer,
    FileChunk,
    FileWanted,
    Hello,
    Open,
    Pace,
    Ping,
    Pong,
    Records,
    RecordsAck,
    Refused,
    Report,
    SpooledRecord,
    UndecidedVerdict,
    Verdict,
    WeighedDraft,
    Welcome,
    decode_agent_message,
    decode_coordinator_message,
    encode,
)
from multispin_models.sampling import Sampling
from multispin_models.verification import Candidate

U64 = st.integers(0, 2**64 - 1)
COUNT = st.integers(0, 2**31 - 1)
POSITIVE = st.integers(1, 2**31 - 1)
TOKEN = st.integers(0, 2**24 - 1)
TOKENS = st.lists(TOKEN, max_size=20).map(tuple)
NAME = st.text(min_size=1, max_size=30)
SAMPLING = st.builds(
    Sampling,
    temperature=st.floats(0.0, 100.0),
    top_k=st.integers(0, 2**31),
    top_p=st.floats(0.0, 1.0, exclude_min=True),
    seed=U64,
)
RECORDS = st.lists(st.builds(SpooledRecord, U64, NAME, st.binary(min_size=2, max_size=40)), min_size=1, max_size=4).map(
    tuple
)
AGENT_MESSAGES: st.SearchStrategy[AgentMessage] = st.one_of(
    st.builds(Hello, st.integers(0, 255), NAME, NAME, NAME, NAME, NAME, st.booleans()),
    st.builds(Open, U64, COUNT, TOKENS.filter(bool), POSITIVE, POSITIVE, SAMPLING, st.booleans(), COUNT),
    st.builds(Draft, U64, POSITIVE, COUNT, TOKENS, COUNT, COUNT),
    st.builds(
        WeighedDraft,
        U64,
        POSITIVE,
        COUNT,
        TOKENS,
        COUNT,
        COUNT,
        st.none() | st.binary(max_size=40),
        st.none() | st.integers(0, 2**16 - 1),
    ),
    st.builds(Report, U64, COUNT, COUNT, COUNT, COUNT),
    st.builds(Close, U64),
    st.builds(Ping, COUNT),
    st.builds(Records, NAME, COUNT, RECORDS),
    st.builds(Condition, NAME, COUNT, st.just("modelled"), st.none(), st.integers(-273_150, 2**31 - 1), st.none()),
    st.builds(FileWanted, NAME, U64, st.integers(1, MAX_CHUNK_BYTES)),
    st.builds(
        BoxStatus,
        U64,
        COUNT,
        st.none() | U64,
        st.none() | U64,
        st.none() | COUNT,
        st.none() | st.integers(-273_150, 2**31 - 1),
        st.none() | st.text(max_size=255),
        st.none() | COUNT,
        st.none() | st.text(max_size=255),
        st.none() | NAME,
    ),
    st.builds(Condition, NAME, st.none(), st.none(), NAME, st.none(), NAME),
)
VERDICT: dict[str, st.SearchStrategy[Any]] = {
    "request_id": U64,
    "round": COUNT,
    "num_accepted": COUNT,
    "next_token_id": TOKEN,
    "finish": st.integers(0, 2),
    "received_ns": U64,
    "residence_us": U64,
    "verify_us": COUNT,
    "batch_rows": COUNT,
    "energy_nj": st.none() | U64,
    "num_draft_tokens": st.integers(0, 64),
    "price": st.integers(0, 1000),
    "alone": st.booleans(),
    "num_reused": COUNT,
}
COORDINATOR_MESSAGES: st.SearchStrategy[CoordinatorMessage] = st.one_of(
    st.builds(
        Welcome,
        protocol_version=st.integers(0, 255),
        software_version=NAME,
        epoch=U64,
        vocabulary_hash=NAME,
        target_fingerprint=NAME,
        exact=st.booleans(),
        max_context_tokens=COUNT,
        max_prompt_tokens=COUNT,
        max_draft_tokens=COUNT,
        ping_interval_s=st.floats(0.0, 3600.0, exclude_min=True),
        boot_id=st.none() | NAME,
        energy_label=st.none() | st.sampled_from(["measured", "calibrated", "modelled"]),
        policy=NAME,
        verification=st.sampled_from(["coupled", "rejection", "rejection-lean"]),
        send_bytes_per_s=st.none() | st.floats(1.0, 1e12),
    ),
    st.builds(Refused, NAME, st.text(max_size=100), U64, COUNT),
    st.builds(Verdict, **VERDICT),
    st.builds(UndecidedVerdict, **VERDICT, candidates=st.binary(min_size=1, max_size=40), first=COUNT),
    st.builds(Pong, COUNT, U64),
    st.builds(Pace, st.floats(1.0, 1e12)),
    st.builds(
        DraftOffer,
        st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z"),
        st.from_regex(r"\A[0-9a-f]{64}\Z"),
        st.integers(1, 2**40 - 1),
        NAME,
        st.none() | NAME,
    ),
    st.builds(FileChunk, NAME, U64, st.binary(max_size=100)),
    st.builds(RecordsAck, NAME, U64, U64),
)
SAMPLE = Open(7, 0, (1, 2, 3), 3, 8, Sampling(0.8, 40, 0.9, 5))


def body(*fields: Any) -> bytes:
    """Return a frame of this version with any array in it."""
    return bytes([PROTOCOL_VERSION]) + msgspec.msgpack.encode(fields)


@settings(max_examples=500, deadline=None)
@given(message=AGENT_MESSAGES)
def test_decoding_an_agents_message_undoes_encoding_it(message: AgentMessage) -> None:
    assert decode_agent_message(encode(message)) == message


@settings(max_examples=500, deadline=None)
@given(message=COORDINATOR_MESSAGES)
def test_decoding_a_coordinators_message_undoes_encoding_it(message: CoordinatorMessage) -> None:
    assert decode_coordinator_message(encode(message)) == message


def test_a_round_of_four_drafted_tokens_keeps_its_budget_with_the_largest_values_of_every_field() -> None:
    largest = 2**31 - 1
    draft = Draft(2**64 - 1, largest, largest, (2**24 - 1,) * 4, largest, largest)
    verdict = Verdict(
        2**64 - 1, largest, 4, 2**24 - 1, 2, 2**64 - 1, 2**64 - 1, largest, largest, 2**64 - 1, 64, 1000, True, largest
    )
    assert decode_agent_message(encode(draft)) == draft
    assert decode_coordinator_message(encode(verdict)) == verdict
    # version 1, array head 1, type 1, request id 9, round 5, length 5, list head 1, 4 ids of 5, two times of 5
    assert len(encode(draft)) == 53 <= 64
    # 1 + 1 + 1 + 9 + 5, accepted 1, id 5, finish 1, time 9, residence 9, verify 5, rows 5, energy 9, most drafted 1,
    # price 3, alone 1, reused 5
    assert len(encode(verdict)) == 71
    assert len(encode(draft)) + len(encode(verdict)) <= 128


def test_a_round_by_the_lean_rule_of_rejection_is_small_too() -> None:
    weights, draws = pack_weights([65_536] * 4), pack_candidates([Candidate(2**24 - 1, 1.0)] * 16)
    largest = 2**31 - 1
    draft = WeighedDraft(2**64 - 1, largest, largest, (2**24 - 1,) * 4, largest, largest, weights, 16)
    # beside the ids: weights 2 + 8, choice 1; beside a verdict: array head 2, draws 2 + 16 * 7, their number 1
    assert len(encode(draft)) == 53 + 11
    verdict = Verdict(
        2**64 - 1, largest, 4, 2**24 - 1, 2, 2**64 - 1, 2**64 - 1, largest, largest, 2**64 - 1, 64, 1000, True, largest
    )
    undecided = UndecidedVerdict(**msgspec.structs.asdict(verdict), candidates=draws, first=0)
    assert len(encode(undecided)) == 71 + 2 + 115


def test_a_verdict_that_waited_for_hours_in_a_queue_and_cost_kilojoules_is_still_a_message() -> None:
    five_hours_us, pass_of_10_s_at_700_w_nj = 5 * 3600 * 10**6, 7000 * 10**9
    verdict = Verdict(1, 1, 0, 5, 0, 1, five_hours_us, 10, 1, pass_of_10_s_at_700_w_nj)
    assert decode_coordinator_message(encode(verdict)) == verdict


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_apart_from_garbage(version: int) -> None:
    frame = bytes([version]) + encode(SAMPLE)[1:]
    with pytest.raises(WireVersionError, match=f"version {version}, this side speaks 5 and 6"):
        decode_agent_message(frame)
    with pytest.raises(WireVersionError):
        decode_coordinator_message(frame)


def test_an_agents_frame_of_the_version_before_is_read_and_one_can_be_written() -> None:
    frame = encode(SAMPLE, PROTOCOL_VERSION - 1)
    assert frame[0] == PROTOCOL_VERSION - 1
    assert decode_agent_message(frame) == SAMPLE
    with pytest.raises(WireVersionError, match="from the coordinator has protocol version 5, this side speaks 6"):
        decode_coordinator_message(encode(Pong(1, 1), PROTOCOL_VERSION - 1))


def test_no_part_of_a_frame_is_a_message() -> None:
    frame = encode(SAMPLE)
    for length in range(len(frame)):
        with pytest.raises(WireError):
            decode_agent_message(frame[:length])


def test_bytes_after_a_message_are_refused() -> None:
    with pytest.raises(WireError):
        decode_agent_message(encode(SAMPLE) + b"\x00")
    with pytest.raises(WireError):
        decode_agent_message(encode(Ping(1)) + encode(Ping(2))[1:])


def test_a_frame_may_have_a_mebibyte_and_not_a_byte_more() -> None:
    tokens = (2**24 - 1,) * ((MAX_FRAME_BYTES - 60) // 5)
    longest = encode(Open(1, 0, tokens, 1, 1, Sampling()))
    assert decode_agent_message(longest)
    with pytest.raises(WireError, match=f"allowed are 2 to {MAX_FRAME_BYTES}"):
        decode_agent_message(longest.ljust(MAX_FRAME_BYTES + 1, b"\x00"))


def test_an_array_that_claims_four_billion_items_is_refused_at_once() -> None:
    with pytest.raises(WireError):
        decode_agent_message(bytes([PROTOCOL_VERSION]) + b"\x95\x02\x01\x00\xdd\xff\xff\xff\xff")


@pytest.mark.parametrize("nest", [b"\x91", b"\x81\x01", b"\xdc\x00\x01"])
def test_deep_nesting_is_refused(nest: bytes) -> None:
    for frame in (
        bytes([PROTOCOL_VERSION]) + nest * 200_000,
        bytes([PROTOCOL_VERSION]) + b"\x94\x03\x01\x01" + nest * 200_000 + b"\xc0",
    ):
        with pytest.raises(WireError):
            decode_agent_message(frame)
        with pytest.raises(WireError):
            decode_coordinator_message(frame)


@pytest.mark.parametrize(
    "fields",
    [
        (3, 1, 1, 5, ["a"]),
        (3, "1", 1, 5, [1]),
        (3, 1.5, 1, 5, [1]),
        (3, None, 1, 5, [1]),
        (3, True, 1, 5, [1]),
        (3, 1, 1, 5, {"1": 1}),
        (3, 1, 1, 5, b"\x01\x02"),
        (3, 1, 1, 5),
        (3, 1, 1, 5, [1], 1, 1, 1),
        (6, 1),
        (7, 1),
        (17, 1),
        ("Draft", 1, 1, 5, [1]),
        (),
        (None,),
    ],
)
def test_wrong_types_and_unknown_fields_are_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(WireError):
        decode_agent_message(body(*fields))


@pytest.mark.parametrize(
    "fields",
    [
        (3, -1, 1, 5, [1]),
        (3, 1, -1, 5, [1]),
        (3, 1, 0, 5, [1]),
        (3, 1, 1, -5, [1]),
        (3, 1, 1, 5, [-1]),
        (3, 1, 1, 5, [1 << 24]),
        (3, 1, 1 << 31, 5, [1]),
        (2, 1, 0, [], 1, 1, [0.0, 0, 1.0, 0]),
        (2, 1, 0, [1], 0, 1, [0.0, 0, 1.0, 0]),
        (2, 1, 0, [1], -1, 1, [0.0, 0, 1.0, 0]),
        (2, 1, 0, [1], 1, 0, [0.0, 0, 1.0, 0]),
        (5, -1),
        (4, -1),
        (1, 1, "", "1", "v", "f", "i"),
        (1, 1, "a" * 256, "1", "v", "f", "i"),
    ],
)
def test_numbers_out_of_range_and_negative_lengths_are_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(WireError):
        decode_agent_message(body(*fields))


@pytest.mark.parametrize(
    "sampling",
    [
        [float("nan"), 0, 1.0, 0],
        [float("inf"), 0, 1.0, 0],
        [-0.1, 0, 1.0, 0],
        [100.1, 0, 1.0, 0],
        [0.5, -1, 1.0, 0],
        [0.5, 0, float("nan"), 0],
        [0.5, 0, 0.0, 0],
        [0.5, 0, 1.1, 0],
        [0.5, 0, 1.0, -1],
        [0.5, 0, 1.0, 0, 0],
    ],
)
def test_sampling_out_of_range_is_refused(sampling: list[float]) -> None:
    assert decode_agent_message(body(2, 1, 0, [1], 1, 1, [0.5, 0, 1.0, 0]))
    with pytest.raises(WireError):
        decode_agent_message(body(2, 1, 0, [1], 1, 1, sampling))


@pytest.mark.parametrize("interval", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_welcome_with_no_usable_ping_interval_is_refused(interval: float) -> None:
    with pytest.raises(WireError):
        decode_coordinator_message(encode(Welcome(1, "1", 1, "v", "f", True, 9, 9, 9, interval)))


# -- fuzz: 2 x 3,000 random frames, 2 x 2,000 damaged ones; tests/coordinator/test_hostile_peer.py has 2,500 more ------

NUMBERS = [-1, 0, 1, 255, 2**24, 2**31, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), None, True, "x", b"x", [], {}]


def flip(data: st.DataObject, frame: bytes) -> bytes:
    at = data.draw(st.integers(0, len(frame) * 8 - 1))
    return frame[: at // 8] + bytes([frame[at // 8] ^ 1 << at % 8]) + frame[at // 8 + 1 :]


def cut(data: st.DataObject, frame: bytes) -> bytes:
    return frame[: data.draw(st.integers(0, len(frame) - 1))]


def splice(data: st.DataObject, frame: bytes) -> bytes:
    other = encode(data.draw(AGENT_MESSAGES | COORDINATOR_MESSAGES))
    return frame[: data.draw(st.integers(0, len(frame)))] + other[data.draw(st.integers(0, len(other))) :]


def change_a_field(data: st.DataObject, frame: bytes) -> bytes:
    fields = msgspec.msgpack.decode(frame[1:])
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(st.sampled_from(NUMBERS))
    return frame[:1] + msgspec.msgpack.encode(fields)


def overwrite_a_double(data: st.DataObject, frame: bytes) -> bytes:
    at = data.draw(st.integers(0, len(frame)))
    return frame[:at] + b"\xcb" + struct.pack(">d", data.draw(st.floats())) + frame[at + 9 :]


DAMAGES: list[Callable[[st.DataObject, bytes], bytes]] = [flip, cut, splice, change_a_field, overwrite_a_double]
DECODERS: list[Callable[[bytes], object]] = [decode_agent_message, decode_coordinator_message]


@pytest.mark.parametrize("decode", DECODERS)
@settings(max_examples=3_000, deadline=None)
@given(frame=st.binary(max_size=120) | st.binary(max_size=120).map(lambda data: bytes([PROTOCOL_VERSION]) + data))
def test_random_bytes_are_a_message_or_a_wire_error(decode: Callable[[bytes], object], frame: bytes) -> None:
    assert_message_or_wire_error(decode, frame)


@pytest.mark.parametrize("decode", DECODERS)
@settings(max_examples=2_000, deadline=None)
@given(data=st.data(), message=AGENT_MESSAGES | COORDINATOR_MESSAGES)
def test_damaged_frames_are_a_message_or_a_wire_error(
    decode: Callable[[bytes], object], data: st.DataObject, message: AgentMessage | CoordinatorMessage
) -> None:
    whole = encode(message)
    frame = data.draw(st.sampled_from(DAMAGES))(data, whole)
    assume(frame != whole)
    assert_message_or_wire_error(decode, frame)


def assert_message_or_wire_error(decode: Callable[[bytes], Any], frame: bytes) -> None:
    try:
        message = decode(frame)
    except WireError:
        return
    # What is taken for a message is one: it goes out again and comes back the same.
    assert decode(encode(message)) == message


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "x" * 201])
def test_an_offer_names_a_file_and_no_place(name: str) -> None:
    with pytest.raises(WireError, match=r"Expected `str`"):
        decode_coordinator_message(body(24, name, "a" * 64, 1, "Q8_0"))
