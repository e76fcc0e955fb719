"""Attack ``replay``: send a silo what was sent to it before, in every state of the same and of a later round.

Round 1 has two attempts: the first, without one silo, is signed and voided; the second is opened. Round 2 is
brought to each of its states, and there everything that was ever sent is sent once more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from secagg import wire
from secagg.errors import UnexpectedMessage
from secagg.hazmat.framing import digest
from secagg.messages import Ready, Refused, SumOpened, TrainingOpened
from secagg.names import SiloId
from secagg.payload import Frame, Payload
from secagg.rounds.coordinator import RoundCoordinator
from secagg.session import Aggregate
from secagg.terms import Terms
from tests.adversary.harness import Attempt, Federation, Liar, named

VICTIM, FEWER = "b", "abd"
SECOND_BASE = digest("the second base")
STAGES = ("finished", "trained", "advertised", "shared", "masked", "signed", "released", "done")


@dataclass(frozen=True)
class Play:
    """A federation that is in one state of round 2."""

    federation: Federation
    liar: Liar
    second: Attempt
    stage: str

    @classmethod
    def until(cls, stage: str) -> Play:
        federation = Federation(4, colluders="d")
        liar = Liar(federation)
        for host in federation.silos.values():
            host.work.bases[2] = SECOND_BASE
        everybody = federation.roster.silos
        first = federation.terms()
        liar.train(first)
        given_up = Attempt(liar, first, 1)
        given_up.until_masked(FEWER)
        given_up.announce_survivors(FEWER)
        voids = liar.void([given_up.round_id()])
        opened = Attempt(liar, first, 2, voids=voids)
        opened.until_masked()
        assert opened.finish(everybody).keys() == set(everybody)
        announce_sum(liar, opened)
        play = cls(federation, liar, Attempt(liar, federation.terms(round=2, base=SECOND_BASE)), stage)
        play.go_on(STAGES[0], stage)
        return play

    def go_on(self, begin: str, end: str) -> None:
        """Take round 2 from one state to another."""
        attempt, everybody = self.second, self.federation.roster.silos
        steps: tuple[Callable[[], Any], ...] = (
            lambda: self.liar.train(attempt.terms),
            attempt.advertise,
            attempt.announce_keys,
            attempt.announce_shares,
            lambda: attempt.announce_survivors(everybody),
            lambda: attempt.request(everybody),
            lambda: announce_sum(self.liar, attempt),
        )
        for step in steps[STAGES.index(begin) : STAGES.index(end)]:
            step()

    @property
    def heard(self) -> list[tuple[Frame, Frame | None]]:
        """What the victim was sent so far, with its replies."""
        return [(frame, reply) for silo, frame, reply in self.liar.sent if silo == VICTIM]


def announce_sum(liar: Liar, attempt: Attempt) -> None:
    everybody = liar.federation.roster.silos
    total = liar.federation.total(everybody, attempt.terms.base)
    with_count = np.append(total, total.dtype.type(len(everybody)))
    signatures = attempt.signatures[attempt.round_id(), everybody]
    opened = SumOpened(
        attempt.round_id(), everybody, tuple(sorted(signatures.items())), Payload.of(with_count)
    )
    for silo in everybody:
        liar.tell(silo, opened)


def attack(stage: str) -> int:
    """Send the victim everything once more in one state of round 2; return how often it left the round."""
    left = 0
    play = Play.until(stage)
    messages = len(play.heard)
    for number in range(messages):
        host = play.federation.silos[VICTIM]
        state, terms = host.state, host.participant._terms
        records, applied = set(host.records), len(host.work.applied)
        frame, stored = play.heard[number]
        message = wire.decode_from_coordinator(*frame)
        what = f"{type(message).__name__} in state {stage}"
        reply = host.deliver(frame)
        refused = reply is not None and isinstance(wire.decode_from_silo(*reply), Refused)
        assert reply is None or refused or reply == stored, f"{what}: a new reply"
        assert set(host.records) == records, f"{what}: something new is in the journal"
        assert len(host.work.applied) == applied, f"{what}: a sum is applied twice"
        if host.state is not state or host.participant._terms != terms:
            other_round = isinstance(message, TrainingOpened) and message.terms != present(play)
            assert other_round or refused, f"{what}: the state changed"
            left += 1
            finish_without(play)
            play = Play.until(stage)
    finish_with(play)
    return left


def present(play: Play) -> Terms | None:
    """The terms of the round that the victim is in."""
    return play.federation.terms() if play.stage == STAGES[0] else play.second.terms


def finish_with(play: Play) -> None:
    """The victim is where it was: the round ends with the sum over everybody."""
    play.go_on(play.stage, STAGES[-1])
    federation = play.federation
    expected = {SECOND_BASE: federation.total(federation.honest, SECOND_BASE)}
    opened = [e for e in federation.knowledge.exposures() if {b for _, b in e.coefficients} == set(expected)]
    assert [e.silos for e in opened] == [frozenset(federation.honest)]
    assert np.array_equal(opened[0].total, expected[SECOND_BASE])
    assert not named(federation)


def finish_without(play: Play) -> None:
    """The victim left: it says nothing more in this attempt, and no sum but the first is in clear."""
    federation = play.federation
    before = len(federation.silos[VICTIM].journal)
    play.go_on(play.stage, STAGES[-1])
    assert len(federation.silos[VICTIM].journal) == before
    cohort = federation.cohort
    assert federation.knowledge.smallest(below=cohort.min_survivors - cohort.c) is None


@pytest.mark.parametrize("stage", STAGES)
def test_replay(stage: str) -> None:
    attack(stage)


def test_the_whole_of_a_round_again() -> None:
    play = Play.until("done")
    host = play.federation.silos[VICTIM]
    records, uploads = set(host.records), len(play.federation.knowledge.uploads)
    for frame, _ in play.heard:
        host.deliver(frame)
    assert set(host.records) == records
    assert len(play.federation.knowledge.uploads) == uploads
    host.restart()
    for frame, _ in play.heard:
        host.deliver(frame)
    assert set(host.records) == records
    assert len(play.federation.knowledge.uploads) == uploads


@pytest.mark.parametrize(
    ("stage", "defence", "mutant", "succeeds"),
    [
        (
            "masked",
            "secagg.masking.silo.MaskingSilo._check_round",
            lambda *_: None,
            "SurvivorsAnnounced in state masked: a new reply",
        ),
        (
            "signed",
            "secagg.masking.transcript.round_id",
            lambda _, share_sets: digest("round", tuple(silo for silo, _ in share_sets)),
            "UnmaskingRequested in state signed: a new reply",
        ),
        (
            "advertised",
            "secagg.survivors.Locks.join",
            lambda _, record: record,
            "RoundOpened in state advertised: a new reply",
        ),
    ],
)
def test_replay_mutant(
    monkeypatch: pytest.MonkeyPatch, stage: str, defence: str, mutant: Callable[..., Any], succeeds: str
) -> None:
    monkeypatch.setattr(defence, mutant)
    with pytest.raises(AssertionError, match=succeeds):
        attack(stage)


def test_a_coordinator_takes_a_reply_once() -> None:
    """What a silo says twice counts once, and what it said in another phase does not count."""
    federation = Federation(4)
    coordinator = RoundCoordinator(federation.roster, terms=federation.terms())
    outbox = coordinator.open(0.0).output
    said: dict[SiloId, list[Any]] = {silo: [] for silo in federation.roster.silos}
    while coordinator.outcome is None:
        for silo, message in outbox.items():
            reply = federation.silos[silo].deliver(wire.encode(message))
            assert reply is not None
            said[silo].append(wire.decode_from_silo(*reply))
            coordinator.receive(silo, said[silo][-1])
            for again in said[silo]:
                if (
                    isinstance(again, Ready) and coordinator.attempt > 0
                ):  # It may come late, and changes nothing.
                    assert not coordinator.receive(silo, again).output
                    continue
                with pytest.raises(UnexpectedMessage):
                    coordinator.receive(silo, again)
        outbox = coordinator.advance(0.0).output
    assert isinstance(coordinator.outcome, Aggregate)
    assert np.array_equal(coordinator.outcome.total, federation.total(federation.roster.silos))
    assert coordinator.outcome.survivors == federation.roster.silos
    assert not coordinator.losses
