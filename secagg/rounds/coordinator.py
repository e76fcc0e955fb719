"""One round at the coordinator: training, attempts with new keys, voids and evidence between them.

Pure like the sessions, with the same five methods, so that a driver sees one thing for a whole round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from secagg.errors import (
    FaultySilo,
    ProtocolError,
    RoundAborted,
    SecaggError,
    UnexpectedMessage,
    UsageError,
)
from secagg.masking.coordinator import MaskingCoordinator
from secagg.masking.past import PastAttempt
from secagg.messages import (
    BaseRequested,
    BaseSent,
    DealerEvidence,
    FromSilo,
    Ready,
    Refused,
    TrainingOpened,
    Void,
    Voided,
    VoidRequested,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.phases import Gate
from secagg.plain import PlainCoordinator
from secagg.records import InputAccepted, PhaseClosed, SiloLost
from secagg.roster import Roster
from secagg.session import Aggregate, CoordinatorStep, Step
from secagg.terms import MaskingParameters, PlainParameters, Terms, training_digest

MAX_PAST_ATTEMPTS = 16
"""A message that is later than this is wrong after all; each costs a signature check."""


@dataclass(frozen=True)
class Past:
    """What is over, by what names it in messages that may still arrive.

    Attributes:
        trainings: training digests of earlier rounds.
        attempts: the last attempts of all rounds.
    """

    trainings: frozenset[bytes] = frozenset()
    attempts: tuple[PastAttempt, ...] = ()


_Session: TypeAlias = MaskingCoordinator | PlainCoordinator


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _Training:
    gate: Gate[None]


@dataclass(frozen=True)
class _Attempting:
    session: _Session


@dataclass(frozen=True)
class _Voiding:
    gate: Gate[tuple[Void, ...]]


@dataclass(frozen=True)
class _Done:
    outcome: Aggregate


_State: TypeAlias = _Start | _Training | _Attempting | _Voiding | _Done


class RoundCoordinator:
    """The coordinator in one round; single use.

    Args:
        roster: the pinned roster.
        terms: what is trained and how it is summed.
        base: the model named by ``terms.base``, for silos that lack it; None if there is none.
        seconds: how long a phase of an attempt waits at the most.
        training_seconds: how long training may take.
        attempts: how often the protocol is run before the round is given up.
        threads: for the masks.
        past: of the rounds before, so that what comes late is not taken for wrong.
        attempted: attempts of this round that ended with the coordinator's process; their numbers are used.
        asked: rounds of those attempts whose survivor set silos were asked to sign; they are voided first.

    Guarantees:
        A silo that is only late is not named: its message is refused and nothing else happens.
        An attempt that fails costs no training.
        The number of attempts is bounded.
        A dealer convicted by evidence, or reported by c + 1 silos, is left out of the next attempt.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        terms: Terms,
        base: Payload | None = None,
        seconds: float = 60.0,
        training_seconds: float = 3600.0,
        attempts: int = 3,
        threads: int | None = None,
        past: Past | None = None,
        attempted: int = 0,
        asked: tuple[bytes, ...] = (),
    ) -> None:
        self._roster = roster
        self._terms = terms
        self._training = training_digest(terms)
        self._base = base
        self._seconds = seconds
        self._training_seconds = training_seconds
        self._attempts = attempted + attempts
        self._threads = threads
        self._state: _State = _Start()
        self._past = Past() if past is None else past
        self._attempt = attempted
        self._first_failure: SecaggError | None = None
        self._losses: dict[SiloId, str] = {}
        self._faults: dict[SiloId, str] = {}  # stay, whatever the silo sends afterwards
        self._absent: set[SiloId] = set()  # not waited for until heard of
        self._apart: set[SiloId] = set()  # not waited for in this attempt, whose session they may not have
        self._asked = asked  # of the attempts that are over
        self._evidence: tuple[DealerEvidence, ...] = ()
        self._reporters: dict[SiloId, set[SiloId]] = {}

    # --- what the driver reads ---------------------------------------------------------------------------

    @property
    def outcome(self) -> Aggregate | None:
        """The opened sum."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def roster(self) -> Roster:
        """The pinned roster."""
        return self._roster

    @property
    def attempt(self) -> int:
        """The number of the present or last attempt, from 1; 0 before the first."""
        return self._attempt

    @property
    def terms(self) -> Terms:
        """What is trained and how it is summed."""
        return self._terms

    @property
    def base_size(self) -> int:
        """Bytes of the model that silos may ask for; 0 if there is none."""
        return 0 if self._base is None else self._base.size

    @property
    def invitation(self) -> TrainingOpened:
        """What a silo is told that joins while the round goes on; it takes part from the next attempt."""
        return TrainingOpened(self._terms, self._training_seconds)

    @property
    def asked(self) -> tuple[bytes, ...]:
        """Every round whose survivor set silos were asked to sign, oldest first."""
        now = self._state.session if isinstance(self._state, _Attempting) else None
        current = now.round_id if isinstance(now, MaskingCoordinator) else None
        return self._asked if current is None else (*self._asked, current)

    @property
    def past(self) -> Past:
        """What the next round must know of this one and those before."""
        return replace(self._past, trainings=self._past.trainings | {self._training})

    @property
    def losses(self) -> Mapping[SiloId, str]:
        """Why a silo is missing somewhere: the phase in which it was silent, its refusal or its fault."""
        return self._losses | self._faults

    @property
    def phase(self) -> str | None:
        """The phase whose replies are awaited, by the name of the reply; "Training" before the attempts."""
        match self._state:
            case _Training() | _Voiding():
                return self._state.gate.phase
            case _Attempting():
                return self._state.session.phase
            case _Start() | _Done():
                return None

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        match self._state:
            case _Training() | _Voiding():
                return self._state.gate.waiting
            case _Attempting():
                return self._state.session.waiting
            case _Start() | _Done():
                return frozenset()

    @property
    def deadline(self) -> float | None:
        """When the phase closes whatever arrived."""
        match self._state:
            case _Training() | _Voiding():
                return self._state.gate.deadline
            case _Attempting():
                return self._state.session.deadline
            case _Start() | _Done():
                return None

    # --- inputs ------------------------------------------------------------------------------------------

    def open(self, now: float) -> CoordinatorStep:
        """Announce the terms to the whole roster."""
        if not isinstance(self._state, _Start):
            raise UsageError("a round is opened once")
        everyone = frozenset(self._roster.silos)
        deadline = now + self._training_seconds
        self._state = _Training(Gate("Training", everyone, quorum=self._quorum, deadline=deadline))
        return Step((PhaseClosed(now),), dict.fromkeys(self._roster.silos, self.invitation))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        if sender not in self._roster:
            raise UnexpectedMessage(f"{sender} is not in the roster")
        if isinstance(message, BaseRequested):
            return Step((InputAccepted(sender, message),), {sender: self._send_base(sender, message)})
        try:
            step = self._accept(sender, message)
        except FaultySilo as fault:
            self._blame(fault)
            self._leave(sender, struck=True)
            raise
        if isinstance(message, Refused):
            missing = f" (needs {', '.join(message.silos)})" if message.silos else ""
            self._losses[sender] = f"refused: {message.rule}{missing}"
            self._absent.add(sender)
        else:
            self._losses.pop(sender, None)
            self._absent.discard(sender)
            if not isinstance(message, Ready):
                self._apart.discard(sender)
        return step

    def _accept(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        match self._state, message:
            case (_Training() as state, Ready()):
                if message.training in self._past.trainings:
                    raise UnexpectedMessage(f"{sender} is ready for an earlier round")
                if message.training != self._training:
                    raise FaultySilo(sender, "is ready for other terms than those that were sent")
                state.gate.admit(sender, None)
            case ((_Training() | _Voiding()) as state, Refused()):
                state.gate.strike(sender)
            case (_Voiding() as state, Voided()):
                if any(void.silo != sender for void in message.voids):
                    raise FaultySilo(sender, "sends a void in another silo's name")
                state.gate.admit(sender, message.voids)
            case (_Attempting() | _Voiding(), Ready()):
                pass  # It was late, or has restarted; the next attempt invites it.
            case (_Attempting() as state, _):
                return state.session.receive(sender, message)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {self.phase}")
        return Step((InputAccepted(sender, message),), {})

    def lose(self, silo: SiloId, *, fault: ProtocolError | None = None) -> CoordinatorStep:
        """Wait for ``silo`` no longer, in this attempt and the next ones, until it is heard of again.

        Args:
            silo: a member of the roster.
            fault: what ``receive`` or the decoder raised; None if the transport lost the silo.
        """
        self._absent.add(silo)
        self._apart.add(silo)
        if fault is not None:
            self._blame(fault if isinstance(fault, FaultySilo) else FaultySilo(silo, str(fault)))
        elif silo in self.waiting and self.phase is not None:
            self._losses[silo] = self.phase
        self._leave(silo, struck=fault is not None)
        return Step((SiloLost(silo, fault is not None),), {})

    def defer(self, moment: float) -> None:
        """Close the phase for lateness no earlier than ``moment``; see ``CoordinatorSession.defer``."""
        match self._state:
            case _Training() | _Voiding():
                self._state.gate.defer(moment)
            case _Attempting():
                self._state.session.defer(moment)
            case _Start() | _Done():
                pass

    def advance(self, now: float) -> CoordinatorStep:
        """Close the phase if it can close; see ``CoordinatorSession.advance``."""
        match self._state:
            case (_Training() | _Voiding()) as state if state.gate.closable(now):
                self._note_silence(now)
                if isinstance(state, _Training):
                    self._absent |= state.gate.expected - state.gate.close().keys()
                    return self._ask_voids(now) if self._asked else self._new_attempt(now, ())
                voids = tuple(void for silo in state.gate.close().values() for void in silo)
                return self._new_attempt(now, voids)
            case _Attempting():
                return self._advance_attempt(self._state.session, now)
            case _:
                return Step((), {})

    # --- attempts ------------------------------------------------------------------------------------------

    @property
    def _quorum(self) -> int:
        match self._terms.scheme:
            case MaskingParameters(cohort=cohort):
                return cohort.t
            case PlainParameters():
                return 1

    @property
    def excluded(self) -> frozenset[SiloId]:
        """Dealers that the next attempt leaves out."""
        match self._terms.scheme:
            case MaskingParameters(cohort=cohort):
                reported = {d for d, reporters in self._reporters.items() if len(reporters) > cohort.c}
                return frozenset(reported | {evidence.dealer for evidence in self._evidence})
            case PlainParameters():
                return frozenset()

    def _new_attempt(self, now: float, voids: tuple[Void, ...]) -> CoordinatorStep:
        self._attempt += 1
        session: _Session
        match self._terms.scheme:
            case MaskingParameters():
                session = MaskingCoordinator(
                    self._roster,
                    terms=self._terms,
                    attempt=self._attempt,
                    seconds=self._seconds,
                    excluded=self.excluded,
                    voids=voids,
                    evidence=self._evidence,
                    past=self._past.attempts,
                    threads=self._threads,
                )
            case PlainParameters():
                session = PlainCoordinator(
                    self._roster, terms=self._terms, attempt=self._attempt, seconds=self._seconds
                )
        step = session.open(now)
        self._apart = set(self._absent)
        for silo in self._apart:
            session.lose(silo)
        self._state = _Attempting(session)
        return step

    def _advance_attempt(self, session: _Session, now: float) -> CoordinatorStep:
        phase, waiting, deadline = session.phase, session.waiting, session.deadline
        try:
            step = session.advance(now)
        except (RoundAborted, FaultySilo) as failure:
            self._note_silence(now)  # Not who was merely not needed any more.
            return self._retry(session, failure, now)
        if deadline is not None and now >= deadline and session.phase != phase:
            self._note(phase, waiting)
        if session.outcome is not None:
            self._keep_past(session)
            self._state = _Done(session.outcome)
        elif session.phase != phase:
            for silo in self._apart:
                session.lose(silo)
        return step

    def _retry(self, session: _Session, failure: SecaggError, now: float) -> CoordinatorStep:
        self._keep_past(session)
        if isinstance(failure, FaultySilo):
            self._blame(failure)
        asked: bytes | None = None
        if isinstance(session, MaskingCoordinator):
            self._evidence += session.evidence
            for reporter, dealer in session.reports:
                self._reporters.setdefault(dealer, set()).add(reporter)
            asked = session.round_id
        for dealer in self.excluded - self._faults.keys():
            self._blame(FaultySilo(dealer, "its boxes or shares are not what it committed to", dealer=True))
        reachable = self._roster.n - len(self._absent | self.excluded)
        if self._attempt >= self._attempts or reachable < self._quorum:
            if self._first_failure is None:
                raise failure
            raise failure from self._first_failure
        self._first_failure = self._first_failure or failure
        if asked is None or session_convicts(session):
            return self._new_attempt(now, ())
        self._asked += (asked,)
        return self._ask_voids(now)

    def _ask_voids(self, now: float) -> CoordinatorStep:
        gate: Gate[tuple[Void, ...]] = Gate(
            "Voided", frozenset(self._roster.silos), quorum=0, deadline=now + self._seconds
        )
        for silo in self._absent:
            gate.lose(silo)
        self._state = _Voiding(gate)
        request = VoidRequested(self._asked)
        return Step((PhaseClosed(now),), dict.fromkeys(self._roster.silos, request))

    # --- small parts ---------------------------------------------------------------------------------------

    def _send_base(self, sender: SiloId, requested: BaseRequested) -> BaseSent:
        if self._base is None or requested.base != self._terms.base:
            raise UnexpectedMessage(f"{sender} asks for a base model that this round does not start from")
        return BaseSent(requested.base, self._base)

    def _keep_past(self, session: _Session) -> None:
        if isinstance(session, MaskingCoordinator):
            kept = (*self._past.attempts, session.attempt)[-MAX_PAST_ATTEMPTS:]
            self._past = replace(self._past, attempts=kept)

    def _blame(self, fault: FaultySilo) -> None:
        self._faults[fault.silo] = f"faulty: {fault}"

    def _leave(self, silo: SiloId, *, struck: bool) -> None:
        match self._state:
            case _Training() | _Voiding():
                leave = self._state.gate.strike if struck else self._state.gate.lose
                leave(silo)
            case _Attempting():
                self._state.session.lose(silo, struck=struck)
            case _Start() | _Done():
                pass

    def _note_silence(self, now: float) -> None:
        deadline = self.deadline
        if deadline is not None and now >= deadline:
            self._note(self.phase, self.waiting)

    def _note(self, phase: str | None, silos: frozenset[SiloId]) -> None:
        for silo in silos:
            # A silo that is silent in a later attempt too was lost where it first fell silent.
            self._losses.setdefault(silo, phase or "")


def session_convicts(session: _Session) -> bool:
    """Whether the attempt ended with evidence, which moves locks by itself: voids cannot exist beside it."""
    return isinstance(session, MaskingCoordinator) and bool(session.evidence)
