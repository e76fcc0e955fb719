"""The coordinator's half of a round over ciphertexts: adds what it cannot open, and learns not even the sum.

It checks every signature, size and ciphertext before it adds or forwards anything, so that a fault names the
silo that made it. Where one key opens, it sends the sum; where shares do, it sends the signed uploads, which
every silo adds itself, and passes on sealed parts. What it learns at the end is the digest of the model that
silos computed.

Source: "Ciphertexts" in ``docs/protocol.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from secagg.encrypted import transcript
from secagg.encrypted.cipher import SEAL_SIZE, Adder, Form, RunningSum
from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    MalformedMessage,
    RoundAborted,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.agreement import check_point
from secagg.heads import announced_heads, check_sent
from secagg.messages import (
    AggregateAnnounced,
    ConsistencyCheck,
    EncryptedInput,
    FromSilo,
    Opened,
    OpeningRequested,
    PartialDecryption,
    PartialsAnnounced,
    Refused,
    RoundOpened,
    SignedUpload,
    UploadsAnnounced,
    Void,
)
from secagg.names import SiloId
from secagg.payload import EndToEnd, Payload
from secagg.phases import Gate
from secagg.privacy.heads import LedgerHead
from secagg.records import InputAccepted, PhaseClosed, SiloLost
from secagg.roster import Roster
from secagg.session import CoordinatorStep, Outbox, SealedSum, Step
from secagg.survivors import signed_survivors
from secagg.terms import (
    CKKSParameters,
    PaillierParameters,
    Terms,
    ThresholdPaillierParameters,
    training_digest,
)

T = TypeVar("T")


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _Collecting:
    gate: Gate[SignedUpload]
    total: RunningSum | None  # None: silos add themselves, and uploads are kept for them.
    kept: dict[SiloId, Payload]


@dataclass(frozen=True)
class _Checking:
    gate: Gate[bytes]
    collected: _Collecting
    uploads: tuple[tuple[SiloId, SignedUpload], ...]  # of the survivors, in roster order


@dataclass(frozen=True)
class _Decrypting:
    gate: Gate[PartialDecryption]
    uploads: tuple[tuple[SiloId, SignedUpload], ...]


@dataclass(frozen=True)
class _Opening:
    gate: Gate[Opened]
    accused: dict[SiloId, tuple[SiloId, ...]]  # by whom: silos whose part is wrong
    survivors: tuple[SiloId, ...]


@dataclass(frozen=True)
class _Done:
    outcome: SealedSum | None  # None: the total holds half an upload and is never sent


_State: TypeAlias = _Start | _Collecting | _Checking | _Decrypting | _Opening | _Done


class EncryptedCoordinator:
    """The coordinator in one attempt; single use.

    Args:
        roster: the pinned roster.
        terms: as sent in TrainingOpened.
        adder: of the key that the terms name, and their encoding.
        attempt: from 1.
        seconds: how long each phase waits at the most.
        excluded: silos that are not invited.
        voids: what lifts locks of earlier attempts.
        past: round ids of attempts that are over; their messages are late, not wrong.

    Guarantees:
        Where one key opens, one running total is held, never two uploads, and sent from where it lies; where
        shares do, nothing is held but what uploads and parts were kept in when they came.
        A fault that can be attributed names its maker; nobody else is ever named, and neither is a silo
        whose message is of an attempt in ``past``.
        It is told the next model by its digest, which more silos name than may collude.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        terms: Terms,
        adder: Adder,
        attempt: int,
        seconds: float,
        excluded: frozenset[SiloId] = frozenset(),
        voids: tuple[Void, ...] = (),
        past: Container[bytes] = (),
    ) -> None:
        match terms.scheme:
            case PaillierParameters() | CKKSParameters() as scheme:
                self._shares = False
            case ThresholdPaillierParameters() as scheme:
                self._shares = True
            case _:
                raise UsageError("these terms are not those of ciphertexts")
        if adder.key != scheme.key:
            raise UsageError("the key that is added under is not the one that the terms name")
        self._cohort = scheme.cohort
        self._roster = roster
        self._terms = terms
        self._adder = adder
        self._opened = RoundOpened(training_digest(terms), attempt, seconds, voids)
        self._seconds = seconds
        self._invited = frozenset(roster.silos) - excluded
        self._past = past
        self._round_id = transcript.round_id(self._opened, adder)
        self._state: _State = _Start()
        self._heads: dict[SiloId, LedgerHead] = {}
        self._faulty: dict[SiloId, str] = {}

    # --- what the driver reads -------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When the phase closes whatever arrived."""
        match self._state:
            case _Start() | _Done():
                return None
            case state:
                return state.gate.deadline

    @property
    def phase(self) -> str | None:
        """The phase whose replies are awaited, by the name of the reply."""
        match self._state:
            case _Start() | _Done():
                return None
            case state:
                return state.gate.phase

    @property
    def waiting(self) -> frozenset[SiloId]:
        """Who is awaited."""
        match self._state:
            case _Start() | _Done():
                return frozenset()
            case state:
                return state.gate.waiting

    @property
    def outcome(self) -> SealedSum | None:
        """What silos opened."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def round_id(self) -> bytes:
        """What names this attempt in its messages."""
        return self._round_id

    @property
    def survivors(self) -> tuple[SiloId, ...]:
        """The set that silos were asked to sign, in roster order; empty before."""
        match self._state:
            case _Checking() | _Decrypting():
                return transcript.names(self._state.uploads)
            case _Opening():
                return self._state.survivors
            case _:
                return ()

    @property
    def faulty(self) -> Mapping[SiloId, str]:
        """Silos that did not open as the others did, and why they are thought to be faulty."""
        return self._faulty

    # --- inputs ------------------------------------------------------------------------------------------

    def open(self, now: float) -> CoordinatorStep:
        """Invite the whole roster; see ``CoordinatorSession.open``."""
        if not isinstance(self._state, _Start):
            raise UsageError("an attempt is opened once")
        gate = self._gate("EncryptedInput", self._invited, now, quorum=self._cohort.min_survivors)
        self._state = _Collecting(gate, None if self._shares else self._adder.begin(), {})
        return self._closed(now, dict.fromkeys(self._roster.ordered(self._invited), self._opened))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        try:
            self._receive(sender, message)
        except FaultySilo:
            self.lose(sender, struck=True)
            raise
        return Step((InputAccepted(sender, message),), {})

    def lose(self, silo: SiloId, *, struck: bool = False) -> CoordinatorStep:
        """Wait for ``silo`` no longer in this phase; see ``CoordinatorSession.lose``."""
        match self._state:
            case _Start() | _Done():
                pass
            case state:
                leave = state.gate.strike if struck else state.gate.lose
                leave(silo)
        return Step((SiloLost(silo, struck),), {})

    def defer(self, moment: float) -> None:
        """Wait until ``moment`` at least; see ``CoordinatorSession.defer``."""
        match self._state:
            case _Start() | _Done():
                pass
            case state:
                state.gate.defer(moment)

    def advance(self, now: float) -> CoordinatorStep:
        """Close the phase if it can close; see ``CoordinatorSession.advance``."""
        match self._state:
            case _Start() | _Done():
                return Step((), {})
            case state if not state.gate.closable(now):
                return Step((), {})
            case _Collecting() as state:
                return self._closed(now, self._announce_uploads(state, now))
            case _Checking() as state:
                return self._closed(now, self._request_opening(state, now))
            case _Decrypting() as state:
                return self._closed(now, self._announce_parts(state, now))
            case _Opening() as state:
                try:
                    self._finish(state)
                except RoundAborted as failure:
                    failure.opened = True
                    raise
                return self._closed(now, {})

    # --- accepting, one method a phase ---------------------------------------------------------------------

    def _receive(self, sender: SiloId, message: FromSilo) -> None:
        match self._state, message:
            case (_Collecting() as state, EncryptedInput()):
                state.gate.check(sender)
                self._check_round(sender, message.round_id)
                self._add(state, sender, message)
            case (_Checking() as state, ConsistencyCheck()):
                state.gate.check(sender)
                self._check_round(sender, message.round_id)
                self._check_signature(state, sender, message)
                state.gate.admit(sender, message.signature)
            case (_Decrypting() as state, PartialDecryption()):
                state.gate.check(sender)
                self._check_round(sender, message.round_id)
                self._check_part(state, sender, message)
                state.gate.admit(sender, message)
            case (_Opening() as state, Opened()):
                if message.training != self._opened.training:
                    # Of an earlier round, for all that can be known: nothing in it is signed.
                    raise UnexpectedMessage(f"{sender} opened the sum of another round")
                state.gate.admit(sender, message)
                state.accused[sender] = message.faulty
            case (_Start() | _Done(), _):
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")
            case (state, Refused()):
                if isinstance(state, _Opening) and message.rule == transcript.WRONG_PARTS:
                    state.accused.setdefault(sender, message.silos)
                state.gate.strike(sender)
            case (state, _):
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {state.gate.phase}")

    def _add(self, state: _Collecting, sender: SiloId, message: EncryptedInput) -> None:
        upload, ciphertexts = message.upload, message.ciphertexts
        if not self._adder.upload.fits(ciphertexts):
            raise FaultySilo(sender, "its ciphertexts have another length or type than the terms say")
        if ciphertexts.digest != upload.content:
            raise FaultySilo(sender, "its ciphertexts are not those that it signed")
        if not transcript.is_signed(self._roster, self._adder, self._round_id, sender, upload):
            raise FaultySilo(sender, "its upload is not signed by the pinned identity for this round")
        if (upload.box is not None) != self._shares:
            raise FaultySilo(sender, "its upload names a key to seal to where none is used, or none")
        check_sent(self._roster, self._terms, sender, message)
        try:
            if upload.box is not None:
                check_point(upload.box)
            self._adder.check(ciphertexts, silo=sender, round_id=self._round_id)
        except MalformedMessage as error:
            if not _reads_whole(ciphertexts):
                raise self._spoiled() from error  # The silo sent all of it: what its digest is of was here.
            raise FaultySilo(sender, f"its upload: {error}") from error
        except EnvironmentFault as error:
            raise self._spoiled() from error
        if message.head is not None:
            self._heads[sender] = message.head
        if state.total is None:
            state.kept[sender] = ciphertexts
        else:
            try:
                state.total.add(ciphertexts)
            except (MalformedMessage, EnvironmentFault) as error:
                # It was checked before, so this is the end of the attempt, not of a silo.
                raise self._spoiled() from error
        state.gate.admit(sender, upload)

    def _spoiled(self) -> RoundAborted:
        self._state = _Done(None)
        return RoundAborted("a spooled upload could not be read back whole")

    def _check_signature(self, state: _Checking, sender: SiloId, message: ConsistencyCheck) -> None:
        signed = ((sender, message.signature),)
        survivors = transcript.names(state.uploads)
        if not signed_survivors(self._roster, self._set_id(state.uploads), survivors, signed):
            raise FaultySilo(sender, "its signature over the survivor set is not valid")

    def _check_part(self, state: _Decrypting, sender: SiloId, message: PartialDecryption) -> None:
        if tuple(peer for peer, _ in message.boxes) != transcript.names(state.uploads):
            raise FaultySilo(sender, "its part of the opening is not sealed to each survivor")
        if not Form("u1", self._adder.part_size + SEAL_SIZE).fits(message.sealed):
            raise FaultySilo(sender, "its part of the opening has another length or type than it must")

    def _check_round(self, sender: SiloId, named: bytes) -> None:
        if named in self._past:
            raise UnexpectedMessage(f"{sender}: a message of an earlier attempt came late")
        if named != self._round_id:
            raise FaultySilo(sender, "its message names another round")

    # --- closing, one method a phase -----------------------------------------------------------------------

    def _announce_uploads(self, state: _Collecting, now: float) -> Outbox:
        uploads = self._in_order(state.gate.close())
        gate: Gate[bytes] = self._gate("ConsistencyCheck", frozenset(uploads), now, quorum=self._cohort.t)
        self._state = _Checking(gate, state, tuple(uploads.items()))
        heads = announced_heads(self._heads, uploads)
        return dict.fromkeys(uploads, UploadsAnnounced(self._round_id, tuple(uploads.items()), heads))

    def _request_opening(self, state: _Checking, now: float) -> Outbox:
        signatures = tuple(self._in_order(state.gate.close()).items())
        survivors, total = transcript.names(state.uploads), state.collected.total
        if total is not None:
            self._await_opened(survivors, now)
            announced = AggregateAnnounced(self._round_id, signatures, total.total())
            return dict.fromkeys(survivors, announced)
        kept = state.collected.kept
        gate: Gate[PartialDecryption] = self._gate(
            "PartialDecryption", frozenset(survivors), now, quorum=self._cohort.t
        )
        self._state = _Decrypting(gate, state.uploads)
        requested = OpeningRequested(self._round_id, signatures, joined(kept[silo] for silo in survivors))
        return dict.fromkeys(survivors, requested)

    def _announce_parts(self, state: _Decrypting, now: float) -> Outbox:
        replies = self._in_order(state.gate.close())
        survivors = transcript.names(state.uploads)
        self._await_opened(survivors, now)
        sealed = joined(reply.sealed for reply in replies.values())
        return {
            silo: PartialsAnnounced(
                self._round_id,
                tuple((sender, dict(reply.boxes)[silo]) for sender, reply in replies.items()),
                sealed,
            )
            for silo in survivors
        }

    def _await_opened(self, survivors: tuple[SiloId, ...], now: float) -> None:
        gate: Gate[Opened] = self._gate("Opened", frozenset(survivors), now, quorum=self._cohort.c + 1)
        self._state = _Opening(gate, {}, survivors)

    def _finish(self, state: _Opening) -> None:
        self._faulty = named(state.accused.values(), state.survivors, c=self._cohort.c)
        replies = state.gate.close()
        outcome = agreed(replies, c=self._cohort.c)
        if outcome is None:
            raise RoundAborted("silos computed different models from one sum: none is trusted")
        self._faulty |= differing(replies, outcome)
        self._state = _Done(outcome)

    # --- small parts -----------------------------------------------------------------------------------

    def _set_id(self, uploads: tuple[tuple[SiloId, SignedUpload], ...]) -> bytes:
        return transcript.set_id(self._round_id, uploads)

    def _gate(self, phase: str, expected: frozenset[SiloId], now: float, *, quorum: int) -> Gate[Any]:
        return Gate(phase, expected, quorum=quorum, deadline=now + self._seconds)

    def _in_order(self, replies: Mapping[SiloId, T]) -> dict[SiloId, T]:
        return {silo: replies[silo] for silo in self._roster.ordered(frozenset(replies))}

    @staticmethod
    def _closed(now: float, outbox: Outbox) -> CoordinatorStep:
        return Step((PhaseClosed(now),), outbox)


def agreed(said: Mapping[SiloId, Opened], *, c: int) -> SealedSum | None:
    """Return what more silos say they opened than may collude, so that one of them is honest, or None."""
    sums = Counter(SealedSum(opened.base, opened.survivors) for opened in said.values())
    return next((outcome for outcome, count in sums.items() if count > c), None)


def named(by: Iterable[tuple[SiloId, ...]], survivors: Iterable[SiloId], *, c: int) -> dict[SiloId, str]:
    """Return whose part of the opening is wrong, and in what words: whom more silos name than may collude."""
    votes = Counter(silo for accused in by for silo in frozenset(accused))
    return {
        silo: "its part of the opening is wrong, as more silos say than may collude"
        for silo in survivors
        if votes[silo] > c
    }


def differing(said: Mapping[SiloId, Opened], outcome: SealedSum) -> dict[SiloId, str]:
    """Return who did not open as the others did that are believed, and in what words."""
    return {
        silo: "it computed another model from the sum than the others"
        for silo, opened in said.items()
        if SealedSum(opened.base, opened.survivors) != outcome
    }


def _reads_whole(payload: Payload) -> bool:
    """Whether all bytes of ``payload`` are still there."""
    try:
        return sum(len(piece) for piece in payload.pieces()) == payload.size
    except (MalformedMessage, EnvironmentFault):
        return False


def joined(payloads: Iterable[Payload]) -> Payload:
    """Return payloads of one form, at least one, end to end; they are read where they lie, when it is."""
    parts = tuple(payloads)
    first, buffers = parts[0], tuple(part.buffer() for part in parts)
    content = EndToEnd(len(parts), first.size, buffers.__getitem__)
    return Payload.over(first.dtype, len(parts) * first.length, content)
