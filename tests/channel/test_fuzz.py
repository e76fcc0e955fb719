"""Decoders of a channel and of its relay: a message that encodes to the same bytes, or MalformedMessage."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg import wire
from secagg.channel.messages import Inside, Offer, Proof
from secagg.channel.relay import (
    MAX_FRAME,
    FromParty,
    FromRelay,
    Leave,
    Left,
    Met,
    Missing,
    Record,
    decode_from_party,
    decode_from_relay,
    encode,
)
from secagg.errors import FaultySilo, FaultySiloOrCoordinator, MalformedMessage
from tests.channel.ends import channel, pair
from tests.samples import of

KINDS: list[type[Any]] = list(
    dict.fromkeys((*get_args(FromParty), *get_args(FromRelay), *get_args(Inside), Offer, Proof))
)


def decoders(kind: type[Any]) -> list[Any]:
    found: list[Any] = []
    if kind in get_args(FromParty):
        found.append(decode_from_party)
    if kind in get_args(FromRelay):
        found.append(decode_from_relay)
    return found or [lambda data: wire.decode_as(data, None, kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(kind: type[Any], data: st.DataObject) -> None:
    message = data.draw(of(kind))
    for decode in decoders(kind):
        assert decode(encode(message)) == message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_what_is_nearly_a_message_is_none_or_another_one(kind: type[Any], data: st.DataObject) -> None:
    sent = bytearray(encode(data.draw(of(kind))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(sent) - 1))
        match data.draw(st.sampled_from(("flip", "cut", "insert"))):
            case "flip":
                sent[at] ^= data.draw(st.integers(1, 255))
            case "cut" if len(sent) > 1:
                del sent[at]
            case _:
                sent[at:at] = data.draw(st.binary(min_size=1, max_size=4))
    for decode in (*decoders(kind), decode_from_party, decode_from_relay):
        try:
            message = decode(bytes(sent))
        except MalformedMessage:
            continue
        assert encode(message) == bytes(sent)


@given(st.binary(max_size=200))
def test_a_channel_refuses_any_bytes_by_name(data: bytes) -> None:
    waiting, proving = channel("bank", "insurer"), channel("bank", "insurer")
    proving.receive(channel("insurer", "bank").first)
    for end in (waiting, proving, pair().one):
        with pytest.raises((FaultySilo, FaultySiloOrCoordinator), match="insurer"):
            end.receive(data)


def test_each_direction_takes_its_own_messages_alone() -> None:
    for message in (Met(), Missing(("bank",)), Left("bank")):
        with pytest.raises(MalformedMessage):
            decode_from_party(encode(message))
    with pytest.raises(MalformedMessage):
        decode_from_relay(encode(Leave()))


def test_what_is_too_long_is_not_decoded() -> None:
    for decode in (decode_from_party, decode_from_relay):
        with pytest.raises(MalformedMessage, match=f"at most {MAX_FRAME}"):
            decode(bytes(MAX_FRAME + 1))


def test_a_record_shows_its_size_and_not_its_bytes() -> None:
    assert repr(Record("bank", b"planted")) == "Record(bank, 7 bytes)"
