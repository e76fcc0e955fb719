"""The codec: every message comes back as it was sent, nothing else comes back at all."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import wire
from secagg.errors import MalformedMessage
from secagg.messages import (
    BaseSent,
    DealerEvidence,
    Message,
    Opening,
    PlainInput,
    Ready,
    Refused,
    Voided,
)
from secagg.payload import Payload
from tests.samples import FROM_COORDINATOR, FROM_SILO, of

VECTOR = np.arange(6, dtype=np.uint32)
RAW = memoryview(VECTOR.tobytes())


def decode(message: Message | type[Message], *frame: Any) -> Message:
    kind = message if isinstance(message, type) else type(message)
    if kind in FROM_SILO:
        return wire.decode_from_silo(*frame)
    return wire.decode_from_coordinator(*frame)


def same(one: Any, other: Any) -> bool:
    """Equal in every field; payloads by type, length and bytes."""
    if isinstance(one, Payload):
        return (
            isinstance(other, Payload)
            and (one.dtype, one.length, one.digest) == (other.dtype, other.length, other.digest)
            and one.buffer() == other.buffer()
        )
    if isinstance(one, msgspec.Struct):
        return type(one) is type(other) and all(
            same(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and type(one) is type(other)


@pytest.mark.parametrize("kind", [*FROM_SILO, *FROM_COORDINATOR], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_round_trips(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(of(kind))
    frame = wire.encode(message)
    decoded = decode(kind, *frame)
    assert same(message, decoded)
    again = wire.encode(decoded)
    assert again[0] == frame[0]
    assert again[1] == frame[1]
    # The transport hands on views, not bytes.
    assert same(message, decode(kind, memoryview(frame[0]), frame[1]))


@pytest.mark.parametrize("kind", [*FROM_SILO, *FROM_COORDINATOR], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_message_is_taken_from_its_role_only(kind: type[Any], data: st.DataObject) -> None:
    frame = wire.encode(data.draw(of(kind)))
    wrong = wire.decode_from_coordinator if kind in FROM_SILO else wire.decode_from_silo
    with pytest.raises(MalformedMessage):
        wrong(*frame)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=40))
def test_random_bytes_are_malformed(header: bytes, payload: bytes | None) -> None:
    view = None if payload is None else memoryview(payload)
    for decoder in (wire.decode_from_silo, wire.decode_from_coordinator):
        for start in (b"", wire.VERSION):
            with pytest.raises(MalformedMessage):
                decoder(start + header, view)


# --- the header ---------------------------------------------------------------------------------------------


def packed(value: Any) -> bytes:
    return wire.VERSION + msgspec.msgpack.encode(value)


def refused(*frame: Any) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode_from_silo(*frame)


READY = {"type": "Ready", "training": bytes(32)}


def test_the_plain_header_is_taken() -> None:
    """The control for the refusals below."""
    assert wire.decode_from_silo(packed(READY)) == Ready(bytes(32))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        wire.VERSION,
        b"\x00" + packed(READY)[1:],
        b"\x02" + packed(READY)[1:],
        packed(READY)[1:],
        packed(READY) + b"\xc0",
        packed(READY) + packed(READY),
        packed(READY)[:-1],
        packed(None),
        packed([]),
        packed([READY]),
        packed({}),
        packed({"training": bytes(32)}),
        packed(READY | {"type": "NoSuchMessage"}),
        packed(READY | {"type": "Part"}),
        packed(READY | {"type": None}),
        packed(READY | {"more": 1}),
        packed({"training": bytes(32), "type": "Ready"}),  # another order is another frame
        packed(READY | {"training": bytes(31)}),
        packed(READY | {"training": bytes(33)}),
        packed(READY | {"training": "x" * 32}),
        packed(READY | {"training": None}),
        packed(READY | {"training": [0] * 32}),
        wire.VERSION + b"\x83" + packed(READY)[2:] + packed("training")[1:] + packed(bytes(32))[1:],
        wire.VERSION + packed(READY)[1:].replace(b"\xc4\x20", b"\xc5\x00\x20"),  # a longer length field
        wire.VERSION + packed(READY)[1:].replace(b"\xa5Ready", b"\xd9\x05Ready"),
        wire.VERSION + b"\xde\x00\x02" + packed(READY)[2:],
        packed({"type": "Refused", "rule": "r" * 65, "silos": ()}),
        packed({"type": "Refused", "rule": "r", "silos": ("",)}),
        packed({"type": "Refused", "rule": "r", "silos": ("a b",)}),
        packed({"type": "Refused", "rule": "r", "silos": ("a\n",)}),
        packed({"type": "Refused", "rule": "r", "silos": ("a" * 65,)}),
        packed({"type": "Refused", "rule": "r"}),  # a default that is left out is written when encoded again
        wire.VERSION + b"\x81" * 100_000,
        wire.VERSION + b"\x91" * 100_000,
        wire.VERSION + b"\xdd\xff\xff\xff\xff",
        wire.VERSION + b"\xdf\xff\xff\xff\xff",
        wire.VERSION + b"\xc6\xff\xff\xff\xff",
    ],
    ids=map(str, count()),
)
def test_a_header_that_is_not_exactly_a_message_is_malformed(header: bytes) -> None:
    refused(header)


def test_the_kind_of_evidence_is_one_of_two() -> None:
    for kind in ("seed", "mask"):
        assert evidence(kind).kind == kind
    for kind in ("seed\n", "mask\n", "both", "", "Seed"):
        with pytest.raises(msgspec.ValidationError):
            evidence(kind)


def evidence(kind: str) -> DealerEvidence:
    share_set = {"mask": bytes(32), "seed": bytes(32), "entries": (), "signature": bytes(64)}
    fields = {"dealer": "a", "session": bytes(32), "share_set": share_set, "kind": kind, "openings": ()}
    return msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=DealerEvidence)


def test_a_header_is_limited_before_it_is_read() -> None:
    room = wire.MAX_HEADER_SIZE - len(packed({"type": "Voided", "voids": ()}))
    void = {"silo": "a", "round_id": bytes(32), "signature": bytes(64)}
    count = room // len(msgspec.msgpack.encode(void))
    largest = packed({"type": "Voided", "voids": [void] * count})
    assert len(largest) <= wire.MAX_HEADER_SIZE
    message = wire.decode_from_silo(largest)
    assert isinstance(message, Voided)
    assert len(message.voids) == count
    oversize = packed({"type": "Voided", "voids": [void] * (count + 2)})
    with pytest.raises(MalformedMessage, match=str(wire.MAX_HEADER_SIZE)):
        wire.decode_from_silo(oversize)


def test_an_error_says_nothing_of_what_was_received() -> None:
    planted = "planted-name-of-a-silo"
    for header in (
        packed({"type": planted}),
        packed({"type": "Refused", "rule": planted * 9, "silos": ()}),
        packed({"type": "Refused", "rule": "r", "silos": (planted + " ",)}),
    ):
        with pytest.raises(MalformedMessage) as error:
            wire.decode_from_silo(header)
        assert planted not in str(error.value)


def test_secrets_of_a_message_are_not_in_its_repr() -> None:
    opening = Opening(b"\x5a" * 33, b"\x6b" * 32)
    assert repr(opening) == "Opening()"


# --- the payload --------------------------------------------------------------------------------------------


def announced(dtype: Any = "u4", length: Any = 6, digest: Any = None) -> bytes:
    digest = Payload.of(VECTOR).digest if digest is None else digest
    return packed({"type": "PlainInput", "training": bytes(32), "vector": (dtype, length, digest)})


def test_a_payload_that_is_as_announced_is_taken() -> None:
    message = wire.decode_from_silo(announced(), RAW)
    assert isinstance(message, PlainInput)
    assert message.vector.array().tolist() == VECTOR.tolist()


@pytest.mark.parametrize(
    "header",
    [
        announced("f8", 6),
        announced("u8", 6),
        announced("i4"),
        announced(">u4"),
        announced("O"),
        announced(b"u4"),
        announced(4),
        announced(None),
        announced(length=5),
        announced(length=7),
        announced(length=0),
        announced(length=-6),
        announced(length=2**31 + 1),
        announced(length=2**63),
        announced(length=6.0),
        announced(length="6"),
        announced(length=None),
        announced(digest=bytes(32)),
        announced(digest=Payload.of(VECTOR).digest[:31]),
        announced(digest=Payload.of(VECTOR).digest + b"\0"),
        announced(digest="d" * 32),
        packed({"type": "PlainInput", "training": bytes(32), "vector": ("u4", 6)}),
        packed(
            {"type": "PlainInput", "training": bytes(32), "vector": ("u4", 6, Payload.of(VECTOR).digest, 0)}
        ),
        packed({"type": "PlainInput", "training": bytes(32), "vector": Payload.of(VECTOR).digest}),
        packed({"type": "PlainInput", "training": bytes(32), "vector": {"dtype": "u4"}}),
        packed({"type": "PlainInput", "training": bytes(32), "vector": None}),
    ],
    ids=map(str, count()),
)
def test_a_payload_other_than_announced_is_malformed(header: bytes) -> None:
    refused(header, RAW)


def test_a_payload_and_its_header_come_together() -> None:
    refused(announced())
    refused(announced(), memoryview(b""))
    refused(announced(), RAW[:-1])
    refused(announced(), memoryview(bytes(RAW) + b"\0"))
    refused(announced(), memoryview(bytes(RAW[::-1])))
    refused(packed(READY), RAW)
    refused(packed(READY), memoryview(b""))
    refused(packed({"type": "Refused", "rule": "r", "silos": ()}), RAW)


@given(st.integers(0, 23), st.integers(0, 7))
def test_every_bit_of_a_payload_is_covered_by_its_digest(byte: int, bit: int) -> None:
    raw = bytearray(RAW)
    raw[byte] ^= 1 << bit
    refused(announced(), memoryview(raw))


def test_a_big_payload_is_never_copied() -> None:
    vector = np.zeros(1 << 20, np.uint32)
    header, sent = wire.encode(PlainInput(bytes(32), Payload.of(vector)))
    assert sent is not None
    assert np.shares_memory(np.frombuffer(sent[:], np.uint8), vector)
    received = wire.decode_from_silo(header, sent)
    assert isinstance(received, PlainInput)
    assert np.shares_memory(received.vector.array(), vector)
    assert len(header) < 128


def test_what_was_received_is_not_written_to() -> None:
    vector = np.zeros(4)
    frame = wire.encode(BaseSent(bytes(32), Payload.of(vector)))
    received = wire.decode_from_coordinator(*frame)
    assert isinstance(received, BaseSent)
    with pytest.raises(ValueError, match="read-only"):
        received.vector.array()[0] = 1.0


def test_a_message_without_a_payload_has_none() -> None:
    assert wire.encode(Refused("rule"))[1] is None
    assert wire.encode(PlainInput(bytes(32), Payload.of(VECTOR)))[1] is not None
