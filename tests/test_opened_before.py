"""A sum that silos opened and the coordinator was not told of in time: late, or in its last process.

Once all have applied it, no silo holds the base that the round began with. So what ends the round is that
they say so again, whenever they are asked; and where too few say it, that the same sum can be opened again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace as replaced
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.ckks.params import CKKS
from secagg.errors import FaultySilo, RoundAborted, TooFewSilos, UnexpectedMessage
from secagg.explanation import explain
from secagg.learning.federation import Federation as Learning
from secagg.learning.progress import Silent
from secagg.messages import EncryptedInput, FromSilo, Opened, Ready
from secagg.names import SiloId
from secagg.payload import Frame
from secagg.scheme import EncryptedScheme, Scheme
from secagg.session import SealedSum
from secagg.terms import training_digest
from tests.contract import replays
from tests.federations import CKKS_4096, THRESHOLD_PAILLIER, Federation, Witness
from tests.learners import lines

ALL: tuple[SiloId, ...] = ("north", "south", "west", "east")
SECONDS = 60.0
schemes = pytest.mark.parametrize(
    "scheme", [CKKS_4096, THRESHOLD_PAILLIER], ids=["CKKS", "ThresholdPaillier"]
)


class Round:
    """One round, in which every message is delivered but those that a test holds back."""

    def __init__(self, federation: Federation, coordinator: Witness | None = None) -> None:
        self.federation = federation
        self.coordinator = federation.coordinator() if coordinator is None else coordinator
        self.held: dict[SiloId, Opened] = {}
        self.now = 0.0
        self._told = list(self.coordinator.open(0.0).output.items())

    def go(self, hold: Iterable[SiloId] = ()) -> None:
        """Deliver until nothing is left; keep back what the silos of ``hold`` say of the sum."""
        while self._told:
            silo, message = self._told.pop(0)
            reply = self.federation.silos[silo].deliver(wire.encode(message))
            said = None if reply is None else wire.decode_from_silo(*reply)
            if isinstance(said, Opened) and silo in hold:
                self.held[silo] = said
            elif said is not None and self.coordinator.outcome is None:
                self.say(silo, said)
            self.tick(0.0)

    def say(self, silo: SiloId, message: FromSilo) -> None:
        self._told += self.coordinator.receive(silo, message).output.items()

    def tick(self, seconds: float = SECONDS) -> None:
        self.now += seconds
        self._told += self.coordinator.advance(self.now).output.items()


def opened(scheme: Scheme = CKKS_4096, n: int = 4, hold: Iterable[SiloId] | None = None) -> Round:
    """Return a round in which all silos opened the sum and some did not say so yet."""
    here = Round(Federation(n, scheme=scheme))
    silos = here.federation.roster.silos
    here.go(silos if hold is None else hold)
    assert all(len(here.federation.work[silo].applied) == 1 for silo in silos)
    assert here.coordinator.phase == "Opened"
    return here


def in_another_process(here: Round) -> Round:
    """Return the round as the next process of the coordinator begins it."""
    return Round(here.federation, here.federation.coordinator(memory=here.coordinator.memory))


def check(here: Round, *, attempt: int, survivors: tuple[SiloId, ...] = ALL) -> None:
    """Check that the round ended with the sum that each silo applied once, and nobody is named."""
    outcome = here.coordinator.outcome
    assert isinstance(outcome, SealedSum)
    assert outcome.survivors == survivors
    assert here.coordinator.attempt == attempt
    assert here.coordinator.losses == {}
    total = here.federation.sum_of(survivors)
    for silo in survivors:
        [learned] = here.federation.work[silo].applied
        assert learned.total.tolist() == total
        assert here.federation.work[silo].opened[training_digest(here.federation.terms)].base == outcome.base
        assert here.federation.silos[silo].errors == []
        assert here.federation.work[silo].trained == 1


# --- late --------------------------------------------------------------------------------------------------


@schemes
def test_what_comes_after_the_deadline_ends_the_round_all_the_same(scheme: Scheme) -> None:
    here = opened(scheme)
    here.tick()
    assert here.coordinator.phase == "Voided"
    here.say("north", here.held["north"])
    here.tick(0.0)
    assert here.coordinator.outcome is None
    here.say("west", here.held["west"])
    here.tick(0.0)
    here.coordinator._losses.clear()  # Who was silent at the deadline and said nothing yet is noted for it.
    check(here, attempt=1)
    replays(here.federation, here.coordinator)


def test_what_comes_in_the_next_attempt_ends_it() -> None:
    here = opened()
    here.tick()
    here.go(ALL)
    assert (here.coordinator.attempt, here.coordinator.phase) == (2, "Opened")  # The same set, once more.
    here = opened()
    here.tick()
    while here.coordinator.phase != "ConsistencyCheck":
        silo, message = here._told.pop(0)
        reply = here.federation.silos[silo].deliver(wire.encode(message))
        assert reply is not None
        here.say(silo, wire.decode_from_silo(*reply))
        here.tick(0.0)
    for silo, held in here.held.items():
        here.say(silo, held)
    here.tick(0.0)
    check(here, attempt=2)


@schemes
def test_where_what_was_said_is_lost_the_same_sum_is_opened_again_and_applied_once(scheme: Scheme) -> None:
    here = opened(scheme)
    here.tick()
    here.go()
    check(here, attempt=2)
    replays(here.federation, here.coordinator)


# --- another process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True], ids=["silos stay", "silos restart"])
@pytest.mark.parametrize("told", [0, pytest.param(1, marks=pytest.mark.full), 3])
@schemes
def test_a_coordinator_that_ended_between_two_of_them_is_told_in_training(
    scheme: Scheme, told: int, restarted: bool
) -> None:
    before = opened(scheme, hold=ALL[told:])
    for silo in before.federation.silos.values() if restarted else ():
        silo.restart()
    here = in_another_process(before)
    here.go()
    check(here, attempt=1)
    assert not any(isinstance(m, Ready | EncryptedInput) for _, m in here.coordinator.log)


@schemes
def test_where_one_silo_opened_alone_all_open_the_same_sum_again(scheme: Scheme) -> None:
    """Killed between two announcements: one silo says it, which is no more than may collude."""
    before = Round(Federation(4, scheme=scheme))
    while before.coordinator.phase != "Opened":
        silo, message = before._told.pop(0)
        reply = before.federation.silos[silo].deliver(wire.encode(message))
        if reply is not None:
            before.say(silo, wire.decode_from_silo(*reply))
            before.tick(0.0)
    alone, message = before._told[-1]
    assert before.federation.silos[alone].deliver(wire.encode(message)) is not None
    assert sum(len(work.applied) for work in before.federation.work.values()) == 1
    here = in_another_process(before)
    here.go()
    check(here, attempt=2)


def test_a_silo_that_missed_the_opening_takes_nothing_from_the_others() -> None:
    before = opened(hold=ALL)
    work = before.federation.work["east"]
    work.applied.clear()
    work.opened.clear()
    here = in_another_process(before)
    here.go()
    assert here.coordinator.outcome == SealedSum(before.held["north"].base, ALL)
    assert here.coordinator.losses == {}
    assert work.applied == []


# --- whom to believe ---------------------------------------------------------------------------------------


def lie(federation: Federation, silo: SiloId, base: int = 1) -> Opened:
    return Opened(training_digest(federation.terms), bytes([base]) * 32, federation.roster.silos)


def test_as_many_as_may_collude_end_no_round() -> None:
    """With n = 7, c = 2: two that agree on a sum nobody opened, in training and in every phase after it."""
    federation = Federation(7, scheme=CKKS_4096)
    assert federation.c == 2
    liars = federation.roster.silos[:2]
    here = Round(federation)
    for silo in liars:
        here.say(silo, lie(federation, silo))
    here.tick(0.0)
    assert here.coordinator.phase == "Training"
    phases = []
    while here._told:
        phase = here.coordinator.phase
        if phase not in {"Training", "Opened", None}:
            phases.append(phase)
            for silo in liars:
                here.say(silo, lie(federation, silo))
            here.tick(0.0)
            assert here.coordinator.outcome is None
        silo, message = here._told.pop(0)
        reply = federation.silos[silo].deliver(wire.encode(message))
        said = None if reply is None else wire.decode_from_silo(*reply)
        if said is not None and (silo not in liars or phase != "Training"):
            here.say(silo, said)
        here.tick(0.0)
    assert {"EncryptedInput", "ConsistencyCheck"} <= set(phases)
    outcome = here.coordinator.outcome
    assert isinstance(outcome, SealedSum)
    assert outcome.base == federation.work["west"].opened[training_digest(federation.terms)].base
    assert here.coordinator.attempt == 1


def test_who_said_another_sum_than_those_that_are_believed_is_named() -> None:
    here = in_another_process(opened())
    here.say("south", lie(here.federation, "south"))
    here._told = [(silo, message) for silo, message in here._told if silo != "south"]
    here.go()
    assert isinstance(here.coordinator.outcome, SealedSum)
    assert "another model" in here.coordinator.losses["south"]
    assert here.coordinator.losses.keys() == {"south"}


@pytest.mark.parametrize(
    "survivors", [(), ("north", "south", "east"), ("west", "north"), ("north", "west", "west"), ("west", "z")]
)
def test_a_sum_that_its_sender_cannot_be_in_names_it(survivors: tuple[SiloId, ...]) -> None:
    here = opened()
    here.tick()
    with pytest.raises(FaultySilo) as fault:
        here.say("west", replace(here.held["west"], survivors=survivors))
    assert fault.value.silo == "west"
    assert here.coordinator.outcome is None


def test_the_sum_of_another_round_is_of_no_use_in_any_phase() -> None:
    other = replace(lie(Federation(4, scheme=CKKS_4096), "west"), training=bytes(32))
    training = Round(Federation(4, scheme=CKKS_4096))
    voiding = opened()
    voiding.tick()
    for here in (training, opened(), voiding):
        with pytest.raises(UnexpectedMessage, match="another round"):
            here.say("west", other)
        assert "west" not in here.coordinator.losses or here is voiding


def test_where_the_coordinator_opens_nobody_says_what_was_opened() -> None:
    here = Round(Federation(4))
    with pytest.raises(UnexpectedMessage):
        here.say("west", lie(here.federation, "west"))


# --- what is said of a round that failed -------------------------------------------------------------------


def failed(here: Round, *, attempts: int) -> RoundAborted:
    """Let the round fail, with nothing said of what is opened; return why."""
    try:
        for _ in range(attempts * 4):
            here.tick()
            here.go(ALL)
    except RoundAborted as error:
        return error
    raise AssertionError("the round went on")


def test_no_text_says_that_nothing_was_opened_where_silos_may_have() -> None:
    whole = opened()
    error = failed(whole, attempts=3)
    assert isinstance(error, TooFewSilos)
    resumed = in_another_process(whole)
    resumed._told.clear()
    resumed.now = 1e9
    for wrong in (error, failed(resumed, attempts=1)):
        words = explain(wrong, round_number=1).safe
        assert "no sum was opened" not in words
        assert "nothing left" not in words
        assert "some may have" in words
    before = Round(Federation(4, scheme=CKKS_4096))
    before._told.clear()
    before.now = 1e9
    assert "nothing left" in explain(failed(before, attempts=1), round_number=1).safe


def test_models_that_differ_are_not_said_to_be_none() -> None:
    federation = Federation(4, scheme=CKKS_4096)
    here = Round(federation, federation.coordinator(attempts=1))
    here.go(ALL)
    for i, (silo, message) in enumerate(here.held.items()):
        here.say(silo, replace(message, base=bytes([i]) * 32))
    with pytest.raises(RoundAborted, match="none is trusted") as aborted:
        here.tick(0.0)
    assert "some may have" in explain(aborted.value, round_number=1).safe


# --- learning ----------------------------------------------------------------------------------------------


class Deaf:
    """Takes what a silo first says of the sum of a round for lost."""

    def __init__(self, silo: Any, round_number: int) -> None:
        self._deliver = silo.deliver
        self._training: bytes | None = None
        self._rounds = round_number

    def deliver(self, frame: Frame) -> Frame | None:
        reply: Frame | None = self._deliver(frame)
        said = None if reply is None else wire.decode_from_silo(*reply)
        if not isinstance(said, Opened) or self._rounds == 0 or said.training == self._training:
            return reply
        self._training = said.training
        self._rounds -= 1
        return None


@pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
@pytest.mark.parametrize(
    "scheme",
    [CKKS(degree=4096), pytest.param(THRESHOLD_PAILLIER, marks=pytest.mark.full)],
    ids=["CKKS", "ThresholdPaillier"],
)
def test_a_run_whose_every_opening_comes_late_ends_with_the_model_of_one_that_is_undisturbed(
    scheme: EncryptedScheme,
) -> None:
    def run(rounds: int) -> Any:
        run, job = Learning(lines(4), scheme=scheme, clip=20.0, seed=1)._prepare(2)
        for silo in job._silos.values():
            silo.deliver = Deaf(silo, rounds).deliver  # type: ignore[method-assign]  # This silo hears less.
        while not run.finished:
            job.round({}, observer=Silent(), view=None)
        return run, job

    quiet, still = run(0)
    late, job = run(3)
    assert [record.report.attempts for record in late.records] == [2] * len(quiet.records)
    assert late.model.digest == quiet.model.digest
    for silo, workload in job._workloads.items():
        assert np.array_equal(workload._model.weights, still._workloads[silo]._model.weights)
    assert [replaced(record, report=None) for record in late.records] == [
        replaced(record, report=None) for record in quiet.records
    ]
