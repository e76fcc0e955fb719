"""Attack ``bad_shares``: a silo answers Unmasking with something else than the shares it was dealt.

One wrong share makes the recovered secret garbage. Each share is checked against what its dealer signed, so
the sender is named and nobody else, the dealers of the true shares least of all, and the sum is opened from
the other answers while t remain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from secagg.errors import SecaggError, TooFewSilos
from secagg.hazmat.framing import digest
from secagg.hazmat.shamir import PRIME
from secagg.messages import ConsistencyCheck, FromSilo, Opening, Unmasking
from secagg.names import SiloId
from tests.counts import count
from tests.federations import Federation, Witness

HELPER, SENDER = 0, 1
"""Slots of a colluder that answers first and hands its shares on, and of the silo that sends wrong ones."""

Openings = tuple[tuple[SiloId, Opening], ...]
Forgery = Callable[["Heard", Openings], Openings]


class Heard:
    """What the sender has to work with.

    Attributes:
        pairs: both kinds of opening that it was dealt, by dealer.
        helper: what its colluder answered.
        earlier: what it answered in a round before.
    """

    def __init__(self) -> None:
        self.pairs: dict[SiloId, Any] = {}
        self.helper: Openings = ()
        self.earlier: Openings = ()


def with_share(openings: Openings, changed: Callable[[bytes], bytes], *, every: bool = False) -> Openings:
    return tuple(
        (dealer, Opening(changed(opening.share), opening.salt) if every or slot == 2 else opening)
        for slot, (dealer, opening) in enumerate(openings)
    )


def flipped(data: bytes, bit: int = 0) -> bytes:
    return (int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")


def of_other_kind(heard: Heard, openings: Openings) -> Openings:
    return tuple(
        (dealer, pair.mask if opening == pair.seed else pair.seed)
        for dealer, opening in openings
        for pair in (heard.pairs[dealer],)
    )


FORGERIES: dict[str, Forgery] = {
    "flipped bit": lambda _, openings: with_share(openings, flipped),
    "flipped everywhere": lambda _, openings: with_share(openings, lambda s: flipped(s, 200), every=True),
    "flipped salt": lambda _, openings: tuple((d, Opening(o.share, flipped(o.salt))) for d, o in openings),
    "zero": lambda _, openings: with_share(openings, lambda share: bytes(len(share)), every=True),
    "not reduced": lambda _, openings: with_share(
        openings, lambda share: (int.from_bytes(share, "big") + PRIME).to_bytes(33, "big")
    ),
    "short": lambda _, openings: with_share(openings, lambda share: share[1:]),
    "long": lambda _, openings: with_share(openings, lambda share: b"\0" + share),
    "empty": lambda _, openings: with_share(openings, lambda _: b"", every=True),
    "wrong index": lambda heard, _: heard.helper,
    "another dealer": lambda _, openings: tuple(
        (dealer, openings[slot - 1][1]) for slot, (dealer, _) in enumerate(openings)
    ),
    "one for all": lambda _, openings: tuple((dealer, openings[0][1]) for dealer, _ in openings),
    "other kind": of_other_kind,
    "other session": lambda heard, _: heard.earlier,
    "repeat": lambda _, openings: (*openings, openings[0]),
    "repeat in place": lambda _, openings: (*openings[:-1], openings[0]),
    "one missing": lambda _, openings: openings[:-1],
    "none": lambda _heard, _openings: (),
    "other order": lambda _, openings: openings[::-1],
    "stranger": lambda _, openings: (*openings[:-1], ("nobody", openings[-1][1])),
}


def attack(forgery: Forgery, n: int) -> tuple[Federation, Witness, SecaggError | None]:
    """Run an honest round, then one in which the sender forges its shares; return how that ended.

    The last silo is lost before its input arrives in both, so that shares of both kinds are asked for.
    """
    federation, heard = Federation(n), Heard()
    helper, sender = federation.roster.silos[HELPER], federation.roster.silos[SENDER]

    def remember(message: FromSilo) -> FromSilo:
        if isinstance(message, Unmasking):
            heard.earlier = message.openings
        return message

    def forge(message: FromSilo) -> FromSilo:
        match message:
            case ConsistencyCheck():
                session = federation.silos[sender]._participant._session
                heard.pairs = dict(session._state.pairs)  # type: ignore[union-attr]
            case Unmasking():
                return Unmasking(message.round_id, forgery(heard, message.openings))
            case _:
                pass
        return message

    def hand_on(message: FromSilo) -> FromSilo:
        if isinstance(message, Unmasking):
            heard.helper = message.openings
        return message

    dropouts: dict[SiloId, Any] = {federation.roster.silos[-1]: "MaskedInput"}
    federation.silos[sender].tamper = remember
    federation.run(federation.coordinator(), dropouts)

    federation.silos[sender].tamper, federation.silos[helper].tamper = forge, hand_on
    coordinator = federation.coordinator(terms=msgspec.structs.replace(federation.terms, round=2))
    try:
        federation.run(coordinator, dropouts)
    except SecaggError as error:
        return federation, coordinator, error
    return federation, coordinator, None


def check_blame(federation: Federation, coordinator: Witness) -> None:
    """The sender is named, and nobody else: neither a silo that was lost nor a dealer of true shares."""
    faulty = {silo for silo, why in coordinator.losses.items() if why.startswith("faulty")}
    assert faulty == {federation.roster.silos[SENDER]}, "the wrong silo is named"
    assert coordinator.losses.keys() == faulty | {federation.roster.silos[-1]}
    assert coordinator.excluded == frozenset(), "an honest dealer is left out"


def test_bad_shares() -> None:
    for name, forgery in FORGERIES.items():
        # n = 7, t = 5: of six survivors five answer well.
        federation, coordinator, error = attack(forgery, 7)
        check_blame(federation, coordinator)
        assert error is None, name
        assert coordinator.attempt == 1, name
        survivors = federation.roster.silos[:-1]
        for aggregate in (coordinator.opened, *(federation.work[silo].applied[1] for silo in survivors)):
            assert aggregate.survivors == survivors
            assert aggregate.total.tolist() == federation.sum_of(survivors), name

    for name, forgery in list(FORGERIES.items())[:: count(6, full=1)]:
        # n = 4, t = 3: of three survivors two answer well, so nothing is opened.
        federation, coordinator, error = attack(forgery, 4)
        check_blame(federation, coordinator)
        assert isinstance(error, TooFewSilos), name
        assert coordinator.outcome is None
        assert [len(work.applied) for work in federation.work.values()] == [1, 1, 1, 0], name


def accept(*_: object) -> bool:
    return True


@pytest.mark.parametrize(
    ("defence", "mutant"),
    [
        ("secagg.masking.coordinator.opening_matches", accept),
        (
            "secagg.masking.transcript.share_commitment",
            lambda session, dealer, recipient, kind, _share, salt: digest(
                "share", session, dealer, recipient, kind, b"", salt
            ),
        ),
        (
            "secagg.masking.transcript.share_commitment",
            lambda session, dealer, recipient, kind, share, _salt: digest(
                "share", session, dealer, recipient, kind, share, b""
            ),
        ),
    ],
)
def test_bad_shares_mutant(monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Any) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match="the wrong silo is named"):
        test_bad_shares()
