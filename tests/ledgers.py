"""A federation in memory whose silos keep ledgers of what they spent, on disks that can be put back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from msgspec.structs import replace

from secagg.errors import EnvironmentFault
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.privacy.entries import genesis
from secagg.privacy.ledger import Budget, Ledger
from secagg.records import HeadHeld, LedgerTrusted, SiloRecord, decode_silo_record, encode_record
from secagg.rounds.silo import Participant
from secagg.scheme import Scheme
from secagg.terms import SiloNoise
from tests.federations import MODEL, NAMES, Federation, Witness

R = TypeVar("R")

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
        self.model = MODEL
        self.books = {silo: Book() for silo in NAMES[:N]}
        super().__init__(N, scheme=scheme, **({"privacy": NOISE} | changes))

    def participant(self, silo: SiloId, records: Iterable[SiloRecord] = ()) -> Participant:
        made = super().participant(silo, records)
        made._spending._ledger = self.books[silo].open()
        return made

    def coordinator(self, **changes: Any) -> Witness:
        return super().coordinator(**({"base": self.model} | changes))

    def next_round(self) -> None:
        """Begin another round, over a model of its own: the locks of the last one say nothing of it."""
        number = self.terms.round + 1
        self.model = Payload.of(np.linspace(-1.0, 1.0, 7) * number)
        base = self.model.digest
        self.terms = replace(self.terms, round=number, base=base)
        for work in self.work.values():
            work.model = base
            work.bases[base] = self.model

    def put_back(self, silo: SiloId, entries: int, *, journal: int | None = None) -> None:
        """Put the ledger of a silo back to ``entries``, and its journal too, as an old copy of a disk is."""
        self.books[silo].put_back(entries)
        if journal is not None:
            del self.silos[silo].journal[journal:]
        self.silos[silo].restart()

    def trust(self, silo: SiloId, *, at: Iterable[SiloId] = NAMES[:N]) -> None:
        """Let operators accept the ledgers of ``silo`` again, as ``silo ledger trust`` does."""
        for name in at:
            self.silos[name].journal.append(encode_record(LedgerTrusted(silo)))
            self.silos[name].restart()

    def records(self, silo: SiloId, kind: type[R]) -> list[R]:
        """Return what a silo has on record of one kind, oldest first."""
        journal = map(decode_silo_record, self.silos[silo].journal)
        return [record for record in journal if isinstance(record, kind)]

    def heads_held(self, silo: SiloId) -> dict[SiloId, int]:
        return {record.silo: record.head.entries for record in self.records(silo, HeadHeld)}
