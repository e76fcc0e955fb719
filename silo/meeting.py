"""A silo's end of a meeting: silos that speak to each other, sealed end to end, through the coordinator.

A ``Side`` is driven here: its frames go to its partners' processes and theirs come to it. It runs in a thread
of its own, because it computes for seconds; the event loop stays alive for everybody else's. When a partner,
the coordinator or a connection is lost, the side is dropped, all meet again, and a new side begins from its own
checkpoints. It needs no journal and no state folder, so it runs beside ``silo run`` of the same silo.

Source: ``docs/wire.md``, "Meetings of silos".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, TypeVar

from secagg.conversation import Side
from secagg.names import SiloId
from silo.config import SiloConfig

T = TypeVar("T")

PATIENCE = 600.0
"""Seconds for which partners or the coordinator are waited for, each time that one is lost."""
LARGEST = 1 << 30
"""Bytes that one message of a partner may have."""

State: TypeAlias = Literal["waiting", "meeting", "at work", "ending"]


@dataclass(frozen=True)
class Progress:
    """How a meeting stands.

    Attributes:
        state: ``"waiting"`` for somebody; ``"meeting"``: all are there and shake hands; ``"at work"``: the side
            runs; ``"ending"``: it has ended well here, and others still work.
        since: when that began, UTC.
        missing: who is waited for; empty with ``"waiting"`` while the coordinator is.
        sent, received: partner -> bytes of sealed records, in this meeting of the parties.
    """

    state: State
    since: datetime
    missing: tuple[SiloId, ...]
    sent: Mapping[SiloId, int]
    received: Mapping[SiloId, int]


Watch: TypeAlias = Callable[[Progress], None]
"""Told in the event loop's thread whenever the state changes or bytes moved; it returns at once."""


async def meet(
    config: SiloConfig,
    meeting: str,
    parties: tuple[SiloId, ...],
    side: Callable[[], Side[T]],
    *,
    patience: float = PATIENCE,
    largest: int = LARGEST,
    watch: Watch | None = None,
) -> T:
    """Meet the other parties, drive a side of the protocol with them, and return what it learned.

    Args:
        config: of this silo: its identity, pinned roster, certificates and coordinator.
        meeting: a name that the parties agreed on, of the form of a silo's; one meeting has it at a time.
        parties: all of them, 2 to 10 of the roster with this silo, in the order that all of them give.
        side: makes this silo's side, which knows its own data alone; called anew, in this event loop's
            thread, each time that all have met.
        patience: seconds for which whoever is missing is waited for, each time.
        largest: bytes that one message of a partner may have.
        watch: told of progress.

    Raises:
        ParameterError: names that cannot meet; or another party came with another list of parties.
        PartnerStopped: a partner ended it, and why: its policy's rule, a fault, or trouble of its own.
        FaultySilo: a partner left the protocol.
        FaultySiloOrCoordinator: what came in a partner's name is not what it sent, or it left the protocol.
        NobodyCame: whoever is missing did not come in time.
        TrustError, EnvironmentFault: as ``Client.run`` raises; another process of this silo came to the meeting.
        Exception: whatever the side raises.

    Guarantees:
        The coordinator sees who meets, when, and sizes of records; never a byte of what is said.
        A partner is the silo of that name in the roster pinned here, or no side begins.
        If the side raises, every partner is told which rule stopped it, and nothing else.
        No two sides of one call run at the same time.
    """
    raise NotImplementedError


def meet_now(
    config: SiloConfig,
    meeting: str,
    parties: tuple[SiloId, ...],
    side: Callable[[], Side[T]],
    *,
    patience: float = PATIENCE,
    largest: int = LARGEST,
    watch: Watch | None = None,
) -> T:
    """Do as ``meet``, from a thread without an event loop: for commands."""
    raise NotImplementedError
