"""Attack ``repeat_ids``: reach a threshold by naming a silo several times, or a silo itself as lost.

The victim and one colluder fill every list: of keys, of share sets, of survivors, of signatures. Whoever
counts entries finds t of them; there are two silos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secagg.cohort import Cohort
from secagg.errors import FaultyCoordinator
from secagg.hazmat.identity import verify
from secagg.messages import (
    ConsistencyCheck,
    KeysAnnounced,
    MaskedInput,
    ShareKeys,
    SharesAnnounced,
    SurvivorsAnnounced,
    UnmaskingRequested,
)
from secagg.names import SiloId
from secagg.records import Released, SetSigned
from secagg.survivors import SURVIVORS, check_survivors
from tests.adversary.harness import Attempt, Federation, Liar, named, refusals

VICTIM, COLLUDER = "a", "e"
TWO = (VICTIM, COLLUDER)
FOUR = (VICTIM, COLLUDER, COLLUDER, COLLUDER)


def attack(federation: Federation) -> list[str]:
    """Fill every list with two silos; return what left the victim, by type."""
    assert federation.cohort.t == len(FOUR)
    liar, terms = Liar(federation), federation.terms()
    left: list[str] = []

    def started(number: int) -> Attempt:
        liar.train(terms)
        attempt = Attempt(liar, terms, number)
        attempt.advertise()
        return attempt

    first = started(1)
    bundles = tuple((silo, first.bundles[silo]) for silo in FOUR)
    left += [ShareKeys.__name__] * len(liar.ask([VICTIM], KeysAnnounced(bundles), ShareKeys))

    second = started(2)
    second.announce_keys()
    share_sets = tuple((silo, second.dealt[silo].share_set) for silo in FOUR)
    boxes = tuple(
        (COLLUDER, seed, mask) for silo, seed, mask in second.dealt[COLLUDER].boxes if silo == VICTIM
    )
    message = SharesAnnounced(share_sets, boxes)
    left += [MaskedInput.__name__] * len(liar.ask([VICTIM], message, MaskedInput))

    third = started(3)
    third.announce_keys()
    third.announce_shares()
    everybody = federation.roster.silos
    signed = liar.ask(everybody, SurvivorsAnnounced(third.round_id(), FOUR), ConsistencyCheck)
    left += [ConsistencyCheck.__name__] * (VICTIM in signed)
    signatures = tuple((silo, signed[silo].signature) for silo in TWO if silo in signed) * 2
    for silo in everybody:
        liar.tell(silo, UnmaskingRequested(third.round_id(), TWO, signatures))

    # A sound set, which one silo signed, asked for as if t had.
    fourth = started(4)
    fourth.announce_keys()
    fourth.announce_shares()
    own = fourth.announce_survivors(everybody, to=[VICTIM])
    if own:
        repeated = tuple((silo, reply.signature) for silo, reply in own.items()) * len(FOUR)
        liar.tell(VICTIM, UnmaskingRequested(fourth.round_id(), everybody, repeated))
        left += ["Unmasking"] * any(
            isinstance(record, Released) and record.round_id == fourth.round_id()
            for record in federation.silos[VICTIM].records
        )
    return left


def check(federation: Federation, left: list[str]) -> None:
    recovered = federation.knowledge.vector_of(VICTIM)
    assert recovered is None or not np.array_equal(recovered, federation.vector(VICTIM)), (
        "the victim's vector"
    )
    for message in ("ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmasking"):
        assert message not in left, f"{message} left"
    assert not any(isinstance(record, Released) for record in federation.silos[VICTIM].records)
    signed = [r for r in federation.silos[VICTIM].records if isinstance(r, SetSigned)]
    assert [record.survivors for record in signed] == [federation.roster.silos]
    assert refusals(federation.silos[VICTIM]).count(FaultyCoordinator) == 4
    assert not named(federation)


def test_repeat_ids() -> None:
    federation = Federation(5, colluders=COLLUDER)
    check(federation, attack(federation))


def members_by_entries(self: Any, announced: tuple[tuple[SiloId, Any], ...], _what: str) -> dict[SiloId, Any]:
    if len(announced) < self._cohort.t:
        raise FaultyCoordinator("too few entries")
    return dict(announced)


def survivors_by_entries(
    _silo: SiloId, survivors: tuple[SiloId, ...], _members: frozenset[SiloId], cohort: Cohort
) -> None:
    if len(survivors) < cohort.min_survivors:
        raise FaultyCoordinator("too few entries")


def signatures_by_entries(
    roster: Any, round_id: bytes, survivors: tuple[SiloId, ...], signatures: tuple[tuple[SiloId, bytes], ...]
) -> list[SiloId]:
    return [
        silo
        for silo, signature in signatures
        if verify(roster.key(silo), signature, SURVIVORS, round_id, survivors)
    ]


MEMBERS = ("secagg.masking.silo.MaskingSilo._members", members_by_entries)
SET = ("secagg.masking.silo.check_survivors", survivors_by_entries)
SIGNATURES = ("secagg.masking.silo.signed_survivors", signatures_by_entries)


@pytest.mark.parametrize(
    ("mutants", "succeeds"),
    [
        ([MEMBERS], "MaskedInput left"),
        ([SET], "ConsistencyCheck left"),
        ([SIGNATURES], "Unmasking left"),
        # Each of the two is enough to keep the vector closed.
        ([SET, SIGNATURES], "the victim's vector"),
    ],
)
def test_repeat_ids_mutant(
    monkeypatch: pytest.MonkeyPatch, mutants: list[tuple[str, Callable[..., Any]]], succeeds: str
) -> None:
    for defence, mutant in mutants:
        monkeypatch.setattr(defence, mutant)
    federation = Federation(5, colluders=COLLUDER)
    left = attack(federation)
    with pytest.raises(AssertionError, match=succeeds):
        check(federation, left)


def lost_in_its_own_eyes(federation: Federation) -> int:
    """Tell a silo that it is lost itself, and ask it to answer for the others; return what left it."""
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked()
    others = tuple(silo for silo in federation.roster.silos if silo != VICTIM)
    attempt.announce_survivors(others)
    signed = attempt.announce_survivors(others, to=[VICTIM])
    return len(signed) + len(attempt.request(others, to=[VICTIM]))


def test_only_survivors_answer() -> None:
    federation = Federation(5, colluders=COLLUDER)
    assert lost_in_its_own_eyes(federation) == 0
    [error] = federation.silos[VICTIM].errors
    assert isinstance(error, FaultyCoordinator)
    assert "lacks this silo" in str(error)


def test_only_survivors_answer_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*SET)
    federation = Federation(5, colluders=COLLUDER)
    assert lost_in_its_own_eyes(federation) == 2  # A signature, and a share of its own mask key.
    session = next(iter(federation.knowledge.sessions))
    assert VICTIM in federation.knowledge.shares_of(session, VICTIM, "mask")


# --- a set that is smaller than it looks -------------------------------------------------------------------

PADDED, SMALL = "abcef", "abce"
"""Five names of which one dealt nothing, and t names where k_min + c are more."""


def opened_with(survivors: str) -> Federation:
    """Four honest silos are to be in every sum; ask for one with three."""
    federation = Federation(6, colluders=COLLUDER, k_min=4)
    assert (federation.cohort.t, federation.cohort.min_survivors) == (4, 5)
    liar, terms = Liar(federation), federation.terms()
    liar.train(terms)
    attempt = Attempt(liar, terms)
    attempt.until_masked("abcde")
    attempt.finish(survivors)
    return federation


def check_size(federation: Federation, text: str) -> None:
    assert federation.knowledge.smallest(below=federation.cohort.k_min) is None, "fewer than k_min silos"
    for silo in "abc":
        [error] = federation.silos[silo].errors
        assert isinstance(error, FaultyCoordinator)
        assert text in str(error)


def test_a_set_is_as_large_as_it_looks() -> None:
    check_size(opened_with(PADDED), "names silos that shared no keys")
    check_size(opened_with(SMALL), "has 4 silos; 5 = max(t, k_min + c) are needed")


def strangers_count(
    silo: SiloId, survivors: tuple[SiloId, ...], members: frozenset[SiloId], cohort: Cohort
) -> None:
    check_survivors(silo, survivors, members | frozenset(survivors), cohort)


def t_is_enough(
    silo: SiloId, survivors: tuple[SiloId, ...], members: frozenset[SiloId], cohort: Cohort
) -> None:
    check_survivors(silo, survivors, members, replace(cohort, k_min=2))


@pytest.mark.parametrize(("survivors", "mutant"), [(PADDED, strangers_count), (SMALL, t_is_enough)])
def test_a_set_is_as_large_as_it_looks_mutant(
    monkeypatch: pytest.MonkeyPatch, survivors: str, mutant: Callable[..., Any]
) -> None:
    monkeypatch.setattr("secagg.masking.silo.check_survivors", mutant)
    federation = opened_with(survivors)
    with pytest.raises(AssertionError, match="fewer than k_min silos"):
        check_size(federation, "")
