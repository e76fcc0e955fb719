"""What a silo holds of the ledgers of its peers: pure state, rebuilt from its journal like the locks.

Source: "Ledger" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from secagg.errors import FaultyCoordinator, FaultySilo, PolicyRefused
from secagg.messages import EncryptedInput, MaskedInput
from secagg.names import SiloId
from secagg.privacy.heads import LedgerHead, head_fault
from secagg.records import HeadHeld, LedgerTrusted, LedgerWentBack, SiloRecord
from secagg.roster import Roster
from secagg.terms import Terms


class LedgerRefused(PolicyRefused):
    """A peer's ledger of what it spent is not the one that it was.

    Attributes:
        silos: whose.
        records: to be synced all the same, so that the ledger stays refused.
    """

    def __init__(self, silo: SiloId, data_set: bytes, fault: str) -> None:
        super().__init__(
            "ledger",
            f"the privacy ledger of {silo} was put back to an older state: {fault}. Nothing was released "
            f"here. Once its operator has put the newest copy in its place: silo ledger trust {silo}",
            (silo,),
        )
        self.records = (LedgerWentBack(silo, data_set),)


def check_sent(roster: Roster, terms: Terms, silo: SiloId, message: MaskedInput | EncryptedInput) -> None:
    """Check the head that a silo sends to the coordinator, so that no peer need doubt the coordinator for it.

    Raises:
        FaultySilo: it is missing where noise is charged to a ledger, or not signed for this round.
    """
    if message.head is None:
        if terms.privacy is not None:
            raise FaultySilo(silo, "the head of its privacy ledger is missing")
    elif head_fault(roster, silo, message.head, None, context=message.round_id) is not None:
        raise FaultySilo(silo, "the head of its privacy ledger is not signed for this round")


def announced_heads(
    heads: Mapping[SiloId, LedgerHead], members: Iterable[SiloId]
) -> tuple[tuple[SiloId, LedgerHead], ...]:
    """Return the heads that came with the inputs of ``members``, as they go out with the set."""
    return tuple((silo, heads[silo]) for silo in members if silo in heads)


class Heads:
    """The last head of each peer and data set.

    Args:
        records: a silo's journal so far, oldest first.

    Guarantees:
        A head that is accepted is never behind one that was accepted before, also after a restart.
        A ledger that was behind once stays refused, however far it comes, until it is trusted again.
    """

    def __init__(self, records: Iterable[SiloRecord] = ()) -> None:
        self._held: dict[tuple[SiloId, bytes], LedgerHead] = {}
        self._back: set[tuple[SiloId, bytes]] = set()
        for record in records:
            self.apply(record)

    def apply(self, record: SiloRecord) -> None:
        """Take a record that is synced or about to be."""
        match record:
            case HeadHeld():
                self._held[record.silo, record.head.data_set] = record.head
            case LedgerWentBack():
                self._back.add((record.silo, record.data_set))
            case LedgerTrusted():
                self._held = {key: head for key, head in self._held.items() if key[0] != record.silo}
                self._back = {key for key in self._back if key[0] != record.silo}
            case _:
                pass

    def take(
        self,
        roster: Roster,
        announced: Sequence[tuple[SiloId, LedgerHead]],
        *,
        needed: Iterable[SiloId],
        context: bytes,
    ) -> tuple[HeadHeld, ...]:
        """Check the heads that came with the inputs of a set; return a record for each that is news.

        Args:
            roster: the pinned one.
            announced: heads by silo.
            needed: silos whose heads must be there.
            context: the round.

        Raises:
            LedgerRefused: a ledger is behind what this silo holds, or is another one, or once was.
            FaultyCoordinator: a head is missing, there twice, or not signed for this round.
        """
        heads = dict(announced)
        missing = next((silo for silo in needed if silo not in heads), None)
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
            if fault is None and (silo, head.data_set) in self._back:
                fault = "what it forgot then may be forgotten still"
            if fault is not None:
                raise LedgerRefused(silo, head.data_set, fault)
            if held is None or held.entries != head.entries:
                records.append(HeadHeld(silo, head))
        return tuple(records)
