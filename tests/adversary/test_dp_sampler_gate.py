"""Attack ``dp_sampler_gate``: claim an epsilon that rests on sampling, with one record in every step.

A trainer with a shuffled loader of its own, or one that draws rows once and keeps them, gives its epsilon no
right: that is for records of which nobody knows whether they are in a step. Such a trainer is refused before
anything of its vector leaves. Without that check a record that is always there is found, far beyond the
epsilon that is claimed; the bound on what is found is wrong with a probability below 1e-6."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.errors import InputRefused, RoundAborted
from secagg.learning.workload import LearningWorkload
from secagg.names import RealVector
from secagg.privacy.accountant import epsilon
from secagg.privacy.calibration import Privacy
from secagg.privacy.charge import events_of
from secagg.privacy.events import Release
from secagg.privacy.params import DistributedDP
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise, Terms
from secagg.weighting import plan_mean
from tests.counts import count
from tests.privacy.auditing import lower_bound
from tests.privacy.noised import Mover, Noised

DELTA, RATE = 1e-3, 0.01
MODE = DistributedDP(
    Privacy(epsilon=0.5, delta=DELTA, rounds=1), unit="record", sampling_rate=RATE, batch_size=4
)
GAMES = count(300, full=2_000)
CANARY = np.array([1.0, 0.0, 0.0])


class Shuffled(Mover):
    """A trainer that takes its rows from a loader that it shuffled: the canary is in every step."""

    def gradient_sum(
        self, weights: RealVector, settings: Any, *, sampler: Any, l2_clip_norm: float
    ) -> RealVector:
        for _ in range(self.draws):
            sampler.draw(self.records)  # Looked at by nobody.
        return -self._clipped(l2_clip_norm)


@cache
def federation() -> Noised:
    return Noised([np.zeros(3)] * 4, MODE)


def games(update: RealVector, draws: int) -> np.ndarray[Any, Any]:
    """Return what is seen along the canary in sums of one step, less what all others than the victim know."""
    terms, base = federation().terms, federation().base
    seen = []
    for _ in range(GAMES):
        total = np.zeros(3, np.int64)
        # The fewest silos, less a colluder: the victim and one other.
        for trainer in (Shuffled(update, draws=draws), Mover(np.zeros(3))):
            workload = LearningWorkload("north", trainer)
            workload.accept(terms)
            workload.adopt(terms, base.payload())
            total += federation().signed(workload.vector(terms))
        seen.append(total[0])
    return np.array(seen, np.float64)


def attack(draws: int) -> float:
    """Return what the best test of membership proves epsilon to be at the least; 0 where nothing is sent."""
    try:
        return lower_bound(games(CANARY, draws), games(np.zeros(3), draws), delta=DELTA)
    except InputRefused as refused:
        if refused.rule != "sampling":
            raise
        return 0.0


def claimed() -> float:
    return epsilon(events_of(federation().terms), delta=DELTA, unit="record")


@pytest.mark.parametrize("draws", [0, 2, 7])
def test_dp_sampler_gate(draws: int) -> None:
    assert attack(draws) <= claimed(), "a record is found beyond the claimed epsilon"


@pytest.mark.parametrize("draws", [0, 2])
def test_dp_sampler_gate_mutant(monkeypatch: pytest.MonkeyPatch, draws: int) -> None:
    monkeypatch.setattr(LearningWorkload, "_check_sampled", lambda *_: None)
    with pytest.raises(AssertionError, match="a record is found beyond the claimed epsilon"):
        test_dp_sampler_gate(draws)


def test_the_claim_rests_on_sampling() -> None:
    (event,) = events_of(federation().terms)
    assert isinstance(event, Release)
    assert event.sampling_rate == RATE
    assert claimed() <= 0.5 < 2 < epsilon([replaced(event)], delta=DELTA, unit="record")


def replaced(event: Release) -> Release:
    return Release(event.unit, event.noise_multiplier, 1.0, event.count, event.slack)


# --- nothing leaves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [0, 2])
def test_such_a_silo_sends_no_vector_and_the_others_go_on(draws: int) -> None:
    trainers = [Shuffled(CANARY, draws=draws), *(Mover(np.zeros(3)) for _ in range(3))]
    silos = Noised([np.zeros(3)] * 4, MODE, trainers=trainers)
    aggregate = silos.run()
    assert "north" not in aggregate.survivors
    assert {message for silo, message in silos.sent if silo == "north"} == {"BaseRequested", "Refused"}
    assert silos.coordinator.losses == {"north": "refused: input: sampling"}
    (error,) = silos.silos["north"].errors
    assert isinstance(error, InputRefused)
    assert f"the trainer drew {draws} samples of the 1 on which the promised epsilon rests" in str(error)
    assert silos.caches["north"] == {}
    assert silos.ledgers["north"].entries == ()


def local(draws: int | None = None) -> tuple[LearningWorkload, Terms]:
    """Return a silo's workload, ready for five steps of local training, and their terms."""
    mover = Mover(CANARY) if draws is None else Mover(CANARY, draws=draws)
    silos = Noised([np.zeros(3)] * 4, MODE, trainers=[mover] * 4)
    terms = replace(
        silos.terms,
        privacy=LocalNoise(1.0, 1.0, 0.5, 5, DELTA),
        encoding=plan_mean(3, cohort=4, clip=8.0, weight_cap=100.0, least_total_weight=10.0),
    )
    workload = silos.workloads["north"]
    workload.accept(terms)
    workload.adopt(terms, silos.base.payload())
    return workload, terms


@pytest.mark.parametrize("draws", [0, 2, 4, 6])
def test_a_step_of_local_training_needs_a_sample_each(draws: int) -> None:
    workload, terms = local(draws)
    with pytest.raises(InputRefused, match=f"drew {draws} samples of the 5") as caught:
        workload.vector(terms)
    assert caught.value.rule == "sampling"


def test_as_many_samples_as_steps_are_taken() -> None:
    """The controls: these are not refused."""
    assert Noised([CANARY] * 4, MODE).run().survivors
    workload, terms = local()
    assert workload.vector(terms).size == terms.encoding.length


class TakesTheRate(Mover):
    """A trainer that asks for a sampler of its own, with every record in it."""

    def gradient_sum(
        self, weights: RealVector, settings: Any, *, sampler: Any, l2_clip_norm: float
    ) -> RealVector:
        own = PoissonSampler(1.0)
        return super().gradient_sum(weights, settings, sampler=own, l2_clip_norm=l2_clip_norm)


def test_a_sampler_of_ones_own_does_not_count() -> None:
    silos = Noised([np.zeros(3)] * 4, MODE, trainers=[TakesTheRate(CANARY) for _ in range(4)])
    with pytest.raises(RoundAborted):
        silos.run()
    assert {message for _, message in silos.sent} == {"BaseRequested", "Refused"}
