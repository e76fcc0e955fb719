"""The decoders of an intersection's messages: whatever bytes come, a message or ``MalformedMessage``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import wire
from secagg.errors import MalformedMessage
from secagg.messages import Said
from secagg.payload import Payload
from secagg.psi.many.messages import (
    EvaluatedInOrder,
    FromFollower,
    FromLeader,
    Introduced,
    Shared,
    Table,
)
from secagg.psi.messages import (
    Counted,
    Evaluated,
    FromReceiver,
    FromSender,
    Matched,
    Query,
    Revealed,
    Tags,
    Withheld,
)
from tests.counts import count

BYTES, PLACES = Payload.of(np.arange(64, dtype=np.uint8)), Payload.of(np.arange(16, dtype=np.uint32))
WORDS = Payload.of(np.arange(16, dtype=np.uint64))
WITHHELD, INTRODUCED = Withheld("largest set"), Introduced(bytes(32))
RECEIVER: list[Said] = [Query(bytes(32), BYTES), Matched(PLACES), Counted(bytes(4)), WITHHELD]
SENDER: list[Said] = [Evaluated(BYTES), Tags(BYTES), Revealed(PLACES), WITHHELD]
LEADER: list[Said] = [INTRODUCED, Query(bytes(32), BYTES), Shared(bytes(32), BYTES), WITHHELD]
FOLLOWER: list[Said] = [INTRODUCED, EvaluatedInOrder(BYTES), Table(bytes(32), 64, WORDS), WITHHELD]
EVERYTHING = RECEIVER + SENDER + LEADER + FOLLOWER
DECODERS: list[tuple[Callable[..., Said], list[Said]]] = [
    (partial(wire.decode_as, kind=FromReceiver), RECEIVER),
    (partial(wire.decode_as, kind=FromSender), SENDER),
    (partial(wire.decode_as, kind=FromLeader), LEADER),
    (partial(wire.decode_as, kind=FromFollower), FOLLOWER),
]


@pytest.mark.parametrize(("decode", "mine"), DECODERS)
def test_each_message_comes_back_from_its_own_frame(decode: Callable[..., Said], mine: list[Said]) -> None:
    for said in mine:
        header, payload = wire.encode(said)
        found = decode(header, payload)
        assert type(found) is type(said)
        assert wire.encode(found)[0] == header
    for said in {type(each): each for each in EVERYTHING if type(each) not in set(map(type, mine))}.values():
        with pytest.raises(MalformedMessage):
            decode(*wire.encode(said))


@settings(max_examples=count(200, full=5000))
@given(st.sampled_from(EVERYTHING), st.data())
def test_any_change_of_a_frame_is_refused(said: Said, data: Any) -> None:
    header, payload = wire.encode(said)
    whole = bytearray(header), bytearray(bytes(payload[:]) if payload is not None else b"")
    part = data.draw(st.sampled_from([each for each in whole if each]))
    at = data.draw(st.integers(0, len(part) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    if kind == "flip":
        part[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del part[at:]
    else:
        part += b"\0"
    for decode, _ in DECODERS:
        try:
            found = decode(bytes(whole[0]), memoryview(bytes(whole[1])) if payload is not None else None)
        except MalformedMessage:
            continue
        # Bytes of a number or digest may be others; nothing else is a message again.
        assert isinstance(found, Counted | Query | Introduced | Shared | Table)
        assert wire.encode(found)[0] == bytes(whole[0])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode, _ in DECODERS:
        with suppress(MalformedMessage):
            assert wire.encode(decode(data, None))[0] == data
