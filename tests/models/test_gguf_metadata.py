"""The header reader gives what gguf's writer was given, and refuses a damaged file, whatever the damage."""

import struct
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multispin_models.errors import ModelError
from multispin_models.gguf_metadata import MAX_PAIRS, read_gguf_metadata

SCALARS = {
    "an.uint8": (200, GGUFValueType.UINT8),
    "an.int8": (-100, GGUFValueType.INT8),
    "a.uint16": (65_000, GGUFValueType.UINT16),
    "an.int16": (-32_000, GGUFValueType.INT16),
    "a.uint32": (4_000_000_000, GGUFValueType.UINT32),
    "an.int32": (-2_000_000_000, GGUFValueType.INT32),
    "a.uint64": (2**63 + 1, GGUFValueType.UINT64),
    "an.int64": (-(2**62), GGUFValueType.INT64),
    "a.float32": (0.25, GGUFValueType.FLOAT32),
    "a.float64": (0.1, GGUFValueType.FLOAT64),
    "a.bool": (True, GGUFValueType.BOOL),
    "a.string": ("żółw 🐢", GGUFValueType.STRING),
    "an.empty.string": ("", GGUFValueType.STRING),
}


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with every type of value, written by the `gguf` package, and four bytes of something behind."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    writer = GGUFWriter(path, "llama")
    for key, (value, kind) in SCALARS.items():
        writer.add_key_value(key, value, kind)
    writer.add_array("some.strings", ["a", "", "\u4e2d\u6587"])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_array("some.floats", [0.5, -1.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    path.write_bytes(path.read_bytes() + b"tail")
    return path


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def header(pairs: bytes, *, count: int = 1, magic: bytes = b"GGUF", version: int = 3) -> bytes:
    return magic + struct.pack("<IQQ", version, 0, count) + pairs


def refusal(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_gguf_metadata(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_value_is_read_as_it_was_written(small_gguf: Path) -> None:
    values = read_gguf_metadata(small_gguf).values
    assert {key: values[key] for key in SCALARS} == {key: value for key, (value, _) in SCALARS.items()}
    assert values["some.strings"] == [b"a", b"", "\u4e2d\u6587".encode()]
    assert values["some.numbers"] == (1, -2, 3)
    assert values["some.floats"] == (0.5, -1.5)
    assert values["general.architecture"] == "llama"


@pytest.mark.model
def test_the_default_model_is_read_as_gguf_reads_it(target_gguf: Path) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [v.encode() for v in value] if value and isinstance(value[0], str) else tuple(value)
        return value

    fields = GGUFReader(target_gguf).fields
    theirs = {key: plain(field.contents()) for key, field in fields.items() if not key.startswith("GGUF.")}
    assert read_gguf_metadata(target_gguf).values == theirs


def test_a_file_cut_anywhere_is_refused_with_the_offset(small_gguf: Path, tmp_path: Path) -> None:
    whole = small_gguf.read_bytes()
    for size in range(len(whole) - len(b"tail")):
        message = refusal(tmp_path, whole[:size])
        assert "offset" in message
        assert "fetch it again" in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "magic: 4 bytes are due, 0 are left"),
        (b"PK\x03\x04 a zip", "starts with b'PK"),
        (header(b"", count=0, version=1), "version is 1"),
        (header(b"", count=0, version=0x03000000), "version is 50331648"),  # big-endian
        (header(b"", count=MAX_PAIRS + 1), "65537 key/value pairs"),
        (header(b"", count=2**63), "key/value pairs"),
        (header(struct.pack("<Q", 2**40)), "key: a string of 1099511627776 bytes, allowed are 65535"),
        (header(string(b"\xff") + struct.pack("<IB", 0, 1)), "not UTF-8"),
        (header(string(b"k") + struct.pack("<IQ", 8, 2**50)), "k: a string of"),
        (header(string(b"k") + struct.pack("<IQ", 8, 1000)), "k: 1000 bytes are due, 0 are left"),
        (header(string(b"k") + struct.pack("<I", 13)), "value type is 13"),
        (header(string(b"k") + struct.pack("<IB", 7, 2)), "a bool is 2"),
        (header(string(b"k") + struct.pack("<IIQ", 9, 9, 1)), "value type is 9"),
        (header(string(b"k") + struct.pack("<IIQ", 9, 8, 2**60)), "strings cannot stand in the 0 bytes left"),
        (header(string(b"k") + struct.pack("<IIQ", 9, 4, 2**60)), "bytes are due, 0 are left"),
        (header(string(b"k") + struct.pack("<IIQQ", 9, 8, 1, 2**63)), "k[0]: a string of 9223372036854775808 bytes"),
        (header((string(b"k") + struct.pack("<IB", 0, 1)) * 2, count=2), "key 'k' stands twice"),
    ],
)
def test_a_corrupt_file_is_refused_with_its_fault(tmp_path: Path, content: bytes, fault: str) -> None:
    assert fault in refusal(tmp_path, content)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_changed_byte_gives_values_or_a_model_error(small_gguf: Path, tmp_path: Path, place: int, byte: int) -> None:
    content = bytearray(small_gguf.read_bytes())
    content[place % len(content)] = byte
    path = tmp_path / "changed.gguf"
    path.write_bytes(content)
    try:
        values = read_gguf_metadata(path).values
    except ModelError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert values or content[16:24] == bytes(8)  # its header says that there are none


def test_a_file_that_cannot_be_opened_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf cannot be read: No such file"):
        read_gguf_metadata(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        read_gguf_metadata(tmp_path)


def test_a_value_of_another_kind_is_refused(small_gguf: Path) -> None:
    metadata = read_gguf_metadata(small_gguf)
    assert metadata.get("a.bool", bool) is True
    assert metadata.get("not.there", str) is None
    with pytest.raises(ModelError, match=r"a\.bool is a bool, it must be an integer"):
        metadata.get("a.bool", int)
    with pytest.raises(ModelError, match=r"some\.strings is strings, it must be numbers"):
        metadata.get("some.strings", tuple)
