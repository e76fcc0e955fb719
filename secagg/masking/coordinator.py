"""The coordinator's half of pairwise masking: adds what it cannot read, opens the sum of the survivors.

It checks every signature, commitment and size before it forwards or adds anything, so that a fault names
the silo that made it and the round goes on without that silo while t remain.

Source: Bonawitz et al., CCS 2017, figure 4, with the additions of ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.errors import (
    EnvironmentFault,
    FaultySilo,
    MalformedMessage,
    RoundAborted,
    UnexpectedMessage,
    UsageError,
)
from secagg.hazmat.prg import add_streams
from secagg.heads import announced_heads, check_sent
from secagg.masking import transcript
from secagg.masking.checks import bundle_fault, input_fault, opening_matches, share_set_fault
from secagg.masking.opening import Streams, kind_of, remaining_streams
from secagg.masking.past import PastAttempt
from secagg.messages import (
    AdvertiseKeys,
    BoxReport,
    ConsistencyCheck,
    DealerEvidence,
    FromSilo,
    KeyBundle,
    KeysAnnounced,
    MaskedInput,
    Opening,
    Refused,
    RoundOpened,
    ShareKeys,
    SharesAnnounced,
    ShareSet,
    SumOpened,
    SurvivorsAnnounced,
    Unmasking,
    UnmaskingRequested,
    Void,
)
from secagg.names import SiloId
from secagg.payload import Payload
from secagg.phases import Gate
from secagg.privacy.heads import LedgerHead
from secagg.records import InputAccepted, PhaseClosed, SiloLost
from secagg.roster import Roster
from secagg.session import Aggregate, CoordinatorStep, Outbox, Step
from secagg.survivors import count_matches, signed_survivors
from secagg.terms import MaskingParameters, Terms, training_digest


@dataclass(frozen=True)
class _Start:
    pass


@dataclass(frozen=True)
class _Advertising:
    gate: Gate[KeyBundle]


@dataclass(frozen=True)
class _Sharing:
    gate: Gate[ShareKeys]
    session: bytes
    bundles: Mapping[SiloId, KeyBundle]  # U1


@dataclass(frozen=True)
class _Collecting:
    gate: Gate[None]
    session: bytes
    round_id: bytes
    share_sets: Mapping[SiloId, ShareSet]  # U2
    total: NDArray[Any]


@dataclass(frozen=True)
class _Checking:
    gate: Gate[bytes]
    collected: _Collecting
    survivors: tuple[SiloId, ...]


@dataclass(frozen=True)
class _Unmasking:
    gate: Gate[Mapping[SiloId, Opening]]
    collected: _Collecting
    survivors: tuple[SiloId, ...]
    signatures: tuple[tuple[SiloId, bytes], ...]


@dataclass(frozen=True)
class _Done:
    outcome: Aggregate | None  # None: the total holds half an upload and is never opened


_State: TypeAlias = _Start | _Advertising | _Sharing | _Collecting | _Checking | _Unmasking | _Done


class MaskingCoordinator:
    """The coordinator in one attempt; single use.

    Args:
        roster: the pinned roster; all of it is invited.
        terms: as sent in TrainingOpened.
        attempt: from 1.
        seconds: how long each phase waits at the most.
        excluded: silos proven faulty in earlier attempts of the round.
        voids, evidence: what lifts or moves locks of earlier attempts.
        past: attempts that are over; their messages are late, not wrong.
        threads: for the masks; None for all usable cores.

    Guarantees:
        One running total is held, never two uploads.
        A request to unmask names one set and nothing else.
        A fault that can be attributed names its maker; nobody else is ever named, and neither is a silo
        whose message is of an attempt in ``past``.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        terms: Terms,
        attempt: int,
        seconds: float,
        excluded: frozenset[SiloId] = frozenset(),
        voids: tuple[Void, ...] = (),
        evidence: tuple[DealerEvidence, ...] = (),
        past: tuple[PastAttempt, ...] = (),
        threads: int | None = None,
    ) -> None:
        match terms.scheme:
            case MaskingParameters(cohort=cohort):
                self._cohort = cohort
            case _:
                raise UsageError("these terms are not those of masking")
        self._roster = roster
        self._terms = terms
        self._opened = RoundOpened(training_digest(terms), attempt, seconds, voids, evidence)
        self._seconds = seconds
        self._invited = frozenset(roster.silos) - excluded
        self._threads = threads
        self._past = past
        self._attempt = PastAttempt(
            transcript.descriptor_digest(self._opened.training, self._opened.attempt, self._opened.seconds)
        )
        self._state: _State = _Start()
        self._heads: dict[SiloId, LedgerHead] = {}
        self._evidence: tuple[DealerEvidence, ...] = ()
        self._reports: tuple[tuple[SiloId, SiloId], ...] = ()

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
    def outcome(self) -> Aggregate | None:
        """The opened sum."""
        return self._state.outcome if isinstance(self._state, _Done) else None

    @property
    def round_id(self) -> bytes | None:
        """The round whose survivor set silos were asked to sign; None before."""
        match self._state:
            case _Checking() | _Unmasking():
                return self._state.collected.round_id
            case _:
                return None

    @property
    def survivors(self) -> tuple[SiloId, ...]:
        """The set that silos were asked to sign, in roster order; empty before."""
        match self._state:
            case _Checking() | _Unmasking():
                return self._state.survivors
            case _:
                return ()

    @property
    def evidence(self) -> tuple[DealerEvidence, ...]:
        """Proofs against dealers that this attempt found."""
        return self._evidence

    @property
    def attempt(self) -> PastAttempt:
        """What names this attempt in its messages, as far as it has come."""
        return self._attempt

    @property
    def reports(self) -> tuple[tuple[SiloId, SiloId], ...]:
        """(reporter, dealer) of every BoxReport."""
        return self._reports

    # --- inputs ------------------------------------------------------------------------------------------

    def open(self, now: float) -> CoordinatorStep:
        """Invite the whole roster; see ``CoordinatorSession.open``."""
        if not isinstance(self._state, _Start):
            raise UsageError("an attempt is opened once")
        self._state = _Advertising(self._gate("AdvertiseKeys", self._invited, now))
        return self._closed(now, dict.fromkeys(self._roster.ordered(self._invited), self._opened))

    def receive(self, sender: SiloId, message: FromSilo) -> CoordinatorStep:
        """Take one message of ``sender``; see ``CoordinatorSession.receive``."""
        try:
            self._receive(sender, message)
        except FaultySilo:
            if any(past.has(self._roster, sender, message) for past in self._past):
                raise UnexpectedMessage(f"{sender}: a message of an earlier attempt came late") from None
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
            case _Advertising() as state:
                return self._closed(now, self._announce_keys(state, now))
            case _Sharing() as state:
                return self._closed(now, self._announce_shares(state, now))
            case _Collecting() as state:
                return self._closed(now, self._announce_survivors(state, now))
            case _Checking() as state:
                return self._closed(now, self._request_unmasking(state, now))
            case _Unmasking() as state:
                return self._closed(now, self._open_sum(state))

    # --- accepting, one method a phase ---------------------------------------------------------------------

    def _receive(self, sender: SiloId, message: FromSilo) -> None:
        match self._state, message:
            case (_Advertising() as state, AdvertiseKeys()):
                state.gate.check(sender)
                blame(sender, bundle_fault(self._roster, self._descriptor, sender, message.bundle))
                state.gate.admit(sender, message.bundle)
            case (_Sharing() as state, ShareKeys()):
                state.gate.check(sender)
                self._check_shares(state, sender, message)
                state.gate.admit(sender, message)
            case (_Collecting() as state, MaskedInput()):
                state.gate.check(sender)
                self._add_input(state, sender, message)
            case (_Collecting() as state, BoxReport()):
                state.gate.check(sender)
                if message.session != state.session or message.dealer not in state.share_sets:
                    raise FaultySilo(sender, "reports a dealer that this session does not have")
                self._reports = (*self._reports, (sender, message.dealer))
                state.gate.strike(sender)
            case (_Checking() as state, ConsistencyCheck()):
                state.gate.check(sender)
                self._check_round(sender, message.round_id, state.collected)
                signed = ((sender, message.signature),)
                if not signed_survivors(self._roster, message.round_id, state.survivors, signed):
                    raise FaultySilo(sender, "its signature over the survivor set is not valid")
                state.gate.admit(sender, message.signature)
            case (_Unmasking() as state, Unmasking()):
                state.gate.check(sender)
                self._check_openings(state, sender, message)
                state.gate.admit(sender, dict(message.openings))
            case (_Start() | _Done(), _):
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted now")
            case (state, Refused()):
                state.gate.strike(sender)
            case (state, _):
                raise UnexpectedMessage(f"{type(message).__name__} is not accepted in {state.gate.phase}")

    def _check_shares(self, state: _Sharing, sender: SiloId, message: ShareKeys) -> None:
        blame(sender, share_set_fault(self._roster, state.session, sender, message.share_set, state.bundles))
        entries = [entry for entry in message.share_set.entries if entry.recipient != sender]
        if [recipient for recipient, _, _ in message.boxes] != [entry.recipient for entry in entries]:
            raise FaultySilo(sender, "its boxes are not one for each peer")
        for entry, (_, seed, mask) in zip(entries, message.boxes, strict=True):
            if (transcript.box_digest(seed), transcript.box_digest(mask)) != (entry.seed_box, entry.mask_box):
                raise FaultySilo(sender, "its boxes are not those that it signed")

    def _add_input(self, state: _Collecting, sender: SiloId, message: MaskedInput) -> None:
        self._check_round(sender, message.round_id, state)
        blame(sender, input_fault(self._terms.encoding, message.vector))
        check_sent(self._roster, self._terms, sender, message)
        try:
            message.vector.add_into(state.total)
        except (MalformedMessage, EnvironmentFault) as error:
            # Pieces were verified before they came here, so this is the end of the attempt, not of a silo.
            self._state = _Done(None)
            raise RoundAborted("a spooled upload could not be read back whole") from error
        if message.head is not None:
            self._heads[sender] = message.head
        state.gate.admit(sender, None)

    def _check_openings(self, state: _Unmasking, sender: SiloId, message: Unmasking) -> None:
        self._check_round(sender, message.round_id, state.collected)
        share_sets = state.collected.share_sets
        if tuple(peer for peer, _ in message.openings) != tuple(share_sets):
            raise FaultySilo(sender, "its shares are not one for each silo that shared keys")
        for peer, opening in message.openings:
            entry = next(e for e in share_sets[peer].entries if e.recipient == sender)
            if not opening_matches(
                state.collected.session, peer, entry, kind_of(peer, state.survivors), opening
            ):
                raise FaultySilo(sender, "a share that it gave does not match its commitment")

    def _check_round(self, sender: SiloId, named: bytes, state: _Collecting) -> None:
        if named != state.round_id:
            raise FaultySilo(sender, "its message names another round")

    # --- closing, one method a phase -----------------------------------------------------------------------

    def _announce_keys(self, state: _Advertising, now: float) -> Outbox:
        bundles = self._in_order(state.gate.close())
        session = transcript.session_id(self._descriptor, bundles.items())
        self._attempt = replace(self._attempt, session=session)
        self._state = _Sharing(self._gate("ShareKeys", frozenset(bundles), now), session, bundles)
        return dict.fromkeys(bundles, KeysAnnounced(tuple(bundles.items())))

    def _announce_shares(self, state: _Sharing, now: float) -> Outbox:
        replies = self._in_order(state.gate.close())
        share_sets = {dealer: reply.share_set for dealer, reply in replies.items()}
        round_id = transcript.round_id(state.session, share_sets.items())
        self._attempt = replace(self._attempt, round_id=round_id)
        boxes: dict[SiloId, list[tuple[SiloId, bytes, bytes]]] = {silo: [] for silo in replies}
        for dealer, reply in replies.items():
            for recipient, seed, mask in reply.boxes:
                if recipient in boxes:
                    boxes[recipient].append((dealer, seed, mask))
        total = np.zeros(self._terms.encoding.length + 1, self._terms.encoding.dtype)
        gate: Gate[None] = self._gate(
            "MaskedInput", frozenset(replies), now, quorum=self._cohort.min_survivors
        )
        self._state = _Collecting(gate, state.session, round_id, share_sets, total)
        announced = tuple(share_sets.items())
        return {silo: SharesAnnounced(announced, tuple(boxes[silo])) for silo in replies}

    def _announce_survivors(self, state: _Collecting, now: float) -> Outbox:
        survivors = self._roster.ordered(frozenset(state.gate.close()))
        gate: Gate[bytes] = self._gate("ConsistencyCheck", frozenset(survivors), now)
        self._state = _Checking(gate, state, survivors)
        heads = announced_heads(self._heads, survivors)
        return dict.fromkeys(survivors, SurvivorsAnnounced(state.round_id, survivors, heads))

    def _request_unmasking(self, state: _Checking, now: float) -> Outbox:
        signatures = tuple(self._in_order(state.gate.close()).items())
        gate: Gate[Mapping[SiloId, Opening]] = self._gate(
            "Unmasking", frozenset(state.survivors), now, enough=self._cohort.t
        )
        self._state = _Unmasking(gate, state.collected, state.survivors, signatures)
        request = UnmaskingRequested(state.collected.round_id, state.survivors, signatures)
        return dict.fromkeys(state.survivors, request)

    def _open_sum(self, state: _Unmasking) -> Outbox:
        self._remove_masks(state)
        collected = state.collected
        if not count_matches(collected.total, state.survivors):
            raise RoundAborted(
                "the count entry of the opened sum is not the number of survivors: some input was not a "
                "masked vector of this round. No model is written, nobody can be named, no update was exposed"
            )
        total = collected.total
        total.flags.writeable = False
        self._state = _Done(Aggregate(total[:-1], state.survivors))
        opened = SumOpened(collected.round_id, state.survivors, state.signatures, Payload.of(total))
        return dict.fromkeys(collected.share_sets, opened)

    def _remove_masks(self, state: _Unmasking) -> None:
        collected = state.collected
        answers = self._in_order(state.gate.close())
        result = remaining_streams(
            roster=self._roster,
            session=collected.session,
            round_id=collected.round_id,
            share_sets=collected.share_sets,
            survivors=state.survivors,
            answers=dict(list(answers.items())[: self._cohort.t]),
        )
        match result:
            case Streams(plus=plus, minus=minus):
                add_streams(collected.total, plus=plus, minus=minus, threads=self._threads)
            case evidence:
                self._evidence = evidence
                raise FaultySilo(
                    evidence[0].dealer, "its shares match their commitments but not its secret", dealer=True
                )

    # --- small parts -----------------------------------------------------------------------------------

    @property
    def _descriptor(self) -> bytes:
        return self._attempt.descriptor

    def _gate(
        self,
        phase: str,
        expected: frozenset[SiloId],
        now: float,
        *,
        quorum: int | None = None,
        enough: int | None = None,
    ) -> Gate[Any]:
        quorum = self._cohort.t if quorum is None else quorum
        return Gate(phase, expected, quorum=quorum, deadline=now + self._seconds, enough=enough)

    def _in_order(self, replies: Mapping[SiloId, Any]) -> dict[SiloId, Any]:
        return {silo: replies[silo] for silo in self._roster.ordered(frozenset(replies))}

    @staticmethod
    def _closed(now: float, outbox: Outbox) -> CoordinatorStep:
        return Step((PhaseClosed(now),), outbox)


def blame(sender: SiloId, fault: str | None) -> None:
    """Raise FaultySilo naming ``sender`` if there is a fault."""
    if fault is not None:
        raise FaultySilo(sender, fault)
