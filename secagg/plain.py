"""No protection: the baseline that every scheme must equal. The coordinator reads every update.

One shot: RoundOpened, PlainInput, PlainSum. Nothing is signed and nothing is locked. A silo takes part only
if its policy lists ``"plain"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg.errors import (
    EnvironmentFault,
    FaultyCoordinator,
    FaultySilo,
    InputRefused,
    MalformedMessage,
    RoundAborted,
    UnexpectedMessage,
    UsageError,
)
from secagg.messages import FromCoordinator, FromSilo, PlainInput, PlainSum, Refused, RoundOpened
from secagg.names import IntegerVector, SiloId
from secagg.payload import Payload
from secagg.phases import Gate
from secagg.records import InputAccepted, PhaseClosed, SiloLost
from secagg.roster import Roster
from secagg.session import Aggregate, CoordinatorStep, Outbox, SiloStep, Step
from secagg.terms import PlainParameters, Terms, training_digest


@dataclass(frozen=True)
class Plain:
    """No protection at all; for tests and baselines."""

    def parameters(self, n: int) -> PlainParameters:
        """Return the parameters for a roster of ``n`` silos; any n."""
        return PlainParameters()


class PlainSilo:
    """One silo in one attempt; single use.

    Args:
        terms: what this silo agreed to in TrainingOpened.
        vector: encoded input, shape (length,); sent in clear.

    Raises:
        InputRefused: the vector is not of the encoding's length and word.
    """

    def __init__(self, *, terms: Terms, vector: IntegerVector) -> None:
        if vector.dtype != terms.encoding.dtype or vector.shape != (terms.encoding.length,):
            raise InputRefused(
                "shape", f"the vector must be {terms.encoding.dtype} of {terms.encoding.length}"
            )
        self._terms = terms
        self._vector: NDArray[Any] | None = vector
        self._outcome: Aggregate | None = None

    @property
    def outcome(self) -> Aggregate | None:
        """The sum, once it was announced."""
        return self._outcome

    def receive(self, message: FromCoordinator) -> SiloStep:
        """Take one message of the coordinator; see ``SiloSession.receive``."""
        match message:
            case RoundOpened() if self._vector is not None:
                if message.training != training_digest(self._terms):
                    raise FaultyCoordinator("the attempt is not for the terms that this silo was told")
                counted = np.empty(self._vector.size + 1, self._vector.dtype)
                counted[:-1], counted[-1] = self._vector, 1
                self._vector = None
                return Step((), PlainInput(training_digest(self._terms), Payload.of(counted)))
            case PlainSum() if self._vector is None and self._outcome is None:
                if message.training != training_digest(self._terms):
                    raise UnexpectedMessage("the sum of another round came")
                total = message.total.array()
                if total.dtype != self._terms.encoding.dtype or total.size != self._terms.encoding.length + 1:
                    raise FaultyCoordinator("the sum has another length or word than the encoding")
                if int(total[-1]) != len(message.survivors):
                    raise FaultyCoordinator("the count entry of the sum is not the number of survivors")
                self._outcome = Aggregate(total[:-1], message.survivors)
                return Step((), None)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")


class PlainCoordinator:
    """The coordinator in one attempt; single use. Arguments as ``MaskingCoordinator``."""

    def __init__(self, roster: Roster, *, terms: Terms, attempt: int, seconds: float) -> None:
        if not isinstance(terms.scheme, PlainParameters):
            raise UsageError("these terms are not those of Plain")
        self._roster = roster
        self._opened = RoundOpened(training_digest(terms), attempt, seconds)
        self._gate: Gate[None] | None = None
        self._total: NDArray[Any] = np.zeros(terms.encoding.length + 1, terms.encoding.dtype)
        self._outcome: Aggregate | None = None

    @property
    def deadline(self) -> float | None:
        """When the sum is formed from what is there."""
        return self._gate.deadline if self._gate is not None and self._outcome is None else None

    @property
    def phase(self) -> str | None:
        """The phase whose replies are awaited."""
        return self._gate.phase if self._gate is not None and self._outcome is None else None

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        return self._gate.waiting if self._gate is not None and self._outcome is None else frozenset()

    @property
    def outcome(self) -> Aggregate | None:
        """The sum."""
        return self._outcome

    def open(self, now: float) -> CoordinatorStep:
        """Invite the whole roster."""
        if self._gate is not None:
            raise UsageError("an attempt is opened once")
        everyone = frozenset(self._roster.silos)
        self._gate = Gate("PlainInput", everyone, quorum=1, deadline=now + self._opened.seconds)
        return Step((PhaseClosed(now),), dict.fromkeys(self._roster.silos, self._opened))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        if self._gate is None or self._outcome is not None:
            raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")
        match message:
            case PlainInput():
                if message.training != self._opened.training:
                    raise UnexpectedMessage(f"{sender} sends a vector of another round")
                self._gate.check(sender)
                if (
                    np.dtype(message.vector.dtype) != self._total.dtype
                    or message.vector.length != self._total.size
                ):
                    self._gate.strike(sender)
                    raise FaultySilo(sender, "its vector has another length or word than the encoding")
                try:
                    self._total += message.vector.array()  # Read whole first: half of it is never added.
                except (MalformedMessage, EnvironmentFault) as error:
                    raise RoundAborted("a spooled upload could not be read back whole") from error
                self._gate.admit(sender, None)
            case Refused():
                self._gate.strike(sender)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {self._gate.phase}")
        return Step((InputAccepted(sender, message),), {})

    def lose(self, silo: SiloId, *, struck: bool = False) -> CoordinatorStep:
        """Wait for ``silo`` no longer; see ``CoordinatorSession.lose``."""
        if self._gate is not None:
            leave = self._gate.strike if struck else self._gate.lose
            leave(silo)
        return Step((SiloLost(silo, struck),), {})

    def defer(self, moment: float) -> None:
        """Wait until ``moment`` at least; see ``CoordinatorSession.defer``."""
        if self._gate is not None:
            self._gate.defer(moment)

    def advance(self, now: float) -> CoordinatorStep:
        """Form the sum if nothing more is awaited; see ``CoordinatorSession.advance``."""
        if self._gate is None or self._outcome is not None or not self._gate.closable(now):
            return Step((), {})
        survivors = self._roster.ordered(frozenset(self._gate.close()))
        if int(self._total[-1]) != len(survivors):
            raise RoundAborted("the count entry is not the number of survivors: no model is written")
        self._total.flags.writeable = False
        self._outcome = Aggregate(self._total[:-1], survivors)
        outbox: Outbox = dict.fromkeys(
            self._roster.silos, PlainSum(self._opened.training, survivors, Payload.of(self._total))
        )
        return Step((PhaseClosed(now),), outbox)
