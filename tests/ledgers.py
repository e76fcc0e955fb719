"""A federation in memory whose silos keep ledgers of what they spent, on disks that can be put back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from secagg.privacy.entries import genesis
from secagg.privacy.ledger import Budget, Ledger
from secagg.records import HeadHeld, SiloRecord, decode_silo_record
from secagg.rounds.silo import Participant
from secagg.scheme import Scheme
from secagg.terms import SiloNoise
from tests.federations import NAMES, Federation

N = 4
NOISE = SiloNoise(l2_clip_norm=1.0, share=2000.0, delta=1e-5)


@dataclass
class Book:
    """A ledger on a disk that can be put back to an older state."""

    lines: list[tuple[bytes, bytes]] = field(default_factory=list)
    ledger: Ledger | None = None
    budget: Budget | None = None
    full: bool = False

    def open(self) -> Ledger:
        if self.ledger is None:
            self.ledger = Ledger(
                "default",
                genesis=genesis("default", bytes(32)),
                lines=tuple(self.lines),
                budget=self.budget,
                keep=self.keep,
                clock=lambda: 1,
            )
        return self.ledger

    def allow(self, budget: Budget) -> None:
        self.budget, self.ledger = budget, None

    def keep(self, line: bytes, chain: bytes) -> None:
        if self.full:
            raise EnvironmentFault("the disk is full")
        self.lines.append((line, chain))

    def put_back(self, entries: int) -> None:
        del self.lines[entries:]
        self.ledger = None


class Ledgered(Federation):
    """A federation whose silos keep ledgers; one round after the other, with noise in each."""

    def __init__(self, scheme: Scheme | None = None, **changes: Any) -> None:
        self.books = {silo: Book() for silo in NAMES[:N]}
        super().__init__(N, scheme=scheme, **({"privacy": NOISE} | changes))

    def participant(self, silo: SiloId, records: Iterable[SiloRecord] = ()) -> Participant:
        made = super().participant(silo, records)
        made._ledger = self.books[silo].open()
        return made

    def next_round(self) -> None:
        self.terms = replace(self.terms, round=self.terms.round + 1)

    def put_back(self, silo: SiloId, entries: int, *, journal: int | None = None) -> None:
        """Put the ledger of a silo back to ``entries``, and its journal too, as an old copy of a disk is."""
        self.books[silo].put_back(entries)
        if journal is not None:
            del self.silos[silo].journal[journal:]
        self.silos[silo].restart()

    def heads_held(self, silo: SiloId) -> dict[SiloId, int]:
        records = map(decode_silo_record, self.silos[silo].journal)
        return {record.silo: record.head.entries for record in records if isinstance(record, HeadHeld)}
