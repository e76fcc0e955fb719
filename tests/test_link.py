"""A line between two processes: every message once, in order, whatever happens to the streams."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import MalformedMessage
from secagg.link.frames import (
    MAX_FRAME_SIZE,
    MAX_PIECE,
    Begin,
    Held,
    Hello,
    Piece,
    Probe,
    Received,
    Welcome,
    decode_link,
    encode_link,
)
from secagg.link.line import Incoming, InMemory, Outgoing, Store
from secagg.payload import Frame

BOOT = bytes(range(16))
EVERY = (
    Hello(1, "0.1.0", bytes(32), BOOT, None, Held()),
    Probe(1, "0.1.0", bytes(32)),
    Hello(1, "0.1.0", bytes(32), BOOT, BOOT, Held(3, 5)),
    Welcome(1, "0.1.0", BOOT, True, Held(1, 2)),
    Begin(1, b"header", None),
    Begin(2, b"header", 10),
    Piece(2, 0, memoryview(b"0123456789")),
    Received(7),
)


def message(number: int, size: int) -> Frame:
    pattern = bytes((number + i) % 251 for i in range(251)) * (size // 251 + 1)
    return b"header %d" % number, memoryview(pattern)[:size] if size else None


def flat(frame: Frame) -> tuple[bytes, bytes | None]:
    header, payload = frame
    return header, None if payload is None else bytes(payload[:])


@pytest.mark.parametrize("frame", EVERY, ids=lambda frame: type(frame).__name__)
def test_a_frame_survives_the_wire(frame: Any) -> None:
    assert decode_link(encode_link(frame)) == frame


def test_the_bytes_of_a_piece_are_not_copied() -> None:
    data = encode_link(Piece(1, 0, memoryview(bytes(MAX_PIECE))))
    piece = decode_link(data)
    assert isinstance(piece, Piece)
    assert piece.data.obj is data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        bytes(MAX_FRAME_SIZE + 1),
        msgspec.msgpack.encode({"type": "Received"}),
        msgspec.msgpack.encode({"type": "Received", "number": 0}),
        msgspec.msgpack.encode({"type": "Received", "number": 1, "more": 1}),
        msgspec.msgpack.encode({"type": "Goodbye", "number": 1}),
        encode_link(Piece(1, 0, memoryview(b""))),
        encode_link(Piece(1, 0, memoryview(bytes(MAX_PIECE + 1)))),
        msgspec.msgpack.encode({"type": "Begin", "number": 1, "header": b"", "size": 1 << 60}),
        b"\x91" * 10_000,
    ],
    ids=range(11),
)
def test_other_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_link(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(data: bytes) -> None:
    try:
        frame = decode_link(data)
    except MalformedMessage:
        return
    assert decode_link(encode_link(frame)) == frame


def arrive(
    flying: list[Begin | Piece], incoming: Incoming, outgoing: Outgoing
) -> list[tuple[bytes, bytes | None]]:
    """Deliver what flies; what is out of order ends the stream, and the next one goes on where it was."""
    out = []
    try:
        for frame in flying:
            whole = incoming.take(frame)
            out += [] if whole is None else [flat(whole)]
    except MalformedMessage:
        outgoing.resume(incoming.held)
    flying.clear()
    return out


EVENTS = st.sampled_from(["write", "write", "write", "write", "cut", "repeat", "swap", "acknowledge"])


@given(
    st.lists(st.sampled_from([0, 1, MAX_PIECE - 1, MAX_PIECE, MAX_PIECE + 1, 3 * MAX_PIECE]), max_size=5),
    st.lists(EVENTS, max_size=60),
)
def test_each_message_comes_out_once_and_in_order(sizes: list[int], events: list[str]) -> None:
    """Guarantees of both halves, under cuts, repetitions and exchanged frames at any moment."""
    sent, outgoing, incoming, out = [], Outgoing(), Incoming(), []
    for number, size in enumerate(sizes, start=1):
        sent.append(flat(message(number, size)))
        assert outgoing.put(message(number, size)) == number
    flying: list[Begin | Piece] = []
    for event in events:
        match event:
            case "write":
                taken = outgoing.take()
                flying += [] if taken is None else [taken]
            case "repeat":
                flying += flying[-2:]
            case "swap":
                flying[-2:] = reversed(flying[-2:])
            case "cut":
                flying.clear()
                outgoing.resume(incoming.held)
            case "acknowledge":
                out += arrive(flying, incoming, outgoing)
                if incoming.acknowledgement is not None:
                    outgoing.acknowledge(incoming.acknowledgement.number)
    out += arrive(flying, incoming, outgoing)
    outgoing.resume(incoming.held)
    rest: list[Begin | Piece] = list(iter(outgoing.take, None))
    assert out + arrive(rest, incoming, outgoing) == sent
    assert incoming.acknowledgement == (Received(len(sizes)) if sizes else None)
    outgoing.acknowledge(len(sizes))
    assert outgoing.pending == 0
    assert outgoing.take() is None


def test_a_cut_upload_goes_on_where_it_broke_off() -> None:
    outgoing, incoming = Outgoing(), Incoming()
    outgoing.put(message(1, 4 * MAX_PIECE))
    for _ in range(3):
        taken = outgoing.take()
        assert taken is not None
        incoming.take(taken)
    assert incoming.held == Held(0, 2 * MAX_PIECE)
    outgoing.resume(incoming.held)
    again = []
    while (taken := outgoing.take()) is not None:
        again.append(taken)
    assert isinstance(again[0], Begin)
    assert [piece.offset for piece in again[1:] if isinstance(piece, Piece)] == [
        2 * MAX_PIECE,
        3 * MAX_PIECE,
    ]


def test_a_payload_is_handed_out_uncopied() -> None:
    outgoing = Outgoing()
    payload = memoryview(bytes(MAX_PIECE))
    outgoing.put((b"", payload))
    outgoing.take()
    piece = outgoing.take()
    assert isinstance(piece, Piece)
    assert piece.data.obj is payload.obj


def test_nothing_is_kept_for_a_size_that_is_refused() -> None:
    asked = []

    def store(size: int) -> Store:
        asked.append(size)
        raise MalformedMessage("too much")

    incoming = Incoming(store)
    with pytest.raises(MalformedMessage, match="too much"):
        incoming.take(Begin(1, b"", 8))
    assert len(asked) == 1
    assert incoming.held == Held()


def test_an_announced_size_reserves_nothing() -> None:
    kept = InMemory(1 << 33)
    kept.write(memoryview(b"ab"))
    assert bytes(kept.whole()) == b"ab"


@pytest.mark.parametrize(
    "frames",
    [
        [Begin(2, b"", None)],
        [Piece(1, 0, memoryview(b"a"))],
        [Begin(1, b"a", 4), Begin(1, b"b", 4)],
        [Begin(1, b"a", 4), Begin(1, b"a", 5)],
        [Begin(1, b"a", 4), Piece(1, 1, memoryview(b"a"))],
        [Begin(1, b"a", 4), Piece(1, 0, memoryview(b"aaaaa"))],
        [Begin(1, b"a", 4), Piece(2, 0, memoryview(b"aaaa"))],
    ],
    ids=range(7),
)
def test_what_is_out_of_order_raises_and_changes_nothing(frames: list[Begin | Piece]) -> None:
    incoming = Incoming()
    for frame in frames[:-1]:
        incoming.take(frame)
    before = incoming.held
    with pytest.raises(MalformedMessage):
        incoming.take(frames[-1])
    assert incoming.held == before


@pytest.mark.parametrize("held", [Held(2, 0), Held(1, 1), Held(0, 5), Held(3, 0)])
def test_a_peer_cannot_hold_what_was_not_sent(held: Held) -> None:
    outgoing = Outgoing()
    outgoing.put(message(1, 0))
    outgoing.take()
    outgoing.put(message(2, 100))
    with pytest.raises(MalformedMessage):
        outgoing.resume(held)


def test_a_peer_cannot_forget_what_it_acknowledged() -> None:
    outgoing = Outgoing()
    for number in (1, 2):
        outgoing.put(message(number, 0))
        outgoing.take()
    outgoing.acknowledge(1)
    with pytest.raises(MalformedMessage):
        outgoing.resume(Held(0, 0))


def test_what_is_not_whole_can_be_given_up() -> None:
    incoming = Incoming()
    incoming.take(Begin(1, b"", 4))
    incoming.take(Piece(1, 0, memoryview(b"ab")))
    incoming.close()
    assert incoming.held == Held()
