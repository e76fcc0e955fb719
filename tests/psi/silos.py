"""Silos of an intersection in one process, each with files of its own, which a crash leaves as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from secagg.conversation import together
from secagg.names import SiloId
from secagg.psi.agreement import Settings
from secagg.psi.identifiers import Key, read_identifiers
from secagg.psi.outcome import Outcome
from secagg.psi.powers import Powers
from silo.config import Intersections, SiloConfig
from silo.psi.queries import QueryFile
from silo.psi.run import Found, one_side
from silo.psi.session import Session, _Kept, abandon, folder_of


class Silo:
    """One silo: its folder, its policy and its identifiers.

    Attributes:
        kept: what it learned, in each run.
    """

    def __init__(self, folder: Path, name: SiloId, ids: Iterable[Key], **limits: Any) -> None:
        self.name = name
        self.state = folder / name
        self.ids = list(ids)
        self.options: dict[str, Any] = {}
        self.intersections = Intersections(**{"smallest_intersection": 0} | limits)
        self.kept: list[Outcome | None] = []

    @property
    def config(self) -> SiloConfig:
        return SiloConfig.model_construct(
            name=self.name, state=self.state, ledger=None, intersections=self.intersections
        )

    def settings(self, parties: Iterable[SiloId]) -> Settings:
        return Settings(
            parties=tuple(parties),
            smallest_intersection=self.intersections.smallest_intersection,
            **self.options,
        )

    def open(self, session: str, parties: Iterable[SiloId]) -> Session:
        return Session(
            self.state,
            session,
            settings=self.settings(parties),
            identifiers=read_identifiers(self.ids),
            source=Path("customers.csv"),
        )

    def side(self, session: Session, parties: Iterable[SiloId]) -> Any:
        return one_side(
            self.config,
            session,
            self.settings(parties),
            read_identifiers(self.ids),
            powers=Powers(cores=1, buckets=session),
            keep=self.kept.append,
        )

    def abandon(self, session: str) -> None:
        abandon(self.state, session)

    def cheat(self, session: str, ids: Iterable[Key]) -> None:
        """Leave our program: bring another set into a session that is under way, under the same seed."""
        self.ids = list(ids)
        file = folder_of(self.state, session) / "session"
        known = msgspec.msgpack.decode(file.read_bytes(), type=_Kept)
        records = read_identifiers(self.ids).digest(known.seed)
        changed = msgspec.structs.replace(known, records=records, said={})
        file.write_bytes(msgspec.msgpack.encode(changed))

    def asked(self, partner: SiloId) -> int:
        return QueryFile(self.config.ledger_folder, self.intersections.limits()).asked(partner)


def run(
    silos: Iterable[Silo], session: str = "march", *, watch: Callable[..., None] | None = None
) -> Mapping[SiloId, Found]:
    """Start every silo's process, let them meet, and end the session if all come to its end."""
    here = list(silos)
    parties = [silo.name for silo in here]
    opened: dict[SiloId, Session] = {}
    try:
        for silo in here:
            opened[silo.name] = silo.open(session, parties)
        found = together({silo.name: silo.side(opened[silo.name], parties) for silo in here}, watch=watch)
        for each in opened.values():
            each.end()
    finally:
        for each in opened.values():
            each.close()
    return found
