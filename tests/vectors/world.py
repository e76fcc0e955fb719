"""One honest attempt of four silos, deterministic, written down message by message.

Silo d is lost before its vector arrives, so that both kinds of shares are revealed. The product's own
sessions run; only identities and randomness are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from secagg.cohort import Cohort
from secagg.errors import SecaggError
from secagg.fixedpoint import plan_sum
from secagg.hazmat.identity import IdentityKey
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.silo import MaskingSilo
from secagg.messages import (
    DealerEvidence,
    FromCoordinator,
    FromSilo,
    KeysAnnounced,
    RoundOpened,
    ShareKeys,
    TrainingOpened,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.roster import Roster
from secagg.survivors import Locks
from secagg.terms import MaskingParameters, Terms, training_digest
from tests.vectors.notation import CounterSource, fixed

M = TypeVar("M", bound=FromSilo)

SILOS = ("a", "b", "c", "d")
LOST = "d"
LENGTH = 3
ATTEMPT = 1
SECONDS = 60.0
DATA_SET = "default"

IDENTITIES = {
    silo: IdentityKey.from_private_bytes(fixed(f"identity {silo}")) for silo in (*SILOS, "stranger")
}
ROSTER = Roster.of({silo: IDENTITIES[silo].public for silo in SILOS})
COHORT = Cohort.of(len(SILOS))
TERMS = Terms(
    federation="vectors",
    job="sum",
    round=1,
    kind="sum",
    release=1,
    roster=ROSTER.digest,
    base=fixed("base"),
    scheme=MaskingParameters(COHORT),
    encoding=plan_sum(LENGTH, clip=8.0, cohort=len(SILOS)),
    training=(("learning rate", 0.5), ("optimiser", "sgd")),
)
TRAINING = training_digest(TERMS)
OPENED = TrainingOpened(TERMS, SECONDS)
VECTORS = {
    silo: TERMS.encoding.encode({"sum": np.array([slot + 1, -0.5, 8.0])}) for slot, silo in enumerate(SILOS)
}


@dataclass(frozen=True)
class Sent:
    """A message of a silo, as the coordinator receives it."""

    sender: SiloId
    message: FromSilo


@dataclass(frozen=True)
class Advance:
    """The coordinator looks at its clock."""

    now: float


Event = Sent | Advance


@dataclass
class Transcript:
    """One attempt: what the coordinator was given, what each silo was sent, and what each silo drew."""

    events: list[Event] = field(default_factory=list)
    received: dict[SiloId, list[FromCoordinator]] = field(default_factory=lambda: {s: [] for s in SILOS})
    random: dict[SiloId, CounterSource] = field(default_factory=dict)
    failure: SecaggError | None = None
    evidence: tuple[DealerEvidence, ...] = ()

    def sent(self, sender: SiloId, kind: type[M]) -> M:
        """Return the message of ``kind`` that ``sender`` sent."""
        return next(event.message for _, event in self._sent(sender) if isinstance(event.message, kind))

    def position(self, sender: SiloId, kind: type[M]) -> int:
        """Return how many events come before that message."""
        return next(at for at, event in self._sent(sender) if isinstance(event.message, kind))

    def _sent(self, sender: SiloId) -> Iterator[tuple[int, Sent]]:
        for at, event in enumerate(self.events):
            if isinstance(event, Sent) and event.sender == sender:
                yield at, event


def coordinator() -> MaskingCoordinator:
    """Return the coordinator of the attempt, not yet opened."""
    return MaskingCoordinator(ROSTER, terms=TERMS, attempt=ATTEMPT, seconds=SECONDS, threads=1)


def silo(name: SiloId, random: CounterSource, *, locks: Locks | None = None) -> MaskingSilo:
    """Return one silo of the attempt."""
    return MaskingSilo(
        name,
        identity=IDENTITIES[name],
        roster=ROSTER,
        terms=TERMS,
        vector=VECTORS[name],
        locks=Locks() if locks is None else locks,
        data_set=DATA_SET,
        random=random,
        threads=1,
    )


def run(*, lost: SiloId = LOST, shares: ShareKeys | None = None) -> Transcript:
    """Run the attempt; ``shares`` stands in for what ``lost`` would have dealt before it is lost."""
    transcript = Transcript()
    transcript.random = {name: CounterSource(f"silo {name}") for name in SILOS}
    silos = {name: silo(name, transcript.random[name]) for name in SILOS}
    at_coordinator = coordinator()
    outbox = at_coordinator.open(0.0).output
    now = 0.0
    while outbox:
        for name, message in outbox.items():
            transcript.received[name].append(message)
            if name == lost and not isinstance(message, RoundOpened | KeysAnnounced):
                continue
            reply = silos[name].receive(message).output
            if reply is None:
                continue
            if name == lost and isinstance(reply, ShareKeys) and shares is not None:
                reply = shares
            at_coordinator.receive(name, reply)
            transcript.events.append(Sent(name, reply))
        if at_coordinator.outcome is not None:
            break
        if at_coordinator.waiting:
            now = at_coordinator.deadline or now
        transcript.events.append(Advance(now))
        try:
            outbox = at_coordinator.advance(now).output
        except SecaggError as error:
            transcript.failure, transcript.evidence = error, at_coordinator.evidence
            break
    return transcript


HONEST = run()


def vector_of(size: int, *, word: type[np.uint32 | np.uint64] = np.uint32, seed: str = "noise") -> Payload:
    """Return a payload of fixed noise."""
    return Payload.of(np.frombuffer(fixed(seed, size * np.dtype(word).itemsize), word).copy())
