"""One honest attempt of four silos with noise in the terms, deterministic: participants with ledgers.

As in ``world``, silo d is lost before its vector arrives. The vectors are given, noise in them, as a silo has
them in its cache after a crash: what was charged and drawn is not drawn again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from msgspec.structs import replace

from secagg.fixedpoint import Encoding, Segment
from secagg.masking.coordinator import MaskingCoordinator
from secagg.messages import FromCoordinator, KeysAnnounced, RoundOpened, SurvivorsAnnounced, TrainingOpened
from secagg.names import IntegerVector, RandomSource, SiloId
from secagg.policy import Policy
from secagg.privacy.heads import LedgerHead, sign_head
from secagg.privacy.ledger import Ledger
from secagg.records import HeadHeld, SiloRecord
from secagg.roster import Roster
from secagg.rounds.silo import Participant
from secagg.session import Aggregate
from secagg.terms import SiloNoise, Terms, training_digest
from tests.federations import Work
from tests.vectors import world
from tests.vectors.notation import CounterSource, fixed
from tests.vectors.world import IDENTITIES, ROSTER, SILOS

NOISE = SiloNoise(l2_clip_norm=1.0, share=64.0, delta=1e-5)
TERMS = replace(
    world.TERMS,
    job="noise",
    kind="train",
    encoding=Encoding(32, len(SILOS), (Segment("update", world.LENGTH, 4.0, 8),)),
    privacy=NOISE,
)
OPENED = TrainingOpened(TERMS, world.SECONDS)
VECTORS = {
    silo: (np.array([3, -70, 141], np.int32) * (slot + 1)).view(np.uint32) for slot, silo in enumerate(SILOS)
}
ENTRIES = {"a": 3, "b": 5, "c": 8, "d": 2}
"""Of each ledger in this round; in the one before, each had one less."""


@dataclass(frozen=True)
class Kept:
    """A ledger as ``Participant`` sees it once its vector is charged: how far it is."""

    head: tuple[int, bytes]

    def charged(self, training: bytes) -> bool:
        return True


def chain_of(silo: SiloId, entries: int) -> bytes:
    return fixed(f"chain of {silo} after {entries}")


def head(
    silo: SiloId,
    entries: int,
    round_id: bytes,
    *,
    data_set: str = world.DATA_SET,
    chain: bytes | None = None,
    by: SiloId | None = None,
) -> LedgerHead:
    """Return what a silo says of its ledger; ``by`` signs it in its name."""
    at = chain_of(silo, entries) if chain is None else chain
    return sign_head(IDENTITIES[by or silo], silo, data_set, entries=entries, chain=at, context=round_id)


HELD = tuple(HeadHeld(silo, head(silo, ENTRIES[silo] - 1, fixed("round before"))) for silo in SILOS)
"""What every silo holds from the round before."""


def participant(
    silo: SiloId,
    *,
    identity: Any,
    roster: Roster,
    terms: Terms,
    vector: IntegerVector,
    ledger: tuple[int, bytes] | None,
    data_set: str,
    records: Iterable[SiloRecord],
    random: RandomSource,
) -> tuple[Participant, Work]:
    """Return a silo whose vector for ``terms`` is charged and cached, and its workload."""
    work = Work(vector, terms.base)
    made = Participant(
        silo,
        identity=identity,
        roster=roster,
        policy=Policy(),
        workload=work,
        ledger=None if ledger is None else cast(Ledger, Kept(ledger)),
        data_set=data_set,
        records=records,
        cache={} if ledger is None else {training_digest(terms): vector},
        random=random,
        threads=1,
    )
    return made, work


@dataclass(frozen=True)
class Attempt:
    """What silo b was sent and what it drew."""

    received: list[FromCoordinator]
    random: CounterSource
    outcome: Aggregate

    @property
    def announced(self) -> SurvivorsAnnounced:
        return next(message for message in self.received if isinstance(message, SurvivorsAnnounced))


@cache
def run() -> Attempt:
    """Run the attempt."""
    random = {silo: CounterSource(f"noised silo {silo}") for silo in SILOS}
    silos = {}
    for silo in SILOS:
        silos[silo], _ = participant(
            silo,
            identity=IDENTITIES[silo],
            roster=ROSTER,
            terms=TERMS,
            vector=VECTORS[silo],
            ledger=(ENTRIES[silo], chain_of(silo, ENTRIES[silo])),
            data_set=world.DATA_SET,
            records=HELD,
            random=random[silo],
        )
    received: list[FromCoordinator] = [OPENED]
    for silo in SILOS:
        silos[silo].receive(OPENED)
    coordinator = MaskingCoordinator(ROSTER, terms=TERMS, attempt=1, seconds=world.SECONDS, threads=1)
    outbox, now = coordinator.open(0.0).output, 0.0
    while outbox:
        for silo, message in outbox.items():
            if silo == "b":
                received.append(message)
            if silo == world.LOST and not isinstance(message, RoundOpened | KeysAnnounced):
                continue
            reply = silos[silo].receive(message).output
            if reply is not None:
                coordinator.receive(silo, reply)
        if coordinator.outcome is not None:
            return Attempt(received, random["b"], coordinator.outcome)
        if coordinator.waiting:
            now = coordinator.deadline or now
        outbox = coordinator.advance(now).output
    raise AssertionError("an honest attempt has a sum")
