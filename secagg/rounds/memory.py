"""What the coordinator must still know of its attempts when its process ended, and in the rounds after."""

from __future__ import annotations

import msgspec

from secagg.masking.past import PastAttempt
from secagg.messages import DealerEvidence
from secagg.names import SiloId
from secagg.terms import Counter, Digest, Name

MAX_PAST_ATTEMPTS = 16
"""A message that is later than this is wrong after all; each costs a signature check."""


class Asked(msgspec.Struct, frozen=True):
    """A round whose survivor set silos were asked to sign.

    Attributes:
        round_id: what names it.
        survivors: the set. Those that signed it take part in no other one, unless t silos void the round.
    """

    round_id: Digest
    survivors: tuple[Name, ...]


class Memory(msgspec.Struct, frozen=True):
    """What outlives an attempt.

    Attributes:
        attempt: number of the last attempt of this round; 0 before the first.
        asked: of the attempts of this round, oldest first.
        evidence: against dealers of this round.
        reports: (dealer, who reported its boxes) of this round.
        past: the last attempts of all rounds, so that what comes late is not taken for wrong.
        encrypted: the same of attempts over ciphertexts, by their round ids.
        release: of this round, from 1; a later one has noise of its own, which silos are charged for.
    """

    attempt: int = 0
    asked: tuple[Asked, ...] = ()
    evidence: tuple[DealerEvidence, ...] = ()
    reports: tuple[tuple[Name, Name], ...] = ()
    past: tuple[PastAttempt, ...] = ()
    encrypted: tuple[Digest, ...] = ()
    release: Counter = 1

    def next_round(self) -> Memory:
        """Return what the next round must know."""
        return Memory(past=self.past, encrypted=self.encrypted)

    def next_release(self) -> Memory:
        """Return what another release of this round must know: no lock of the last one binds it."""
        return msgspec.structs.replace(self, asked=(), release=self.release + 1)

    def reporters(self, dealer: SiloId) -> frozenset[SiloId]:
        """Return who reported ``dealer``."""
        return frozenset(reporter for reported, reporter in self.reports if reported == dealer)
