"""Attack ``share_set_split``: tell silos different lists of who shared keys.

Each silo masks towards the peers on its own list. With n = 10, c = 3, t = 7 the victim is told of three
honest peers only, everybody else of all ten; then the three are called lost, the victim a survivor. One set
with t signatures is not enough for that, so the coordinator brings signatures over five sets, from honest
rounds over five other bases. What stops it is the round id, which takes the list and the session in: it is in
every key and under every signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secagg.errors import FaultyCoordinator
from secagg.hazmat.framing import digest
from secagg.messages import BoxReport, MaskedInput, Refused, SharesAnnounced, ShareSet
from secagg.names import SiloId
from tests.adversary.harness import Attempt, Federation, Liar, named, refusals

COLLUDERS = "hij"
VICTIM, NEIGHBOURS, REST = "a", "bcd", "efg"
FEW = "fg"
EVERYBODY = "abcdefghij"
SHORT_LIST = VICTIM + NEIGHBOURS + COLLUDERS
SETS: dict[SiloId, str] = (
    {VICTIM: SHORT_LIST}
    | {silo: silo + REST + COLLUDERS for silo in NEIGHBOURS}
    | dict.fromkeys(REST, VICTIM + REST + COLLUDERS)
)


def attack(federation: Federation) -> None:
    """Open the victim's vector, if only the lists and sets that each silo is told decide."""
    liar = Liar(federation)
    harvested: dict[tuple[SiloId, ...], dict[SiloId, bytes]] = {}
    for number, survivors in enumerate(dict.fromkeys(SETS.values()), start=1):
        base = digest("another base", number)
        for host in federation.silos.values():
            host.work.bases[number] = base
        terms = federation.terms(round=number, base=base)
        liar.train(terms)
        honest = Attempt(liar, terms)
        honest.until_masked()
        assert honest.finish(survivors).keys() == set(survivors)
        harvested |= {names: signatures for (_, names), signatures in honest.signatures.items()}

    terms = federation.terms(round=9)
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.advertise()
    attempt.announce_keys()
    lists = dict.fromkeys(EVERYBODY, EVERYBODY) | {VICTIM: SHORT_LIST}
    for silo, members in lists.items():
        assert attempt.announce_shares(members, to=[silo]), "the lists themselves look sound"
    for silo, survivors in SETS.items():
        attempt.announce_survivors(survivors, members=lists[silo], to=[silo])
    for silo, survivors in SETS.items():
        signatures = harvested[federation.roster.ordered(frozenset(survivors))]
        attempt.request(survivors, members=lists[silo], to=[silo], signatures=signatures)


def check(federation: Federation) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    cohort = federation.cohort
    assert federation.knowledge.smallest(below=cohort.min_survivors - cohort.c) is None
    for silo in federation.honest:
        assert refusals(federation.silos[silo]) == [FaultyCoordinator]
        assert "0 valid signatures over the set; t = 7" in str(federation.silos[silo].errors[0])
    assert not named(federation)


def test_share_set_split() -> None:
    federation = Federation(10, colluders=COLLUDERS)
    assert (federation.cohort.c, federation.cohort.t) == (3, 7)
    attack(federation)
    check(federation)


def test_share_set_split_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.masking.transcript.round_id", lambda *_: bytes(32))
    federation = Federation(10, colluders=COLLUDERS)
    attack(federation)
    with pytest.raises(AssertionError, match="the victim's vector"):
        check(federation)


def half_and_half(federation: Federation) -> None:
    """Tell some silos that everybody dealt and others that one colluder did not; then ask for one set."""
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.advertise()
    attempt.announce_keys()
    survivors = EVERYBODY[:-1]
    lists = dict.fromkeys(survivors, EVERYBODY) | dict.fromkeys(FEW, survivors)
    for silo, members in lists.items():
        attempt.announce_shares(members, to=[silo])
    for members in (EVERYBODY, survivors):
        told = [silo for silo in survivors if lists[silo] == members]
        attempt.announce_survivors(survivors, members=members, to=told)
        attempt.collude(survivors, members=members)
        attempt.request(survivors, members=members, to=told)


def check_halves(federation: Federation) -> None:
    assert not federation.knowledge.exposures(), "the masks of silos that were told different lists cancel"
    # Five honest silos and two colluders are t; the two that were told the other list are not.
    for silo in federation.honest:
        expected: list[Any] = [FaultyCoordinator] if silo in FEW else []
        assert refusals(federation.silos[silo]) == expected
    assert not named(federation)


def test_masks_do_not_cancel_between_two_lists() -> None:
    federation = Federation(10, colluders=COLLUDERS)
    half_and_half(federation)
    check_halves(federation)


def test_masks_do_not_cancel_between_two_lists_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "secagg.masking.transcript.round_id", lambda session, _share_sets: digest("round", session)
    )
    federation = Federation(10, colluders=COLLUDERS)
    half_and_half(federation)
    with pytest.raises(AssertionError, match="told different lists cancel"):
        check_halves(federation)


# --- what is forwarded is what was sent -------------------------------------------------------------------

Boxes = tuple[tuple[SiloId, bytes, bytes], ...]
ShareSets = tuple[tuple[SiloId, ShareSet], ...]


def flipped(box: bytes) -> bytes:
    return box[:-1] + bytes([box[-1] ^ 1])


BOXES: dict[str, Callable[[Boxes], Boxes]] = {
    "a bit flipped": lambda b: ((b[0][0], flipped(b[0][1]), b[0][2]), *b[1:]),
    "kinds swapped": lambda b: ((b[0][0], b[0][2], b[0][1]), *b[1:]),
    "dealers swapped": lambda b: ((b[0][0], *b[1][1:]), (b[1][0], *b[0][1:]), *b[2:]),
    "one missing": lambda b: b[1:],
    "one twice": lambda b: (*b, b[0]),
    "one of its own": lambda b: (*b, (VICTIM, *b[0][1:])),
}
SHARE_SETS: dict[str, Callable[[ShareSets, ShareSets], ShareSets]] = {
    "its own of another attempt": lambda now, before: (before[0], *now[1:]),
    "one without its keys": lambda now, before: (*now, before[-1]),
    "in another order": lambda now, _: now[::-1],
    "one twice": lambda now, _: (*now, now[-1]),
}
"""The victim is the first; the last of the attempt before advertises nothing in this one."""


def forwarded(
    boxes: Callable[[Boxes], Boxes], share_sets: Callable[[ShareSets, ShareSets], ShareSets]
) -> Any:
    """Change what the victim is told of the dealt shares; return its federation and its reply."""
    federation = Federation(5)
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    before, now = Attempt(liar, terms, 1), Attempt(liar, terms, 2)
    before.advertise()
    before.announce_keys()
    now.advertise("abcd")
    now.announce_keys()
    old, new = (tuple((silo, d.share_set) for silo, d in a.dealt.items()) for a in (before, now))
    sealed = tuple(
        (dealer, seed, mask)
        for dealer, sent in now.dealt.items()
        for recipient, seed, mask in sent.boxes
        if recipient == VICTIM
    )
    return federation, liar.tell(VICTIM, SharesAnnounced(share_sets(new, old), boxes(sealed)))


@pytest.mark.parametrize("tampering", [*BOXES, *SHARE_SETS])
def test_what_is_forwarded_is_what_was_sent(tampering: str) -> None:
    federation, reply = forwarded(
        BOXES.get(tampering, lambda b: b), SHARE_SETS.get(tampering, lambda now, _: now)
    )
    assert not isinstance(reply, BoxReport), "an honest dealer is reported"
    assert reply == Refused("faulty coordinator", (), 2)
    assert not federation.knowledge.uploads
    assert not named(federation)


def test_what_is_forwarded_is_what_was_sent_control() -> None:
    _, reply = forwarded(lambda b: b, lambda now, _: now)
    assert isinstance(reply, MaskedInput)


@pytest.mark.parametrize("tampering", ["a bit flipped", "kinds swapped", "dealers swapped"])
def test_what_is_forwarded_is_what_was_sent_mutant(monkeypatch: pytest.MonkeyPatch, tampering: str) -> None:
    """Without the digests of boxes, c + 1 changed ones have an honest dealer left out."""
    monkeypatch.setattr("secagg.masking.transcript.box_digest", lambda _: bytes(32))
    with pytest.raises(AssertionError, match="an honest dealer is reported"):
        test_what_is_forwarded_is_what_was_sent(tampering)
