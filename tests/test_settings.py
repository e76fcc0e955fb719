"""A training plan travels inside the terms and comes out as it went in, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import FaultyCoordinator, ParameterError
from secagg.learning.settings import TrainingPlan
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi
from secagg.terms import PlainParameters, Setting, Terms, training_digest
from tests.federations import encoding_of

positive = st.floats(1e-6, 1e6)
share = st.floats(0.0, 1.0, exclude_max=True)
strategies = st.one_of(
    st.builds(FedAvg, positive),
    st.builds(FedProx, positive, server_learning_rate=positive),
    st.builds(FedAdam, positive, beta1=share, beta2=share, tau=positive),
    st.builds(FedYogi, positive, beta1=share, beta2=share, tau=positive),
)
plans = st.builds(
    TrainingPlan,
    strategy=strategies,
    length=st.integers(1, 10**9),
    epochs=st.integers(1, 100),
    learning_rate=st.none() | positive,
    seed=st.integers(0, 2**63 - 1),
    app=st.sampled_from(["", "hospital.training:trainer"]),
)
PLAN = TrainingPlan(strategy=FedProx(0.5), length=7, epochs=2, learning_rate=0.1, seed=3)


def terms(settings: tuple[Setting, ...]) -> Terms:
    return Terms(
        federation="tests",
        job="job",
        round=1,
        kind="train",
        release=1,
        roster=bytes(32),
        base=bytes(32),
        scheme=PlainParameters(),
        encoding=encoding_of(4),
        training=settings,
    )


def changed(**pairs: Any) -> Terms:
    """Terms whose plan says something else; None takes a pair out."""
    settings = dict(PLAN.settings()) | pairs
    return terms(tuple(sorted((name, value) for name, value in settings.items() if value != "gone")))


@given(plan=plans)
def test_a_plan_comes_back_as_it_went(plan: TrainingPlan) -> None:
    assert TrainingPlan.of(terms(plan.settings())) == plan


@given(one=plans, other=plans)
def test_two_plans_have_two_training_digests(one: TrainingPlan, other: TrainingPlan) -> None:
    same = training_digest(terms(one.settings())) == training_digest(terms(other.settings()))
    assert same == (one == other)


def test_settings_stand_in_name_order() -> None:
    names = [name for name, _ in PLAN.settings()]
    assert names == sorted(names)
    assert {"strategy", "mu", "seed", "epochs", "learning_rate", "length"} <= set(names)


@pytest.mark.parametrize(
    "pairs",
    [
        {"strategy": "gone"},
        {"strategy": "FedSgd"},
        {"strategy": "FedAvg"},  # FedAvg has no mu: a pair that this version does not know
        {"mu": "gone"},
        {"mu": -1.0},
        {"mu": 1},
        {"server_learning_rate": "fast"},
        {"epochs": 0},
        {"epochs": 2.0},
        {"length": "gone"},
        {"length": 0},
        {"learning_rate": "slow"},
        {"learning_rate": -0.1},
        {"seed": -1},
        {"seed": 2**63},
        {"momentum": 0.9},
    ],
    ids=str,
)
def test_a_plan_that_this_version_cannot_follow_exactly_is_refused(pairs: dict[str, Any]) -> None:
    with pytest.raises(FaultyCoordinator, match="that this version"):
        TrainingPlan.of(changed(**pairs))


def test_the_plan_that_those_are_changed_from_is_accepted() -> None:
    assert TrainingPlan.of(changed()) == PLAN


def test_settings_out_of_order_or_repeated_are_refused() -> None:
    settings = PLAN.settings()
    for wrong in (settings[::-1], (*settings, settings[-1])):
        with pytest.raises(FaultyCoordinator):
            TrainingPlan.of(terms(wrong))


@pytest.mark.parametrize(
    "named",
    [{"epochs": 0}, {"length": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"seed": 2**63}],
    ids=str,
)
def test_a_plan_out_of_range_cannot_be_made(named: dict[str, Any]) -> None:
    (name,) = named
    with pytest.raises(ParameterError, match=name):
        replace(PLAN, **named)


def test_each_round_has_a_seed_of_its_own_and_the_same_at_every_silo() -> None:
    seeds = [PLAN.for_round(number).seed for number in range(1, 200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert seeds == [TrainingPlan.of(terms(PLAN.settings())).for_round(n).seed for n in range(1, 200)]
    assert replace(PLAN, seed=4).for_round(1).seed not in seeds


def test_a_trainer_is_told_what_the_plan_says() -> None:
    told = PLAN.for_round(6)
    assert (told.round, told.epochs, told.learning_rate, told.proximal_mu) == (6, 2, 0.1, 0.5)
    assert replace(PLAN, strategy=FedAvg()).for_round(1).proximal_mu == 0.0
