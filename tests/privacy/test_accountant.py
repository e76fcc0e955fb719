"""What events cost: beside the accountants of Opacus, beside integrals of our own, and in every direction."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import MissingExtra, ParameterError
from secagg.privacy.accountant import coarse_epsilon, epsilon, rdp_epsilon
from secagg.privacy.events import Event, Release, Unit, Unprotected
from secagg.privacy.gaussian import largest_mu, least_epsilon, log_delta
from secagg.privacy.renyi import ORDERS
from tests.counts import FULL, count

# Opacus says so when more orders would serve it better.
pytestmark = pytest.mark.filterwarnings("ignore:Optimal order")

SAMPLED = [
    (z, rate, steps)
    for z in (0.5, 0.8, 1.1, 2.0, 4.0)
    for rate in (0.001, 0.01, 0.1, 0.5)
    for steps in (1, 100, 2000)
]
GRID = SAMPLED if FULL else SAMPLED[:: len(SAMPLED) // 5]

MULTIPLIERS = st.floats(0.1, 100.0)
DELTAS = st.floats(-25.0, -0.5).map(lambda power: 10.0**power)
SLACKS = st.sampled_from([0.0, 1e-30, 1e-12])


def records(z: float, rate: float = 1.0, steps: int = 1, slack: float = 0.0) -> Release:
    return Release("record", z, rate, steps, slack)


def silos(z: float, steps: int = 1, slack: float = 0.0) -> Release:
    return Release("silo", z, 1.0, steps, slack)


def cost(*events: Event, delta: float = 1e-5, unit: Unit = "record") -> float:
    return epsilon(events, delta=delta, unit=unit)


# --- the closed form ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon_there", "mu", "delta"),
    [
        # Dong, Roth, Su 2019: what 1-GDP is at epsilon 1; Balle, Wang 2018: their least sigma for (1, 1e-5).
        (1.0, 1.0, 0.126937),
        (1.0, 1 / 3.730632, 1e-5),
        # At epsilon 0 it is the total variation of two Gaussians, erf(mu / sqrt(8)).
        (0.0, 1.0, math.erf(1 / math.sqrt(8))),
        (0.0, 1e-9, math.erf(1e-9 / math.sqrt(8))),
    ],
)
def test_known_values_of_the_gaussian_mechanism(epsilon_there: float, mu: float, delta: float) -> None:
    assert math.exp(log_delta(epsilon_there, mu)) == pytest.approx(delta, rel=1e-5)
    assert cost(records(1 / mu), delta=delta) == pytest.approx(epsilon_there, abs=1e-6, rel=1e-5)


@pytest.mark.parametrize("mu", [1e-8, 0.99e-5, 1.01e-5, 1e-3, 0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("low", [0.0, 0.5, 3.0, 9.99, 10.01, 20.0, 37.0])
def test_delta_is_the_integral_that_it_stands_for(mu: float, low: float) -> None:
    """Of (1 - exp(epsilon - loss)) over where the loss is above epsilon, by Gauss-Legendre in pieces."""
    target = mu * (low + mu / 2)
    edges = low + np.concatenate(([0.0], np.geomspace(1e-3, 12.0, 200)))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    beyond = ((edges[1:] + edges[:-1])[:, None] / 2 + half * nodes) - low
    # The density over that at ``low``, which alone could be below the range of float64.
    density = np.exp(-(beyond**2) / 2 - low * beyond)
    integral = float(np.sum(half * weights * density * -np.expm1(-mu * beyond)))
    expected = math.log(integral) - low**2 / 2 - math.log(2 * math.pi) / 2
    assert log_delta(target, mu) == pytest.approx(expected, abs=2e-9)


@given(MULTIPLIERS, DELTAS)
def test_epsilon_and_mu_are_each_others_inverse(z: float, delta: float) -> None:
    found = least_epsilon(1 / z, delta)
    if found > 0:
        assert largest_mu(found, delta) == pytest.approx(1 / z, rel=1e-9)
    assert 1 / largest_mu(found, delta) <= z * (1 + 1e-9)


@given(MULTIPLIERS, st.integers(1, 10**6), DELTAS, st.floats(1.0, 2.0), SLACKS)
def test_the_closed_form_goes_one_way_in_each_parameter(
    z: float, steps: int, delta: float, more: float, slack: float
) -> None:
    spent = cost(records(z, steps=steps, slack=slack), delta=delta)
    above = spent * (1 + 1e-6)
    assert cost(records(z * more, steps=steps, slack=slack), delta=delta) <= above
    assert cost(records(z, steps=steps, slack=slack), delta=min(0.9, delta * more)) <= above
    assert cost(records(z, steps=steps, slack=slack / more), delta=delta) <= above
    assert cost(records(z, steps=steps + 1, slack=slack), delta=delta) * (1 + 1e-6) >= spent


@pytest.mark.parametrize(("z", "steps"), [(0.5, 1), (1.0, 10), (8.0, 1000)])
def test_the_closed_form_is_what_a_rate_of_nearly_1_comes_to(z: float, steps: int) -> None:
    """And so it is what a privacy loss distribution gives, by way of another package."""
    exact = cost(records(z, steps=steps))
    assert cost(records(z, 1 - 1e-12, steps)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("z", [1e-320, 1e-200, 1e200])
def test_no_multiplier_is_beyond_the_account(z: float) -> None:
    expected = math.inf if z < 1 else 0.0
    assert cost(records(z)) == expected
    assert cost(silos(z)) == expected


# --- sampled -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("z", "rate", "steps"), [*SAMPLED, (2.0, 1.0, 7), (9.0, 1.0, 1000)])
def test_renyi_is_that_of_opacus(z: float, rate: float, steps: int) -> None:
    rdp = pytest.importorskip("opacus.accountants.analysis.rdp")
    orders = [order for order in ORDERS if 1.3 <= order <= 64]
    theirs = rdp.compute_rdp(q=rate, noise_multiplier=z, steps=steps, orders=orders)
    expected, _ = rdp.get_privacy_spent(orders=orders, rdp=theirs, delta=1e-5)
    ours = rdp_epsilon([records(z, rate, steps)], delta=1e-5, unit="record", orders=orders)
    assert ours == pytest.approx(expected, abs=1e-5, rel=1e-9)


@pytest.mark.parametrize(("z", "rate", "steps"), GRID)
def test_the_account_is_that_of_opacus_prv_and_below_renyi(z: float, rate: float, steps: int) -> None:
    prv = pytest.importorskip("opacus.accountants.prv").PRVAccountant()
    prv.history = [(z, rate, steps)]
    ours = cost(records(z, rate, steps))
    if ours < 30:  # Above, theirs loses its digits.
        assert ours == pytest.approx(prv.get_epsilon(1e-5), abs=0.02)
    assert ours <= rdp_epsilon([records(z, rate, steps)], delta=1e-5, unit="record")
    coarse = coarse_epsilon([records(z, rate, steps)], delta=1e-5, unit="record")
    assert ours * (1 - 1e-9) <= coarse <= ours * 1.1 + 1e-3


@pytest.mark.parametrize(("z", "rate"), [(0.4, 0.3), (1.0, 0.01), (1.0, 0.9), (5.0, 0.3)])
def test_one_sampled_release_is_the_worse_of_two_integrals(z: float, rate: float) -> None:
    x = np.linspace(-12 * z, 1 + 12 * z, 400_001)
    without = np.exp(-((x / z) ** 2) / 2) / (z * math.sqrt(2 * math.pi))
    with_it = (1 - rate) * without + rate * np.exp(-(((x - 1) / z) ** 2) / 2) / (z * math.sqrt(2 * math.pi))
    for delta in (1e-2, 1e-5):
        spent = cost(records(z, rate), delta=delta)

        def worse(at: float) -> float:
            both = (with_it - math.exp(at) * without, without - math.exp(at) * with_it)
            return max(float(np.sum(np.maximum(one, 0.0)) * (x[1] - x[0])) for one in both)

        assert worse(spent) <= delta * (1 + 1e-3)
        if spent > 0.01:
            assert worse(spent - 0.005) > delta


def test_a_published_account_is_not_exceeded() -> None:
    """Abadi et al. 2016, section 3.2: (1.26, 1e-5) for a rate of 0.01, a noise of 4 and 10,000 steps."""
    published = cost(records(4.0, 0.01, 10_000))
    assert 0.9 < published < 1.26
    # Twice as many steps, and two thirds of the noise: neither is taken for the same.
    assert cost(records(4.0, 0.01, 20_000)) > 1.3
    assert cost(records(4.0 * 2 / 3, 0.01, 10_000)) > 1.4


@settings(max_examples=count(3, full=30), deadline=None)
@given(
    z=st.floats(0.4, 20.0),
    rate=st.floats(1e-4, 0.9),
    steps=st.integers(1, 3000),
    power=st.floats(-9.0, -2.0),
    more=st.floats(1.01, 1.5),
    slack=st.sampled_from([0.0, 1e-25]),
)
def test_a_sampled_account_goes_one_way_in_each_parameter(
    z: float, rate: float, steps: int, power: float, more: float, slack: float
) -> None:
    release, delta = records(z, rate, steps, slack), 10.0**power
    for account in (coarse_epsilon, rdp_epsilon):
        spent = account([release], delta=delta, unit="record")
        for dearer in (
            replace(release, noise_multiplier=z / more),
            replace(release, sampling_rate=min(1.0, rate * more)),
            replace(release, count=math.ceil(steps * more)),
            replace(release, slack=slack * more),
        ):
            assert account([dearer], delta=delta, unit="record") >= spent * (1 - 1e-6) - 1e-9
        assert account([release], delta=delta / more, unit="record") >= spent


@pytest.mark.parametrize("delta", [1e-9, 1.1e-10, 0.9e-10, 1e-13, 1e-30, 1e-300])
def test_a_small_delta_is_accounted_too(delta: float) -> None:
    spent = cost(records(1.0, 0.01, 100), delta=delta)
    assert cost(records(1.0, 0.01, 100), delta=2 * delta) < spent < math.inf
    assert spent <= rdp_epsilon([records(1.0, 0.01, 100)], delta=delta, unit="record")


# --- units, several events, slack --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events", [[Unprotected()], [Unprotected(3), silos(50.0)], [silos(50.0), Unprotected()]]
)
@pytest.mark.parametrize("unit", ["silo", "record"])
def test_nothing_bounds_what_was_unprotected(events: list[Event], unit: Unit) -> None:
    assert epsilon(events, delta=1e-5, unit=unit) == math.inf
    assert rdp_epsilon(events, delta=1e-5, unit=unit) == math.inf


def test_a_release_of_records_bounds_no_silo() -> None:
    assert cost(records(1e6), unit="silo") == math.inf
    assert cost(silos(2.0), records(1e6), unit="silo") == math.inf
    assert cost(silos(2.0), records(1e6), unit="record") < math.inf


@given(MULTIPLIERS, st.integers(1, 100))
def test_a_record_moves_a_silo_by_twice_its_clip(z: float, steps: int) -> None:
    assert cost(silos(z, steps), unit="record") == pytest.approx(cost(records(z / 2, steps=steps)), rel=1e-9)
    assert cost(silos(z, steps), unit="silo") == pytest.approx(cost(records(z, steps=steps)), rel=1e-9)


def test_nothing_was_spent_on_nothing() -> None:
    assert cost() == 0.0
    assert cost(unit="silo") == 0.0


@given(st.lists(st.tuples(MULTIPLIERS, st.integers(1, 1000)), min_size=1, max_size=5))
def test_exact_releases_compose_to_one(parts: list[tuple[float, int]]) -> None:
    mu = math.sqrt(sum(steps / z**2 for z, steps in parts))
    together = cost(*(records(z, steps=steps) for z, steps in parts))
    assert together == pytest.approx(cost(records(1 / mu)), rel=1e-9)
    assert cost(*(records(z, steps=steps) for z, steps in reversed(parts))) == together


def test_equal_releases_in_any_order_are_one_release_of_as_many() -> None:
    one, other = records(1.0, 0.01, 40), records(2.0, 0.1, 7)
    together = coarse_epsilon([records(1.0, 0.01, 80), records(2.0, 0.1, 14)], delta=1e-5, unit="record")
    for order in ([one, other, one, other], [other, one, one, other]):
        assert coarse_epsilon(order, delta=1e-5, unit="record") == together


@pytest.mark.full
def test_different_releases_are_composed_not_added() -> None:
    events = [records(1.0, 0.01, 500), records(2.0, 0.05, 300), records(10.0), silos(30.0, 4)]
    together = cost(*events)
    assert max(cost(event) for event in events) < together < sum(cost(event) for event in events)
    assert together <= rdp_epsilon(events, delta=1e-5, unit="record")
    prv = pytest.importorskip("opacus.accountants.prv").PRVAccountant()
    # For Opacus a rate of 1 is one sampled so often that it is never missing.
    always = 1 - 1e-9
    prv.history = [(1.0, 0.01, 500), (2.0, 0.05, 300), (10.0, always, 1), (15.0, always, 4)]
    assert together == pytest.approx(prv.get_epsilon(1e-5), abs=0.02)


EVENTS: Sequence[Event] = [
    records(1.0, 0.01, 100),
    records(0.7, 0.02, 30),
    records(9.0),
    silos(20.0, 3),
    records(3.0, 0.2, 10, 1e-20),
    silos(25.0, 1, 1e-9),
]


@settings(max_examples=count(3, full=30), deadline=None)
@given(st.permutations(EVENTS), st.sampled_from([1e-3, 1e-6, 1e-8]))
@pytest.mark.full
def test_one_event_more_never_costs_less(order: list[Event], delta: float) -> None:
    spent = [coarse_epsilon(order[:length], delta=delta, unit="record") for length in range(len(order) + 1)]
    assert all(later >= earlier * (1 - 1e-6) for earlier, later in pairwise(spent))
    assert coarse_epsilon([*order, Unprotected()], delta=delta, unit="record") == math.inf


@pytest.mark.parametrize("slack", [1e-9, 1e-7, 4e-7])
def test_slack_is_paid_out_of_delta(slack: float) -> None:
    free, spent = cost(records(3.0)), cost(records(3.0, slack=slack))
    assert free < spent
    owed = math.exp(log_delta(spent, 1 / 3.0)) + (1 + math.exp(spent)) * slack
    assert owed <= 1e-5
    less = spent * (1 - 1e-6)
    assert math.exp(log_delta(less, 1 / 3.0)) + (1 + math.exp(less)) * slack > 1e-5


def test_slack_adds_up_over_events() -> None:
    halves = cost(records(3.0, steps=2, slack=1e-7), records(3.0, slack=2e-7))
    assert halves == pytest.approx(cost(records(3.0, steps=3, slack=3e-7)), rel=1e-7)
    assert halves > cost(records(3.0, steps=3, slack=2.9e-7))


@pytest.mark.parametrize(
    ("event", "delta"),
    [
        (records(3.0, slack=6e-6), 1e-5),  # Twice the slack is more than delta, at any epsilon.
        (records(0.1, slack=1e-9), 1e-5),  # exp(epsilon) times the slack is.
        (records(0.01, slack=1e-300), 1e-5),  # So is that, beyond the range of float64.
        (records(0.5, 0.5, 100, 1e-9), 1e-5),
    ],
)
def test_slack_that_exceeds_delta_leaves_no_bound(event: Release, delta: float) -> None:
    assert cost(event, delta=delta) == math.inf
    assert cost(replace(event, slack=0.0), delta=delta) < math.inf
    assert rdp_epsilon([event], delta=delta, unit="record") == math.inf


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2, math.nan, math.inf, True, "1e-5", None])
def test_a_delta_out_of_range_is_refused(delta: float) -> None:
    for account in (epsilon, coarse_epsilon, rdp_epsilon):
        with pytest.raises(ParameterError, match="delta"):
            account([records(1.0)], delta=delta, unit="record")


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ParameterError, match="unit"):
        epsilon([], delta=1e-5, unit="person")  # type: ignore[arg-type]


@pytest.mark.parametrize("orders", [[], [1.0], [2.0, 0.5], [math.inf], [math.nan]])
def test_an_order_of_1_or_less_is_refused(orders: list[float]) -> None:
    with pytest.raises(ParameterError, match="orders"):
        rdp_epsilon([records(1.0)], delta=1e-5, unit="record", orders=orders)


def test_only_sampled_releases_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "dp_accounting"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    monkeypatch.delitem(sys.modules, "secagg.privacy.pld", raising=False)
    monkeypatch.delattr("secagg.privacy.pld", raising=False)
    assert cost(records(1.0, steps=100), silos(9.0)) < math.inf
    assert cost(records(1.0, 0.1), Unprotected()) == math.inf
    with pytest.raises(MissingExtra, match=r"dp_accounting is not installed.*secagg\[dp\]"):
        cost(records(1.0, 0.1))
