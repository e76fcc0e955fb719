"""What a silo's rounds cost its data set, and what it makes of the ledgers of its peers.

A vector is charged as it leaves for the first time, and its head goes with it; a set is signed only if no
ledger in it went back. Pure, like the participant that asks it: the ledger syncs what it is charged with.

Source: "Ledger" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from secagg.errors import FaultyCoordinator, ParameterError, PolicyRefused, SecaggError
from secagg.hazmat.identity import IdentityKey
from secagg.heads import Heads, LedgerRefused
from secagg.messages import (
    EncryptedInput,
    FromCoordinator,
    MaskedInput,
    PlainInput,
    SurvivorsAnnounced,
    UploadsAnnounced,
)
from secagg.names import SiloId
from secagg.privacy.charge import events_of
from secagg.privacy.events import Event
from secagg.privacy.heads import sign_head
from secagg.privacy.ledger import Ledger
from secagg.records import HeadHeld, SiloRecord
from secagg.roster import Roster
from secagg.terms import Terms, training_digest

Input: TypeAlias = MaskedInput | EncryptedInput | PlainInput
"""What takes a vector out of its silo."""


class Spending:
    """A silo's ledger in its rounds, and the heads of others.

    Args:
        silo: its name in ``roster``.
        identity: its signing key.
        roster: the pinned roster.
        ledger: of what its data set spent; None where none is kept.
        data_set: the configured name of its data.
        records: its journal so far, oldest first.
    """

    def __init__(
        self,
        silo: SiloId,
        *,
        identity: IdentityKey,
        roster: Roster,
        ledger: Ledger | None,
        data_set: str,
        records: Iterable[SiloRecord],
    ) -> None:
        self._silo = silo
        self._identity = identity
        self._roster = roster
        self._ledger = ledger
        self._data_set = data_set
        self._heads = Heads(records)

    def apply(self, record: SiloRecord) -> None:
        """Take a record that is about to be synced."""
        self._heads.apply(record)

    def check(self, terms: Terms) -> None:
        """Look before a vector is computed whether it may be.

        Raises:
            PrivacyBudgetExhausted: the budget does not hold it.
            PolicyRefused: there is no ledger to charge; or the vector of these terms left, and is lost.
            FaultyCoordinator: no account can be made of these terms.
        """
        ledger = self._ledger
        if ledger is None:
            if terms.privacy is not None:
                raise PolicyRefused("privacy", "this silo keeps no ledger of what its data set spent")
            return
        if terms.privacy is not None and ledger.charged(training_digest(terms)):
            # Its noise would be another one. The peers' shares would stay as they are, so that two sums
            # would show them, and this silo's vector, with less noise than either was charged for.
            raise PolicyRefused(
                "release",
                "the vector of this round left and is kept no more; a new one needs another release",
            )
        try:
            ledger.check(_cost(terms))
        except (ArithmeticError, ValueError, MemoryError) as error:
            if isinstance(error, SecaggError):
                raise
            raise FaultyCoordinator("no account can be made of the noise in these terms") from error

    def leave(self, terms: Terms, reply: Input) -> Input:
        """Charge the vector in ``reply``, if it was not, and return it with the head of the ledger.

        Raises:
            PrivacyBudgetExhausted: the budget does not hold it any more; it must stay here.
            StateFault: it could not be written down; it must stay here.
        """
        ledger = self._ledger
        if ledger is None:
            return reply
        training = training_digest(terms)
        if not ledger.charged(training):  # Otherwise it is the same vector, noise included.
            ledger.charge(
                federation=terms.federation,
                job=terms.job,
                round=terms.round,
                release=terms.release,
                training=training,
                events=_cost(terms),
            )
        if isinstance(reply, PlainInput):
            return reply
        entries, chain = ledger.head
        head = sign_head(
            self._identity,
            self._silo,
            self._data_set,
            entries=entries,
            chain=chain,
            context=reply.round_id,
        )
        return msgspec.structs.replace(reply, head=head)

    def take(self, message: FromCoordinator) -> tuple[HeadHeld, ...]:
        """Return a record for each ledger in an announced set that went on.

        Raises:
            LedgerRefused: one went back; the set must not be signed.
            FaultyCoordinator: heads are missing, or not of this round.
        """
        match message:
            case SurvivorsAnnounced():
                members = message.survivors
            case UploadsAnnounced():
                members = tuple(silo for silo, _ in message.uploads)
            case _:
                return ()
        # Whoever keeps a ledger asks for those of all whose input is in the sum, with noise and without.
        needed = () if self._ledger is None else members
        try:
            return self._heads.take(self._roster, message.heads, needed=needed, context=message.round_id)
        except LedgerRefused as refused:
            for record in refused.records:
                self._heads.apply(record)
            raise


def _cost(terms: Terms) -> tuple[Event, ...]:
    try:
        return events_of(terms)
    except ParameterError as error:
        raise FaultyCoordinator(f"no round has these terms: {error}") from error
