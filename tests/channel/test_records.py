"""Frames come out of a channel as they went in: once, whole, in order; or it ends and says whose it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.channel import records as records_module
from secagg.channel.end import Event
from secagg.channel.messages import MAX_DATA, MAX_RECORD, Begin, Finished, Piece, Reason, Stopped
from secagg.channel.pieces import Joined, cut
from secagg.channel.records import Opener, Sealer
from secagg.errors import FaultySilo, FaultySiloOrCoordinator, MalformedMessage, UsageError
from secagg.payload import EndToEnd
from tests.channel.ends import flat, frames, pair, received, sealed

SIZES = [0, 1, MAX_DATA - 1, MAX_DATA, MAX_DATA + 1, 3 * MAX_DATA]


def pattern(size: int) -> bytes:
    return (np.arange(size, dtype=np.uint32) * 2654435761 >> 13).astype(np.uint8).tobytes()


@pytest.mark.parametrize("header", SIZES)
@pytest.mark.parametrize("payload", [None, *SIZES])
def test_a_frame_is_cut_and_joined(header: int, payload: int | None) -> None:
    frame = pattern(header), None if payload is None else memoryview(pattern(payload))
    parts = list(cut(frame))
    assert all(len(part.data) <= MAX_DATA for part in parts)
    assert len(parts) == max(1, -(-(header + (payload or 0)) // MAX_DATA))
    joined = Joined(2 * sum(SIZES))
    whole = [joined.take(part) for part in parts]
    assert whole[:-1] == [None] * (len(parts) - 1)
    assert whole[-1] is not None
    assert flat(whole[-1]) == flat(frame)
    assert not joined.under_way


def test_a_payload_that_lies_in_parts_elsewhere_is_read_part_by_part() -> None:
    asked: list[int] = []

    def part(place: int) -> memoryview:
        asked.append(place)
        return memoryview(bytes([place]) * MAX_DATA)

    parts = cut((b"", EndToEnd(3, MAX_DATA, part)))
    next(parts)
    assert asked == [0]
    assert [bytes(piece.data[:1]) for piece in parts] == [b"\x01", b"\x02"]


@given(st.lists(st.tuples(st.binary(max_size=64), st.none() | st.binary(max_size=300)), max_size=8))
def test_frames_cross_in_order_both_ways(sent: list[tuple[bytes, bytes | None]]) -> None:
    both = pair()
    for sender, receiver in ((both.one, both.other), (both.other, both.one)):
        events: list[Event] = []
        for header, payload in sent:
            frame = header, None if payload is None else memoryview(payload)
            events += received(receiver, sealed(sender, frame))
        assert frames(events) == sent


def test_a_large_frame_crosses_in_records_of_one_mebibyte() -> None:
    both = pair()
    payload = pattern(3 * MAX_RECORD + 5)
    records = sealed(both.one, (b"header", memoryview(payload)))
    assert max(map(len, records)) <= MAX_RECORD
    assert frames(received(both.other, records)) == [(b"header", payload)]


def test_no_record_shows_what_is_in_it() -> None:
    both = pair()
    assert all(b"planted" not in record for record in sealed(both.one, (b"planted", memoryview(b"planted"))))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: [r[0][:-1] + bytes([r[0][-1] ^ 1]), *r[1:]],
        lambda r: [bytes([r[0][0] ^ 1]) + r[0][1:], *r[1:]],
        lambda r: [r[0] + b"\x00", *r[1:]],
        lambda r: [r[0][:-1], *r[1:]],
        lambda r: r[1:],
        lambda r: [r[1], r[0], r[2]],
        lambda r: [r[0], r[0], *r[1:]],
        lambda r: [b"", *r],
        lambda r: [bytes(MAX_RECORD + 1), *r],
    ],
    ids=["tag", "text", "longer", "shorter", "dropped", "moved", "repeated", "empty", "too long"],
)
def test_a_record_that_is_not_the_next_ends_the_channel(
    change: Callable[[list[bytes]], list[bytes]],
) -> None:
    both = pair()
    records = [record for number in range(3) for record in sealed(both.one, (b"%d" % number, None))]
    with pytest.raises(FaultySiloOrCoordinator, match="altered, dropped, repeated or moved") as caught:
        received(both.other, change(records))
    assert caught.value.silo == "bank"
    with pytest.raises(FaultySiloOrCoordinator, match="after its end"):
        both.other.receive(records[0])


def test_a_record_does_not_pass_in_the_other_direction_or_another_channel() -> None:
    both, others = pair(), pair()
    (record,) = sealed(both.one, (b"frame", None))
    for end in (both.one, others.other):
        with pytest.raises(FaultySiloOrCoordinator):
            end.receive(record)


@pytest.mark.parametrize("last", [Finished(), Stopped.by("largest set"), Stopped("mishap")], ids=str)
def test_the_last_word_is_the_last(last: Finished | Stopped) -> None:
    both = pair()
    assert received(both.other, [both.one.seal(last)]) == [last]
    with pytest.raises(FaultySiloOrCoordinator, match="after its end"):
        both.other.receive(b"more")
    # The other direction goes on.
    assert frames(received(both.one, sealed(both.other, (b"still", None)))) == [(b"still", None)]


def test_why_a_silo_stops_cannot_be_told_by_the_size_of_its_last_word() -> None:
    words = [Stopped(why) for why in get_args(Reason)]
    words += [Stopped.by(rule) for rule in ("queries", "smallest intersection", "r" * 64)]
    assert len({len(pair().one.seal(word)) for word in words}) == 1


def test_who_stops_may_do_so_within_a_frame_and_who_ends_well_may_not() -> None:
    begin = Begin(10, None, b"half")
    both = pair()
    stopped = Stopped("faulty")
    assert received(both.other, [both.one.seal(begin), both.one.seal(stopped)]) == [stopped]
    both = pair()
    with pytest.raises(FaultySilo, match="bank: it ended within a message"):
        received(both.other, [both.one.seal(begin), both.one.seal(Finished())])


@pytest.mark.parametrize(
    "parts",
    [
        [Piece(b"x")],
        [Begin(9, None, b"x"), Begin(9, None, b"x")],
        [Begin(9, None, b"x"), Piece(b"")],
        [Begin(1, None, b"xy")],
        [Begin(1, 1, b"xyz")],
        [Begin(2, None, b"x"), Piece(b"yz")],
        [Begin(1, 1000, b"x")],
        [Begin(1000, None, b"x")],
    ],
    ids=["piece", "within", "empty", "long", "long payload", "longer", "largest", "largest header"],
)
def test_parts_that_are_not_due_name_who_sealed_them(parts: list[Begin | Piece]) -> None:
    both = pair(largest=999)
    with pytest.raises(FaultySilo) as caught:
        received(both.other, [both.one.seal(part) for part in parts])
    assert caught.value.silo == "bank"


def test_what_is_sealed_and_no_message_names_who_sealed_it() -> None:
    key = bytes(range(32))
    sealer, opener = Sealer(key), Opener(key, "bank")
    record = sealer._cipher.encrypt(sealer._nonce(), b"\x01\xc1", None)
    with pytest.raises(FaultySilo, match="bank"):
        opener.open(record)


def test_what_is_kept_grows_with_what_arrives() -> None:
    joined = Joined(1 << 40)
    assert joined.take(Begin(0, 1 << 33, b"x")) is None
    assert joined._begun is not None
    assert joined._begun._payload is not None
    assert len(joined._begun._payload._data) <= 64 * 1024 * 1024  # Reserved, not used.
    with pytest.raises(MalformedMessage, match="at most 10"):
        Joined(10).take(Begin(0, 11, b""))


def test_no_nonce_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records_module, "MAX_RECORDS", 3)
    key = bytes(range(32))
    sealer, opener = Sealer(key), Opener(key, "bank")
    nonces = set()
    for _ in range(3):
        nonces.add(sealer._nonce())
        opener.open(sealer.seal(Piece(b"same")))
    assert len(nonces) == 3
    with pytest.raises(UsageError, match="let the parties meet anew"):
        sealer.seal(Piece(b"same"))
    with pytest.raises(UsageError, match="let the parties meet anew"):
        opener.open(bytes(99))
