"""What a silo holds of the ledgers of its peers: pure state, rebuilt from its journal like the locks.

Source: "Ledger" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from secagg.errors import FaultyCoordinator, FaultySilo, PolicyRefused
from secagg.messages import ConsistencyCheck
from secagg.names import SiloId
from secagg.privacy.heads import LedgerHead, head_fault
from secagg.records import HeadHeld, SiloRecord
from secagg.roster import Roster
from secagg.terms import Terms


class LedgerRefused(PolicyRefused):
    """A peer's ledger of what it spent is not the one that it was.

    Attributes:
        silos: whose.
    """

    def __init__(self, silo: SiloId, fault: str) -> None:
        super().__init__(
            "ledger",
            f"the privacy ledger of {silo} was put back to an older state: {fault}; its operator must put "
            "the newest copy in its place. Nothing was released here",
        )
        self.silos = (silo,)


def check_sent(roster: Roster, terms: Terms, silo: SiloId, message: ConsistencyCheck) -> None:
    """Check the head that a silo sends to the coordinator, so that no peer need doubt the coordinator for it.

    Raises:
        FaultySilo: it is missing where noise is charged to a ledger, or not signed for this round.
    """
    if message.head is None:
        if terms.privacy is not None:
            raise FaultySilo(silo, "the head of its privacy ledger is missing")
    elif head_fault(roster, silo, message.head, None, context=message.round_id) is not None:
        raise FaultySilo(silo, "the head of its privacy ledger is not signed for this round")


def sent_heads(checks: Mapping[SiloId, ConsistencyCheck]) -> tuple[tuple[SiloId, LedgerHead], ...]:
    """Return the heads that came with the signatures, as they are announced."""
    return tuple((silo, check.head) for silo, check in checks.items() if check.head is not None)


class Heads:
    """The last head of each peer and data set.

    Args:
        records: a silo's journal so far, oldest first.

    Guarantees:
        A head that is accepted is never behind one that was accepted before, also after a restart.
    """

    def __init__(self, records: Iterable[SiloRecord] = ()) -> None:
        self._held: dict[tuple[SiloId, bytes], LedgerHead] = {}
        for record in records:
            self.apply(record)

    def apply(self, record: SiloRecord) -> None:
        """Take a record that is synced or about to be."""
        if isinstance(record, HeadHeld):
            self._held[record.silo, record.head.data_set] = record.head

    def take(
        self,
        roster: Roster,
        announced: Sequence[tuple[SiloId, LedgerHead]],
        *,
        signers: Iterable[SiloId],
        context: bytes,
    ) -> tuple[HeadHeld, ...]:
        """Check the heads that came with the signatures of a set; return a record for each that is news.

        Args:
            roster: the pinned one.
            announced: heads by silo.
            signers: silos whose heads must be there.
            context: the round.

        Raises:
            LedgerRefused: a ledger is behind what this silo holds, or is another one.
            FaultyCoordinator: a head is missing, there twice, or not signed for this round.
        """
        heads = dict(announced)
        missing = next((silo for silo in signers if silo not in heads), None)
        if missing is not None or len(heads) != len(announced):
            raise FaultyCoordinator(
                "two heads are announced of one ledger"
                if missing is None
                else f"the head of the ledger of {missing} is kept back"
            )
        records = []
        for silo, head in heads.items():
            if head_fault(roster, silo, head, None, context=context) is not None:
                raise FaultyCoordinator(f"the head of the ledger of {silo} is not signed for this round")
            held = self._held.get((silo, head.data_set))
            fault = head_fault(roster, silo, head, held, context=context)
            if fault is not None:
                raise LedgerRefused(silo, fault)
            if held is None or held.entries != head.entries:
                records.append(HeadHeld(silo, head))
        return tuple(records)
