"""Starts ``silo vertical`` or ``coordinator`` as their commands do, around files that obey orders.

    python -m tests.faults.vertical_launcher FOLDER silo vertical fit job.toml ...

Moments of a silo: writing, written: before and after a file of the job is on disk, by its name (a step's is
its number); ``heard`` is what a partner said in the intersection. What is random in an intersection is drawn
from a seed, so that two runs can be compared. What a silo hears in clear, and what the coordinator forwards,
is noted in ``FOLDER/heard`` and ``FOLDER/forwarded``. ``WATCHED_MUTANTS`` stand in the place of product
symbols, see ``tests.adversary.watched``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from tests.adversary.watched import put_in
from tests.faults.launcher import Scene, exchange
from tests.faults.orders import Orders


def silo(scene: Scene, folder: Path) -> None:
    """Run the command ``silo``."""
    import silo.vertical.shared
    import silo.vertical.store
    from silo.cli import main
    from silo.partners import Partners
    from silo.psi.session import Session
    from silo.vertical.store import Files

    keep, hear = Files.keep, Partners.hear

    def ordered(files: Files, name: str, content: bytes) -> None:
        scene.reach("writing", name)
        keep(files, name, content)
        scene.reach("written", name)

    async def noted(partners: Partners, sender: str) -> Any:
        header, payload = frame = await hear(partners, sender)
        with (folder / "heard").open("ab") as file:
            file.write(bytes(header) + (b"" if payload is None else bytes(payload[:])))
        return frame

    class OrderedSession(Session):
        """A session that draws from a seed, with moments when a partner was heard."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            seed = hashlib.sha256(str(folder).encode()).digest()
            super().__init__(*arguments, **named, random=lambda size: seed[:size])

        def heard(self, partner: str, number: int, digest: bytes) -> None:
            scene.reach("writing", "heard")
            super().heard(partner, number, digest)
            scene.reach("written", "heard")

    exchange_method(Files, "keep", ordered)
    exchange_method(Partners, "hear", noted)
    exchange(silo.vertical.shared, Session=OrderedSession)
    main()


def coordinator(_: Scene, folder: Path) -> None:
    """Run the command ``coordinator``."""
    from coordinator.cli import main
    from coordinator.meetings import Meeting
    from secagg.channel.relay import Record

    take = Meeting.take

    def noted(meeting: Meeting, sender: str, frame: Any) -> None:
        if isinstance(frame, Record):
            with (folder / "forwarded").open("ab") as file:
                file.write(frame.data)
        take(meeting, sender, frame)

    exchange_method(Meeting, "take", noted)
    main()


def exchange_method(kind: type, name: str, other: Any) -> None:
    """Put ``other`` in the place of a method."""
    if name not in vars(kind):
        raise AttributeError(f"{kind.__name__} has no {name}")
    setattr(kind, name, other)


def start() -> None:
    """Run what the command line names."""
    folder, command, *arguments = sys.argv[1:]
    sys.argv = [command, *arguments]
    put_in(os.environ.get("WATCHED_MUTANTS", ""), command)
    {"silo": silo, "coordinator": coordinator}[command](Scene(Orders(Path(folder) / "order")), Path(folder))


if __name__ == "__main__":
    start()
