"""The two halves of a scheme as sans-I/O sessions.

Time, randomness and identity are arguments; records and messages are return values. The driver first
syncs ``Step.records``, then sends ``Step.output``. The simulation, the services and the tests drive the
same two sessions with the same few lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from secagg.messages import FromCoordinator, FromSilo
from secagg.names import SiloId
from secagg.records import CoordinatorRecord, SiloRecord

R = TypeVar("R", covariant=True)
O = TypeVar("O", covariant=True)  # noqa: E741 - output

Outbox: TypeAlias = Mapping[SiloId, FromCoordinator]


@dataclass(frozen=True)
class Step(Generic[R, O]):
    """What one input causes.

    Attributes:
        records: to be synced, in order, before ``output`` is sent.
        output: a silo's reply or None; a coordinator's outbox, one message a silo.
    """

    records: tuple[R, ...]
    output: O


SiloStep: TypeAlias = Step[SiloRecord, FromSilo | None]
CoordinatorStep: TypeAlias = Step[CoordinatorRecord, Outbox]


@dataclass(frozen=True, eq=False)
class Aggregate:
    """An opened sum.

    Attributes:
        total: sum over ``survivors``, mod 2**b, without the count entry, shape (length,), read-only.
        survivors: whose inputs are in it, in roster order.
    """

    total: NDArray[Any]
    survivors: tuple[SiloId, ...]


@dataclass(frozen=True)
class SealedSum:
    """A sum that silos opened and the coordinator cannot.

    Attributes:
        base: digest of the model that follows, as more silos say than may collude.
        survivors: whose inputs are in it, in roster order.
    """

    base: bytes
    survivors: tuple[SiloId, ...]


class SiloSession(Protocol):
    """One silo in one attempt; single use."""

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator.

        Raises:
            UnexpectedMessage: this state does not accept it; the state is unchanged.
            FaultyCoordinator, FaultySiloOrCoordinator, PolicyRefused, RoundAborted: the silo leaves the
                attempt.
        """
        ...

    @property
    def outcome(self) -> Aggregate | None:
        """The opened sum, once it was announced."""
        ...


class CoordinatorSession(Protocol):
    """The coordinator in one attempt."""

    def open(self, now: float) -> CoordinatorStep:
        """Begin; call once."""
        ...

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``, as authenticated by the transport.

        Raises:
            UnexpectedMessage: this phase does not accept it; nothing changed.
            FaultySilo: names the sender, whom the session no longer waits for. The driver calls ``lose``,
                so that a replay of the records does not wait for it either.
            RoundAborted: our own storage lost a part of an upload; the sum can no longer be formed.
        """
        ...

    def lose(self, silo: SiloId, *, struck: bool = False) -> CoordinatorStep:
        """Wait for ``silo`` no longer in this phase.

        Args:
            silo: the transport lost it; a reply that it still gives counts.
            struck: it left the protocol; no reply of it is taken in this phase.
        """
        ...

    def defer(self, moment: float) -> None:
        """Close the phase for lateness no earlier than ``moment``: an awaited silo's bytes are moving."""
        ...

    def advance(self, now: float) -> CoordinatorStep:
        """Close the phase if it can close; empty otherwise.

        Raises:
            TooFewSilos: the deadline passed and the quorum is not there.
            RoundAborted, FaultySilo: the sum cannot be formed.
        """
        ...

    @property
    def deadline(self) -> float | None:
        """When ``advance`` will next close a phase whatever arrived; None when nothing is awaited."""
        ...

    @property
    def outcome(self) -> Aggregate | SealedSum | None:
        """The sum, once it was opened."""
        ...
