"""Attack ``roster_change``: open a second sum over a base by way of another pinned roster.

A lock outlives a change of the roster. Voids count against the silos that could have released, and a share's
index is a slot: under another roster new members would void rounds that they never could have released, and
the honest shares of an old slot would look like a wrong sharing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest

from secagg import wire
from secagg.cohort import Cohort
from secagg.fixedpoint import plan_sum
from secagg.hazmat.identity import IdentityKey
from secagg.messages import (
    DealerEvidence,
    Opened,
    Opening,
    RoundOpened,
    ShareKeys,
    ShareSet,
    TrainingOpened,
    Unmasking,
)
from secagg.names import IntegerVector, SiloId
from secagg.payload import Frame, Payload
from secagg.policy import Policy
from secagg.records import LockLifted, LockMoved, SetSigned, SiloRecord, decode_silo_record
from secagg.roster import Roster
from secagg.rounds.coordinator import RoundCoordinator
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.simulation import SimulatedSilo, run_round
from secagg.survivors import sign_void
from secagg.terms import MaskingParameters, Terms, training_digest

BASE = bytes(32)
IDENTITIES = {silo: IdentityKey.generate() for silo in "abcdefghij"}


class _Vector:
    """The workload of a silo that holds its vector and the base already."""

    def accept(self, terms: Terms) -> None:
        pass

    def holds(self, terms: Terms) -> bytes | None:
        return BASE

    def base_size(self, terms: Terms) -> int:
        return 0

    def base(self, terms: Terms) -> Payload | None:
        return None

    def adopt(self, terms: Terms, base: Payload) -> None:
        raise NotImplementedError

    def confirm(self, terms: Terms) -> None:
        pass

    def vector(self, terms: Terms) -> IntegerVector:
        return np.arange(3, dtype=np.uint32)

    def apply(self, terms: Terms, aggregate: Aggregate, *, faulty: tuple[SiloId, ...] = ()) -> Opened:
        return Opened(training_digest(terms), terms.base, aggregate.survivors, faulty)

    def said(self, terms: Terms) -> None:
        pass


@dataclass
class _Overheard:
    """What a coordinator keeps: every share set and every opening of one round."""

    share_sets: dict[SiloId, ShareSet] = field(default_factory=dict)
    openings: dict[SiloId, dict[SiloId, Opening]] = field(default_factory=dict)


class _Tapped(SimulatedSilo):
    def __init__(self, silo: SiloId, roster: Roster, heard: _Overheard) -> None:
        super().__init__(lambda records: participant(silo, roster, records))
        self._silo = silo
        self._heard = heard

    def deliver(self, frame: Frame) -> Frame | None:
        reply = super().deliver(frame)
        match None if reply is None else wire.decode_from_silo(*reply):
            case ShareKeys() as sent:
                self._heard.share_sets[self._silo] = sent.share_set
            case Unmasking() as sent:
                self._heard.openings[self._silo] = dict(sent.openings)
        return reply


def roster_of(silos: Iterable[SiloId]) -> Roster:
    return Roster.of({silo: IDENTITIES[silo].public for silo in silos})


def terms_for(roster: Roster, job: str) -> Terms:
    return Terms(
        federation="federation",
        job=job,
        round=1,
        kind="sum",
        release=1,
        roster=roster.digest,
        base=BASE,
        scheme=MaskingParameters(Cohort.of(roster.n)),
        encoding=plan_sum(3, clip=8.0, cohort=roster.n),
    )


def participant(silo: SiloId, roster: Roster, records: Iterable[SiloRecord]) -> Participant:
    return Participant(
        silo, identity=IDENTITIES[silo], roster=roster, policy=Policy(), workload=_Vector(), records=records
    )


def opened_round(roster: Roster) -> tuple[_Overheard, dict[SiloId, list[SiloRecord]]]:
    """Run one honest round; return what the coordinator heard and every silo's journal."""
    heard = _Overheard()
    silos = {silo: _Tapped(silo, roster, heard) for silo in roster.silos}
    run_round(RoundCoordinator(roster, terms=terms_for(roster, "first")), silos)
    return heard, {silo: [decode_silo_record(line) for line in s.journal] for silo, s in silos.items()}


def reopened(journal: Sequence[SiloRecord], roster: Roster, opened: RoundOpened) -> Iterator[SiloRecord]:
    """Give silo b its journal, the roster it pins now, and a second attempt; return what it would sync."""
    silo = participant("b", roster, journal)
    silo.receive(TrainingOpened(terms_for(roster, "second"), 60.0))
    return (record for record in silo.receive(opened).records)


def signed(journal: Sequence[SiloRecord]) -> SetSigned:
    return next(record for record in journal if isinstance(record, SetSigned))


def evidence_against_a(heard: _Overheard, lock: SetSigned) -> DealerEvidence:
    openings = tuple((silo, heard.openings[silo]["a"]) for silo in islice(heard.openings, lock.threshold))
    return DealerEvidence("a", lock.session, heard.share_sets["a"], "seed", openings)


def check_honest_shares(order: str) -> None:
    """Honest shares convict nobody, whatever the order of slots is now."""
    heard, journals = opened_round(roster_of("abcd"))
    now = roster_of(order)
    digest = training_digest(terms_for(now, "second"))
    opened = RoundOpened(digest, 1, 60.0, (), (evidence_against_a(heard, signed(journals["b"])),))
    moved = any(isinstance(record, LockMoved) for record in reopened(journals["b"], now, opened))
    assert not moved, "an honest dealer is convicted"


def check_new_members() -> None:
    """New members cannot void what old ones released."""
    _, journals = opened_round(roster_of("abcd"))
    now = roster_of("abcdefghij")
    round_id = signed(journals["b"]).round_id
    # Six honest newcomers, who never released it, and one old silo that colludes: t of the new roster.
    voids = tuple(sign_void(IDENTITIES[silo], silo, round_id) for silo in "aefghij")
    assert len(voids) == Cohort.of(now.n).t
    opened = RoundOpened(training_digest(terms_for(now, "second")), 1, 60.0, voids)
    lifted = any(isinstance(record, LockLifted) for record in reopened(journals["b"], now, opened))
    assert not lifted, "strangers lift a lock"


def test_roster_change() -> None:
    check_new_members()
    for order in ("abcd", "bacd", "dcba"):
        check_honest_shares(order)


@pytest.mark.parametrize(
    ("defence", "mutant", "found"),
    [
        (
            "secagg.survivors.Locks._held_under",
            lambda locks, key, _roster: locks.lock(key),
            "strangers lift a lock",
        ),
        ("secagg.rounds.silo.proves", lambda *_, **__: True, "an honest dealer is convicted"),
    ],
)
def test_roster_change_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., object], found: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=found):
        test_roster_change()


def test_voids_of_the_same_roster_still_lift() -> None:
    _, journals = opened_round(roster_of("abcd"))
    now = roster_of("abcd")
    round_id = signed(journals["b"]).round_id
    voids = tuple(sign_void(IDENTITIES[silo], silo, round_id) for silo in "acd")
    opened = RoundOpened(training_digest(terms_for(now, "second")), 1, 60.0, voids)
    assert any(isinstance(record, LockLifted) for record in reopened(journals["b"], now, opened))
