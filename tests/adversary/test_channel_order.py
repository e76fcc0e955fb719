"""Attack ``channel_order``: a coordinator that carries records other than it was given them.

It repeats, drops, moves and returns them to who sent them, and puts in records of another pair, of another
incarnation, and of the last one in the place of those that it cut off.
"""

from __future__ import annotations

from typing import Any

import pytest

from secagg.channel.end import Channel
from secagg.channel.messages import Finished
from secagg.errors import FaultySilo, FaultySiloOrCoordinator
from secagg.hazmat.agreement import AgreementKey
from secagg.names import SiloId
from tests.channel.ends import Pair, channel, frames, pair, received, sealed

SAID = [b"first", b"second", b"third"]


def talk() -> tuple[Pair, list[bytes]]:
    """Return an open channel, and records of what the bank says: three frames, and that it ended well."""
    both = pair()
    records = [record for header in SAID for record in sealed(both.one, (header, None))]
    return both, [*records, both.one.seal(Finished())]


def heard(end: Channel, records: list[bytes]) -> list[object]:
    """Return all that comes out before the end notices something; nobody is named for what was done to it."""
    found: list[object] = []
    for record in records:
        try:
            events = received(end, [record])
        except FaultySiloOrCoordinator:
            return found
        except FaultySilo as fault:
            raise AssertionError(f"an honest silo is named: {fault}") from None
        found += frames(events) or events
    return found


def carried(order: list[int]) -> list[object]:
    both, records = talk()
    return heard(both.other, [records[at] for at in order])


def returned() -> list[object]:
    """Attack: give the bank its own records back."""
    both, records = talk()
    return heard(both.one, records)


def of_another_pair() -> list[object]:
    """Attack: give the shop what the bank tells the insurer."""
    shop = Pair(channel("shop", "bank"), channel("bank", "shop")).shake_hands().one
    return heard(shop, talk()[1])


def of_another_incarnation() -> list[object]:
    """Attack: after a handshake of its own, give the insurer what was said in the incarnation before."""
    return heard(pair().other, talk()[1])


def test_channel_order() -> None:
    everything = [(header, None) for header in SAID]
    assert carried([0, 1, 2, 3]) == [*everything, Finished()]
    assert carried([0, 0, 1, 2, 3]) == everything[:1], "what is repeated is heard twice"
    assert carried([0, 2, 1, 3]) == everything[:1], "what is moved is heard"
    assert Finished() not in carried([0, 1, 3]), "a conversation that is cut off ends well"
    assert Finished() not in carried([0, 1, 2]), "an end is heard that was not said"
    assert not returned(), "a silo hears itself"
    assert not of_another_pair(), "a silo hears what was said to another"
    assert not of_another_incarnation(), "what was said before the handshake is heard"


derive = AgreementKey.derive


def one_key(_self: AgreementKey, _public: bytes, _purpose: str, *_context: Any) -> bytes:
    return bytes(32)


def both_ways(self: AgreementKey, public: bytes, purpose: str, transcript: bytes, *_: SiloId) -> bytes:
    return derive(self, public, purpose, transcript)


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        ("secagg.channel.records._Numbered._nonce", lambda _: bytes(12), "heard twice"),
        ("secagg.hazmat.agreement.AgreementKey.derive", both_ways, "hears itself"),
        ("secagg.hazmat.agreement.AgreementKey.derive", one_key, "hears itself"),
    ],
    ids=["numbers", "directions", "keys"],
)
def test_channel_order_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any, found: str) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_channel_order()


def test_without_numbers_all_else_would_be_heard_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.channel.records._Numbered._nonce", lambda _: bytes(12))
    assert carried([0, 2, 1, 3]) == [*((SAID[at], None) for at in (0, 2, 1)), Finished()]
    assert Finished() in carried([0, 1, 3])


def test_without_keys_of_its_own_an_incarnation_would_hear_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(AgreementKey, "derive", one_key)
    assert len(of_another_incarnation()) == 4
    assert len(of_another_pair()) == 4
