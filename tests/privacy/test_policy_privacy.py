"""A silo's own word on noise: whether there must be some, how long updates may be, what may be spent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg import wire
from secagg.cohort import Cohort
from secagg.errors import (
    FaultyCoordinator,
    ParameterError,
    PolicyRefused,
    PrivacyBudgetExhausted,
    RoundAborted,
    exit_code,
)
from secagg.fixedpoint import Encoding, Segment
from secagg.learning.workload import LearningWorkload
from secagg.messages import BUDGET_SPENT, BaseRequested, BaseSent, FromSilo, Ready, Refused, TrainingOpened
from secagg.policy import Policy
from secagg.privacy.calibration import Privacy
from secagg.privacy.params import DistributedDP
from secagg.terms import (
    LocalNoise,
    MaskingParameters,
    PlainParameters,
    PrivacyParameters,
    RecordNoise,
    SiloNoise,
    Terms,
)
from secagg.weighting import plan_mean
from tests.privacy.noised import TARGET, Mover, Noised

UPDATES = [np.full(5, 0.1)] * 4
NOISED = Noised(UPDATES)
ROSTER = NOISED.roster
SILO = NOISED.terms
RECORD = replace(SILO, privacy=RecordNoise(1.0, 200.0, 0.5, 8.0, 1e-5))
LOCAL = replace(SILO, privacy=LocalNoise(1.0, 1.0, 0.5, 3, 1e-5))
BARE = replace(SILO, privacy=None)
ROOM = Encoding(64, 4, (Segment("update", 5, 2.0**20, 8),))
MEAN, MEASURED = (
    plan_mean(5, cohort=4, clip=8.0, weight_cap=100.0, least_total_weight=10.0, metrics=names)
    for names in ((), ("loss",))
)
ANY: dict[str, Any] = {"min_weight_cap": None}


def allowed(policy: Policy, terms: Terms) -> str | None:
    try:
        policy.check(terms, ROSTER)
    except PolicyRefused as refused:
        return refused.rule
    return None


@pytest.mark.parametrize("terms", [SILO, RECORD, LOCAL])
def test_a_silo_that_requires_privacy_refuses_what_has_none(terms: Terms) -> None:
    policy = Policy(require_privacy=True, **ANY)
    assert allowed(policy, terms) is None
    assert allowed(policy, BARE) == "privacy"
    assert allowed(Policy(**ANY), BARE) is None


@pytest.mark.parametrize("value", ["true", 1, None, "no"])
def test_require_privacy_is_yes_or_no(value: Any) -> None:
    with pytest.raises(ParameterError, match="require_privacy"):
        Policy(require_privacy=value)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "2"])
def test_a_cap_of_the_clip_norm_is_a_number_above_0(value: Any) -> None:
    with pytest.raises(ParameterError, match="max_l2_clip_norm"):
        Policy(max_l2_clip_norm=value)


@pytest.mark.parametrize("terms", [SILO, RECORD, LOCAL])
def test_terms_cannot_widen_the_clip_norm(terms: Terms) -> None:
    policy = Policy(max_l2_clip_norm=1.0, **ANY)
    assert allowed(policy, terms) is None
    noise: Any = terms.privacy
    for wider in (1.0000001, 10.0, 1e300):
        assert (
            allowed(policy, replace(terms, privacy=replace(noise, l2_clip_norm=wider))) == "max_l2_clip_norm"
        )
    assert allowed(policy, BARE) is None  # It has no such norm; whether it may be is another rule.


@pytest.mark.parametrize("noise", [SILO.privacy, RECORD.privacy])
def test_a_share_of_noise_needs_a_protection(noise: PrivacyParameters) -> None:
    policy = Policy(schemes=frozenset({"plain", "masking"}), **ANY)
    assert allowed(policy, replace(SILO, privacy=noise, scheme=PlainParameters())) == "privacy"
    assert allowed(policy, replace(LOCAL, scheme=PlainParameters())) is None


@pytest.mark.parametrize("terms", [SILO, RECORD])
def test_a_second_release_needs_noise_in_its_sum(terms: Terms) -> None:
    policy = Policy(**ANY)
    assert allowed(policy, replace(terms, release=2)) is None
    for without in (BARE, LOCAL):  # A weight without noise is beside local noise.
        assert allowed(policy, replace(without, release=2)) == "release"


def test_bounds_of_entries_and_weights_are_not_those_of_noise() -> None:
    """An update with shares is bounded by its norm, its entries are as long as noise, none is weighted."""
    policy = Policy(max_clip=0.5, min_weight_cap=100_000.0)
    assert allowed(policy, SILO) is None
    assert allowed(policy, RECORD) is None
    assert allowed(policy, BARE) == "max_clip"
    assert allowed(Policy(), BARE) == "min_weight_cap"
    assert allowed(Policy(), LOCAL) == "min_weight_cap"


# --- what a trainer can, and what terms may not ask ---------------------------------------------------------


class Bare:
    """A trainer with the two methods and no more."""

    train, evaluate = Mover.train, Mover.evaluate

    def __init__(self) -> None:
        self.moved = np.zeros(5)


@pytest.mark.parametrize(
    ("noise", "text"),
    [
        (RECORD.privacy, r'Bare has no gradient_sum\(\), which unit="record" needs'),
        (LOCAL.privacy, r"Bare has no train_privately\(\), which LocalDPSGD needs"),
    ],
)
def test_a_trainer_without_the_method_is_refused_before_it_trains(noise: Any, text: str) -> None:
    workload = LearningWorkload("north", Bare())
    encoding = MEAN if isinstance(noise, LocalNoise) else ROOM
    with pytest.raises(PolicyRefused, match=text) as caught:
        workload.accept(replace(SILO, privacy=noise, encoding=encoding))
    assert caught.value.rule == "privacy"


@pytest.mark.parametrize("noise", [SILO.privacy, RECORD.privacy, LOCAL.privacy])
@pytest.mark.parametrize("changes", [{"encoding": MEASURED}, {"kind": "metrics"}, {"kind": "sum"}])
def test_nothing_exact_is_given_beside_noise(noise: Any, changes: dict[str, Any]) -> None:
    workload = LearningWorkload("north", Mover(np.zeros(5)))
    with pytest.raises(FaultyCoordinator, match="exact metrics are asked for beside the noise"):
        workload.accept(replace(SILO, privacy=noise, **changes))


# --- what may be spent --------------------------------------------------------------------------------------


def told(federation: Noised, terms: Terms, silo: str = "north") -> FromSilo:
    """Announce ``terms`` to a silo, send it the base that it asks for, and return its last word."""

    def tell(message: Any) -> FromSilo:
        reply = federation.silos[silo].deliver(wire.encode(message))
        assert reply is not None
        return wire.decode_from_silo(*reply)

    answer = tell(TrainingOpened(terms, 60.0))
    if isinstance(answer, BaseRequested):
        answer = tell(BaseSent(terms.base, federation.base.payload()))
    return answer


def test_beyond_its_budget_nothing_of_a_silo_leaves() -> None:
    mode = DistributedDP(Privacy(4.0, 1e-5, 1))
    federation = Noised(UPDATES, mode, epsilon=3.0)
    with pytest.raises(RoundAborted):
        federation.run()
    # This is all that the coordinator was sent.
    assert {message for _, message in federation.sent} == {"BaseRequested", "Refused"}
    assert set(federation.coordinator.losses.values()) == {f"refused: {BUDGET_SPENT}"}
    for silo, host in federation.silos.items():
        [error] = host.errors
        assert isinstance(error, PrivacyBudgetExhausted)
        assert exit_code(error) == 7
        assert federation.ledgers[silo].entries == ()
        assert federation.caches[silo] == {}
        assert not host.journal


def test_the_coordinator_learns_the_rule_and_not_what_is_left() -> None:
    federation = Noised(UPDATES, DistributedDP(Privacy(4.0, 1e-5, 1)), epsilon=3.0)
    assert told(federation, federation.terms) == Refused("privacy budget")


def test_within_its_budget_a_silo_trains_until_it_is_spent() -> None:
    federation = Noised(UPDATES, DistributedDP(Privacy(2.0, 1e-5, 1)), epsilon=2.5)
    federation.run()
    assert [len(ledger.entries) for ledger in federation.ledgers.values()] == [1] * 4
    assert federation.ledgers["north"].spent("silo") == pytest.approx(2.0, rel=1e-3)
    with pytest.raises(RoundAborted):
        federation.run(job="another", release=2)
    assert [len(ledger.entries) for ledger in federation.ledgers.values()] == [1] * 4


def test_a_silo_without_room_is_left_out_and_the_others_go_on() -> None:
    federation = Noised(UPDATES, DistributedDP(Privacy(2.0, 1e-5, 1)))
    federation.ledgers["west"] = Noised(UPDATES, epsilon=1.0).ledgers["west"]
    federation.silos["west"].restart()
    assert federation.run().survivors == ("north", "south", "east")
    assert federation.coordinator.losses == {"west": "refused: privacy budget"}
    assert not [message for silo, message in federation.sent if silo == "west" and message == "MaskedInput"]


def test_the_charge_is_for_the_fewest_silos_and_comes_as_the_vector_leaves() -> None:
    federation = Noised(UPDATES)
    assert isinstance(told(federation, federation.terms), Ready)
    assert not federation.ledgers["north"].entries
    federation.run()
    (entry,) = federation.ledgers["north"].entries
    (release,) = entry.events
    assert release.noise_multiplier >= TARGET.noise_multiplier(unit="silo")  # type: ignore[union-attr]
    assert federation.ledgers["north"].spent("silo") <= TARGET.epsilon
    assert federation.ledgers["north"].spent("silo") == pytest.approx(TARGET.epsilon, rel=1e-3)
    # Asked again, it answers again: that is no second release.
    assert isinstance(told(federation, federation.terms), Ready)
    assert len(federation.ledgers["north"].entries) == 1


def test_a_silo_that_keeps_no_ledger_takes_part_in_nothing_with_noise() -> None:
    federation = Noised(UPDATES)
    federation.ledgers["north"] = None  # type: ignore[assignment]
    federation.silos["north"].restart()
    assert told(federation, federation.terms) == Refused("privacy")
    [error] = federation.silos["north"].errors
    assert "keeps no ledger" in str(error)
    assert federation.caches["north"] == {}


# --- terms that no coordinator of ours makes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "bits"),
    [
        (SiloNoise(1e300, 100.0, 1e-5), 8),
        (SiloNoise(1e-300, 100.0, 1e-5), -512),
        (SiloNoise(2.0**-512, 100.0, 1e-5), -512),
        (SiloNoise(1.0, 1e300, 1e-5), 8),
        (RecordNoise(2.0**500, 100.0, 0.5, 1e308, 1e-5), 500),
        (LocalNoise(1.0, 1e-320, 0.5, 1, 1e-5), 8),
        (LocalNoise(1.0, 1.0, 0.5, 2**52, 1e-5), 8),
        (LocalNoise(1e-320, 1e300, 5e-324, 2**52, 1e-5), 8),
    ],
)
def test_whatever_the_numbers_a_silo_answers(noise: PrivacyParameters, bits: int) -> None:
    """With a rule, within time and memory; never an error that ends its process."""
    federation = Noised(UPDATES, epsilon=3.0)
    encoding = Encoding(64, 4, (Segment("update", 5, math.ldexp(2.0**50, -bits), bits),))
    if isinstance(noise, LocalNoise):
        encoding = MEAN
    terms = replace(federation.terms, privacy=noise, encoding=encoding)
    answer = told(federation, terms)
    assert isinstance(answer, Refused)
    assert not federation.silos["north"].journal
    assert federation.caches["north"] == {}


def test_a_step_that_is_longer_than_any_gradient_costs_next_to_nothing() -> None:
    """All that is summed then rounds to 0, and a rate that no account can tell from 0 does no harm."""
    noise = RecordNoise(2.0**-512, 100.0, 5e-324, 8.0, 1e-5)
    federation = Noised(UPDATES, epsilon=3.0)
    encoding = Encoding(64, 4, (Segment("update", 5, 2.0**562, -512),))
    assert isinstance(told(federation, replace(federation.terms, privacy=noise, encoding=encoding)), Ready)
    assert federation.ledgers["north"].spent("record") < 0.1


def test_less_noise_than_the_budget_allows_is_refused_whatever_the_terms_call_it() -> None:
    """What counts is the noise, not the delta or the target that stand beside it."""
    for share, delta, refused in ((4.0, 1e-5, True), (4.0, 0.999, True), (3000.0, 1e-5, False)):
        federation = Noised(UPDATES, epsilon=3.0)
        bits = 10
        encoding = Encoding(64, 4, (Segment("update", 5, 2.0**30, bits),))
        terms = replace(federation.terms, privacy=SiloNoise(1.0, share, delta), encoding=encoding)
        assert isinstance(told(federation, terms), Refused) is refused


def test_a_cohort_with_fewer_colluders_than_the_silo_assumes_is_refused() -> None:
    """Otherwise shares that colluders know would count as noise."""
    federation = Noised([np.zeros(5)] * 7, policy=Policy(colluders=2, **ANY))
    assert isinstance(told(federation, federation.terms), Ready)
    terms = replace(federation.terms, job="other", scheme=MaskingParameters(Cohort.of(7, c=1)))
    assert told(federation, terms) == Refused("colluders")
