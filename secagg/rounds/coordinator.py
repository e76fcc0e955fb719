"""One round at the coordinator: training, attempts with new keys, voids and evidence between them.

Pure like the sessions, with the same five methods, so that a driver sees one thing for a whole round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from secagg.encrypted.cipher import SEAL_SIZE, Adder
from secagg.encrypted.coordinator import EncryptedCoordinator, agreed, differing, named
from secagg.errors import (
    FaultySilo,
    ProtocolError,
    RoundAborted,
    SecaggError,
    TooFewSilos,
    UnexpectedMessage,
    UsageError,
)
from secagg.keys.desk import KeyDesk
from secagg.masking.coordinator import MaskingCoordinator
from secagg.messages import (
    BaseRequested,
    BaseSealed,
    BaseWanted,
    BoxReport,
    FromSilo,
    KeyForwarded,
    KeyTaken,
    KeyWanted,
    Opened,
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
from secagg.records import CoordinatorRecord, InputAccepted, PhaseClosed, SiloLost
from secagg.roster import Roster
from secagg.rounds.base_desk import BaseDesk
from secagg.rounds.memory import MAX_PAST_ATTEMPTS, Asked, Memory
from secagg.session import Aggregate, CoordinatorStep, Outbox, SealedSum, Step
from secagg.survivors import valid_voids
from secagg.terms import (
    MaskingParameters,
    PlainParameters,
    Terms,
    is_encrypted,
    training_digest,
    voids_needed,
)

_Session: TypeAlias = MaskingCoordinator | EncryptedCoordinator | PlainCoordinator
_PUT_BACK = "its privacy ledger was put back, say its peers"


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
    outcome: Aggregate | SealedSum


_State: TypeAlias = _Start | _Training | _Attempting | _Voiding | _Done


class RoundCoordinator:
    """The coordinator in one round; single use.

    Args:
        roster: the pinned roster.
        terms: what is trained and how it is summed.
        base: the model named by ``terms.base``, for silos that lack it; None if there is none here.
        sealed_base: bytes of that model, where silos alone have it.
        seconds: how long a phase of an attempt waits at the most.
        training_seconds: how long training may take.
        attempts: how often the protocol is run before the round is given up.
        adder: of the key that the terms name, where they are of ciphertexts.
        desk: for silos that lack that key; None where none can.
        threads: for the masks.
        memory: of the rounds before, and of attempts of this one that ended with the coordinator's process:
            their numbers are used, the rounds in them are voided first, who was convicted stays convicted.

    Guarantees:
        A silo that is only late is not named: its message is refused and nothing else happens.
        An attempt that fails costs no training.
        The number of attempts is bounded.
        A dealer convicted by evidence, or reported by c + 1 silos, is left out of the next attempt.
        While too few silos to void a set are there, the next attempt is for that set alone.
        Silos that were lost are not waited for, unless no sum can be opened without them.
        A sum that more silos opened than may collude ends the round whenever they say so: in time, late, or
        to another process than the one that had them open it.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        terms: Terms,
        base: Payload | None = None,
        sealed_base: int = 0,
        seconds: float = 60.0,
        training_seconds: float = 3600.0,
        attempts: int = 3,
        adder: Adder | None = None,
        desk: KeyDesk | None = None,
        threads: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._roster = roster
        self._terms = terms
        self._training = training_digest(terms)
        self._bases = BaseDesk(roster, terms.base, base, seconds=seconds)
        self._base_size = sealed_base if base is None else base.size
        self._seconds = seconds
        self._training_seconds = training_seconds
        self._memory = Memory() if memory is None else memory
        self._put_back: set[tuple[SiloId, SiloId]] = set()  # Whose ledger went back, and who says so.
        self._left_out: frozenset[SiloId] = frozenset()  # Of those, who was not invited for it.
        self._attempts = self._memory.attempt + attempts
        self._adder = adder
        self._desk = desk
        self._threads = threads
        self._state: _State = _Start()
        self._failed: RoundAborted | None = None  # The attempt cannot go on; known before it is advanced.
        self._bound_to: frozenset[SiloId] | None = None  # The only set that locked silos sign.
        self._first_failure: SecaggError | None = None
        self._said: dict[SiloId, Opened] = {}  # of this round's sum, in whichever attempt it was opened
        # Whether silos may have opened the sum: where another process left off is not known here.
        self._may_be_open = is_encrypted(terms.scheme) and bool(self._memory.asked)
        self._losses: dict[SiloId, str] = {}
        self._faults: dict[SiloId, str] = {}  # stay, whatever the silo sends afterwards
        self._absent: set[SiloId] = set()  # not waited for until heard of
        self._apart: set[SiloId] = set()  # not waited for in this attempt, whose session they may not have

    # --- what the driver reads ---------------------------------------------------------------------------

    @property
    def outcome(self) -> Aggregate | SealedSum | None:
        """The sum, once it was opened."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def roster(self) -> Roster:
        """The pinned roster."""
        return self._roster

    @property
    def attempt(self) -> int:
        """The number of the present or last attempt, from 1; 0 before the first."""
        return self._memory.attempt

    @property
    def terms(self) -> Terms:
        """What is trained and how it is summed."""
        return self._terms

    @property
    def base_size(self) -> int:
        """Bytes of the model that silos may ask for; 0 if there is none."""
        return self._base_size

    @property
    def upload_size(self) -> int:
        """Bytes of the largest payload that a silo may send: its vector, its part of an opening, a base."""
        match self._terms.scheme:
            case MaskingParameters() | PlainParameters():
                return self._total_size
            case _:
                adder = self._needed_adder()
                return max(adder.upload.size, adder.part_size + SEAL_SIZE, self._base_size + SEAL_SIZE)

    @property
    def phase_size(self) -> int:
        """Bytes of all payloads that a silo may have to move in one phase: base, upload and answer."""
        match self._terms.scheme:
            case MaskingParameters() | PlainParameters():
                return self.base_size + 2 * self._total_size
            case _:
                adder = self._needed_adder()
                # Where shares open, a silo is sent every upload, and every part.
                answer = self._roster.n * self.upload_size if adder.part_size else adder.total.size
                return self.base_size + self.upload_size + answer

    @property
    def _total_size(self) -> int:
        encoding = self._terms.encoding
        return (encoding.length + 1) * encoding.word_bits // 8

    @property
    def invitation(self) -> TrainingOpened:
        """What a silo is told that joins while the round goes on; it takes part from the next attempt."""
        return TrainingOpened(self._terms, self._training_seconds)

    @property
    def may_be_open(self) -> bool:
        """Whether silos may have opened the sum, and only too few said so yet."""
        return not isinstance(self._state, _Done) and (self._may_be_open or self.phase == "Opened")

    @property
    def memory(self) -> Memory:
        """What must survive this process, as of now; also what the next round is given."""
        match self._state:
            case _Attempting(session=MaskingCoordinator() | EncryptedCoordinator() as session):
                return self._recalled(session)
            case _:
                return self._memory

    @property
    def losses(self) -> Mapping[SiloId, str]:
        """Why a silo is missing somewhere: the phase in which it was silent, its refusal or its fault."""
        return self._losses | dict.fromkeys(self._roster.ordered(self._left_out), _PUT_BACK) | self._faults

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
    def recalled(self) -> frozenset[SiloId]:
        """Who was lost in training and is awaited, because there is no sum without them."""
        return self._state.gate.recalled if isinstance(self._state, _Training) else frozenset()

    @property
    def here(self) -> int:
        """How many silos are ready or train."""
        return len(self._state.gate.here) if isinstance(self._state, _Training) else 0

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

    @property
    def alarm(self) -> float | None:
        """When another silo is asked for what a silo lacks, its key or the base."""
        desks = (self._bases.alarm, None if self._desk is None else self._desk.alarm)
        return min((alarm for alarm in desks if alarm is not None), default=None)

    # --- inputs ------------------------------------------------------------------------------------------

    def open(self, now: float) -> CoordinatorStep:
        """Announce the terms to the whole roster."""
        if not isinstance(self._state, _Start):
            raise UsageError("a round is opened once")
        everyone = frozenset(self._roster.silos)
        deadline = now + self._training_seconds
        self._state = _Training(
            Gate("Training", everyone, quorum=self._terms.scheme.quorum, deadline=deadline, patient=True)
        )
        return Step((PhaseClosed(now),), dict.fromkeys(self._roster.silos, self.invitation))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        if sender not in self._roster:
            raise UnexpectedMessage(f"{sender} is not in the roster")
        try:
            if isinstance(message, BaseRequested | BaseWanted | BaseSealed):
                moved = self._bases.receive(sender, message, absent=self._absent)
                return Step((InputAccepted(sender, message),), moved)
            step = self._accept(sender, message)
            if isinstance(message, KeyWanted | KeyForwarded | KeyTaken):
                return step
        except FaultySilo as fault:
            self._blame(fault)
            self._leave(sender, struck=True)
            raise
        except UnexpectedMessage:
            self._absent.discard(sender)  # It is late, and there.
            raise
        except RoundAborted as failure:
            self._failed = failure  # Our own fault, and the end of this attempt alone.
            return Step((), {})
        self._note_message(sender, message)
        match message:
            case Ready():
                self._bases.ready(sender)
                return Step(step.records, {**step.output, **self._ask_holders()})
            case Refused():  # It will not answer what it was asked for others either.
                return Step(step.records, {**step.output, **self._ask_others_than(sender)})
            case _:
                return step

    def _note_message(self, sender: SiloId, message: FromSilo) -> None:
        match message:
            case Refused():
                known = [silo for silo in dict.fromkeys(message.silos) if silo in self._roster]
                how = "needs" if message.rule == "lock" else "names"
                missing = f" ({how} {', '.join(known)})" if known else ""
                rule = "".join(c if c.isprintable() else " " for c in message.rule)
                self._losses[sender] = f"refused: {rule}{missing}"
                self._absent.add(sender)
                if message.rule == "ledger":
                    self._put_back |= {(silo, sender) for silo in known if silo != sender}
            case BoxReport():
                self._losses[sender] = f"refused: boxes of {message.dealer}"
                self._absent.discard(sender)
            case Ready() if not isinstance(self._state, _Training):
                self._absent.discard(sender)  # For the next attempt; to this one it is lost.
            case Opened() if self.phase not in {"Training", "Opened"}:
                self._losses.pop(sender, None)
                self._absent.discard(sender)
            case _:
                self._losses.pop(sender, None)
                self._absent.discard(sender)
                self._apart.discard(sender)

    def _accept(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        match self._state, message:
            case (_Training() as state, Ready()):
                if message.training != self._training:
                    # Of an earlier round or job, for all that can be known: nothing in it is signed.
                    raise UnexpectedMessage(f"{sender} is ready for other terms")
                state.gate.admit(sender, None)
            case ((_Training() | _Attempting() | _Voiding()), Opened()) if is_encrypted(self._terms.scheme):
                return self._hear(sender, message)
            case (_, Refused(attempt=attempt)) if attempt not in {0, self.attempt}:
                raise UnexpectedMessage(f"{sender} refuses an earlier attempt")
            case ((_Training() | _Voiding()) as state, Refused()):
                state.gate.strike(sender)
            case (_Voiding() as state, Voided()):
                if any(void.silo != sender for void in message.voids):
                    raise FaultySilo(sender, "sends a void in another silo's name")
                state.gate.admit(sender, self._wanted(message.voids))
            case (_, KeyWanted() | KeyForwarded() | KeyTaken()) if self._desk is not None:
                helped = self._desk.receive(sender, message, absent=self._absent - {sender})
                invited = dict.fromkeys(helped.holders, self.invitation)
                return Step((InputAccepted(sender, message),), {**helped.outbox, **invited})
            case (_Attempting() | _Voiding(), Ready()):
                pass  # It was late, or has restarted; the next attempt invites it.
            case (_Attempting() as state, _):
                return state.session.receive(sender, message)
            case _:
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {self.phase}")
        return Step((InputAccepted(sender, message),), {})

    def _hear(self, sender: SiloId, opened: Opened) -> CoordinatorStep:
        """Take what a silo says of the sum, which it may have opened in an earlier attempt."""
        if opened.training != self._training:
            raise UnexpectedMessage(f"{sender} opened the sum of another round")
        survivors = opened.survivors
        if sender not in survivors or survivors != self._roster.ordered(frozenset(survivors)):
            raise FaultySilo(sender, "it opened a sum that it cannot be in")
        step = Step[CoordinatorRecord, Outbox]((InputAccepted(sender, opened),), {})
        match self._state:
            case _Training() as state:
                state.gate.admit(sender, None)  # It answers attempts with the vector that it keeps.
            case _Attempting(session) if session.phase == "Opened":
                step = session.receive(sender, opened)
            case _:
                pass
        self._said[sender] = opened
        return step

    def _wanted(self, voids: tuple[Void, ...]) -> tuple[Void, ...]:
        """Return one void for each round that was asked about; what else a silo sends goes to nobody."""
        asked = {asked.round_id for asked in self._memory.asked}
        first = {void.round_id: void for void in reversed(voids) if void.round_id in asked}
        return tuple(void for void in first.values() if valid_voids([void], self._roster))

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
        return Step((SiloLost(silo, fault is not None),), self._ask_others_than(silo))

    def _ask_others_than(self, silo: SiloId) -> Outbox:
        """Return what asks others for the keys and bases that ``silo`` was asked for."""
        self._bases.lose(silo)
        if self._desk is not None:
            self._desk.lose(silo)
        return self._ask_holders()

    def _ask_holders(self) -> Outbox:
        """Return what asks silos for bases and keys that others lack; one message to each."""
        bases = self._bases.ask(absent=self._absent)
        if self._desk is None:
            return bases
        return {**bases, **self._desk.ask(absent=self._absent | bases.keys())}

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
        """Close the phase if it can close, or ask others for what silos lack; see ``CoordinatorSession``."""
        try:
            step = self._advance(now)
        except RoundAborted as failure:
            failure.opened |= self.may_be_open
            raise
        if step.output:  # One message a silo in each step; the alarm is still due.
            return step
        self._bases.advance(now)
        if self._desk is not None:
            self._desk.advance(now)
        return Step(step.records, self._ask_holders())

    def _advance(self, now: float) -> CoordinatorStep:
        opened = self._agreed()
        if opened is not None and self.phase != "Opened":  # There the others are waited for.
            return self._end(opened, now)
        match self._state:
            case (_Training() | _Voiding()) as state if state.gate.closable(now):
                self._note_silence(now)
                if isinstance(state, _Training):
                    self._absent |= state.gate.expected - state.gate.close().keys()
                    return self._ask_voids(now) if self._memory.asked else self._new_attempt(now, ())
                voids = tuple(void for silo in state.gate.close().values() for void in silo)
                self._bound_to = self._still_bound(voids)
                return self._new_attempt(now, voids)
            case _Attempting():
                return self._advance_attempt(self._state.session, now)
            case _:
                return Step((), {})

    # --- attempts ------------------------------------------------------------------------------------------

    @property
    def excluded(self) -> frozenset[SiloId]:
        """Silos that the next attempt leaves out."""
        match self._terms.scheme:
            case MaskingParameters(cohort=cohort):
                dealers = {dealer for dealer, _ in self._memory.reports}
                reported = {dealer for dealer in dealers if len(self._memory.reporters(dealer)) > cohort.c}
                return self.put_back | reported | {evidence.dealer for evidence in self._memory.evidence}
            case _:
                return self.put_back

    @property
    def put_back(self) -> frozenset[SiloId]:
        """Silos of which more peers than may collude say that their ledger went back; left out as well."""
        if isinstance(self._terms.scheme, PlainParameters):
            return frozenset()
        said = Counter(silo for silo, _ in self._put_back)
        return frozenset(silo for silo, peers in said.items() if peers > self._terms.scheme.cohort.c)

    def _still_bound(self, voids: tuple[Void, ...]) -> frozenset[SiloId] | None:
        """Return the set that silos stay locked to, because too few can void it; None if there is none.

        With anybody else in it the next attempt would only be refused.
        """
        match self._terms.scheme:
            case PlainParameters():
                return None
            case scheme:
                voided = Counter(void.round_id for void in voids)  # One of each silo: see ``_wanted``.
                sets = (
                    asked.survivors
                    for asked in reversed(self._memory.asked)
                    if voided[asked.round_id] < voids_needed(scheme)
                )
                return next(map(frozenset, sets), None)

    def _new_attempt(self, now: float, voids: tuple[Void, ...]) -> CoordinatorStep:
        self._memory = msgspec.structs.replace(self._memory, attempt=self.attempt + 1)
        self._failed = None
        invited = (self._bound_to or frozenset(self._roster.silos)) - self.excluded
        session: _Session
        match self._terms.scheme:
            case MaskingParameters():
                session = MaskingCoordinator(
                    self._roster,
                    terms=self._terms,
                    attempt=self.attempt,
                    seconds=self._seconds,
                    excluded=frozenset(self._roster.silos) - invited,
                    voids=voids,
                    evidence=self._memory.evidence,
                    past=self._memory.past,
                    threads=self._threads,
                )
            case PlainParameters():
                session = PlainCoordinator(
                    self._roster, terms=self._terms, attempt=self.attempt, seconds=self._seconds
                )
            case _:
                session = EncryptedCoordinator(
                    self._roster,
                    terms=self._terms,
                    adder=self._needed_adder(),
                    attempt=self.attempt,
                    seconds=self._seconds,
                    excluded=frozenset(self._roster.silos) - invited,
                    voids=voids,
                    past=self._memory.encrypted,
                )
        step = session.open(now)
        self._state = _Attempting(session)
        needed = len(invited) if self._bound_to else self._terms.scheme.quorum
        if len(invited - self._absent) < needed:
            self._apart = set()  # Without them there is no sum: they are waited for.
        else:
            self._apart = set(self._absent)
        for silo in self._apart:
            session.lose(silo)
        return step

    def _advance_attempt(self, session: _Session, now: float) -> CoordinatorStep:
        phase, waiting, deadline = session.phase, session.waiting, session.deadline
        if self._failed is not None:
            return self._retry(session, self._failed, now)
        # Before the sum is opened: afterwards the session no longer tells what silos had signed.
        known = self.memory
        try:
            step = session.advance(now)
        except (RoundAborted, FaultySilo) as failure:
            self._note_silence(now)  # Not who was merely not needed any more.
            opened = self._agreed()
            return self._retry(session, failure, now) if opened is None else self._end(opened, now)
        if deadline is not None and now >= deadline and session.phase != phase:
            self._note(phase, waiting)
        if session.outcome is not None:
            self._memory = known
            if isinstance(session, EncryptedCoordinator):
                self._blame_all(session.faulty)
            self._state = _Done(session.outcome)
        elif session.phase != phase:
            for silo in self._apart:
                session.lose(silo)
        return step

    def _agreed(self) -> SealedSum | None:
        """Return the sum that more silos say they opened than may collude."""
        done = isinstance(self._state, _Done) or not self._said
        return None if done else agreed(self._said, c=self._colluders)

    def _end(self, outcome: SealedSum, now: float) -> CoordinatorStep:
        """End the round with a sum that silos opened before the phase in which they are asked for it."""
        self._memory = self.memory
        by = (opened.faulty for opened in self._said.values())
        self._blame_all(named(by, outcome.survivors, c=self._colluders) | differing(self._said, outcome))
        self._state = _Done(outcome)
        return Step((PhaseClosed(now),), {})

    def _retry(self, session: _Session, failure: SecaggError, now: float) -> CoordinatorStep:
        if isinstance(failure, FaultySilo):
            self._blame(failure)
        if isinstance(session, EncryptedCoordinator):
            self._blame_all(session.faulty)
        self._may_be_open |= isinstance(failure, RoundAborted) and failure.opened
        self._memory = self.memory
        self._left_out |= self.put_back
        self._absent -= {peer for silo, peer in self._put_back if silo in self.put_back}
        for dealer in self.excluded - self.put_back - self._faults.keys():
            self._blame(FaultySilo(dealer, "its boxes or shares are not what it committed to", dealer=True))
        if self.attempt >= self._attempts or self._roster.n - len(self.excluded) < self._terms.scheme.quorum:
            raise self._verdict(failure)
        self._first_failure = self._first_failure or self._with_all_missing(failure)
        if isinstance(session, MaskingCoordinator) and session.evidence:
            # It moves the locks by itself, to the set without the dealer; voids cannot exist beside it.
            self._bound_to = frozenset(self._memory.asked[-1].survivors)
            return self._new_attempt(now, ())
        return self._ask_voids(now) if self._memory.asked else self._new_attempt(now, ())

    def _verdict(self, failure: SecaggError) -> SecaggError:
        """Return what ends the round: where silos were lost says more than where they did not return."""
        first, last = self._first_failure, self._with_all_missing(failure)
        if first is None:
            return last
        if isinstance(first, TooFewSilos) and isinstance(last, TooFewSilos):
            return first
        last.__cause__ = first
        return last

    def _with_all_missing(self, failure: SecaggError) -> SecaggError:
        """Name everybody who is missing, also those that the last phase did not expect any more."""
        if not isinstance(failure, TooFewSilos):
            return failure
        missing = tuple(sorted(frozenset(failure.missing) | self.losses.keys()))
        return TooFewSilos(failure.have, failure.need, failure.phase, missing)

    def _recalled(self, session: MaskingCoordinator | EncryptedCoordinator) -> Memory:
        """Return what is kept of the attempts so far, that of ``session`` among them."""
        kept = self._memory
        asked, survivors = session.round_id, session.survivors
        if isinstance(session, EncryptedCoordinator):
            return msgspec.structs.replace(
                kept,
                asked=(*kept.asked, Asked(session.round_id, survivors)) if survivors else kept.asked,
                encrypted=(*kept.encrypted, session.round_id)[-MAX_PAST_ATTEMPTS:],
            )
        reports = ((dealer, reporter) for reporter, dealer in session.reports)
        return Memory(
            release=kept.release,
            attempt=kept.attempt,
            asked=kept.asked if asked is None else (*kept.asked, Asked(asked, survivors)),
            evidence=kept.evidence + session.evidence,
            reports=tuple(dict.fromkeys((*kept.reports, *reports))),
            past=(*kept.past, session.attempt)[-MAX_PAST_ATTEMPTS:],
            encrypted=kept.encrypted,
        )

    def _ask_voids(self, now: float) -> CoordinatorStep:
        gate: Gate[tuple[Void, ...]] = Gate(
            "Voided", frozenset(self._roster.silos), quorum=0, deadline=now + self._seconds
        )
        for silo in self._absent:
            gate.lose(silo)
        self._state = _Voiding(gate)
        request = VoidRequested(tuple(asked.round_id for asked in self._memory.asked))
        return Step((PhaseClosed(now),), dict.fromkeys(self._roster.silos, request))

    # --- small parts ---------------------------------------------------------------------------------------

    @property
    def _colluders(self) -> int:
        scheme = self._terms.scheme
        return 0 if isinstance(scheme, PlainParameters) else scheme.cohort.c

    def _needed_adder(self) -> Adder:
        if self._adder is None:
            raise UsageError("a round over ciphertexts needs what adds them")
        return self._adder

    def _blame(self, fault: FaultySilo) -> None:
        self._faults[fault.silo] = f"faulty: {fault}"

    def _blame_all(self, faults: Mapping[SiloId, str]) -> None:
        for silo, fault in faults.items():
            self._blame(FaultySilo(silo, fault))

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
