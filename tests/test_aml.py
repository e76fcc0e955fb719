"""The money laundering example: its world is what it says, a bank sees its own, federating is worth it."""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from examples.aml.__main__ import LEAST_GAIN, Protection, bytes_of_a_bank, check_protection, main
from examples.aml.experiment import MODELS, ROUNDS, Comparison, Task, compare, pooled, steps, train_federated
from examples.aml.features import COLUMNS, LIMIT, active, features
from examples.aml.generator import HELD_OUT, HONEST, LEARN, MONTHS, View, World, generate
from examples.aml.learners import BankTrainer, LogisticRegression, Model, Perceptron, Table
from examples.aml.payments import DAY, HOUR, MONTH, Payments
from examples.aml.scores import BUDGET, Curve, average_precision, findings
from examples.aml.society import BANKS
from examples.aml.typologies import LONGEST, THRESHOLD, TYPOLOGIES, Transfer
from examples.replay import same_sums
from secagg import CKKS, Masking, Paillier, Plain, ThresholdPaillier, TrainingSettings
from secagg.learning.trainer import Initialises, Trainer
from secagg.scheme import Scheme
from tests.counts import count

SMALL = {"people": 5_000, "schemes": 2}
DIGEST = "2bff83f6b6fae1d8217863f67fb70ea4bf0333fee07513408bd350346cf21467"
"""SHA-256 of the payments of seed 0 in the small world."""


@pytest.fixture(scope="module")
def world() -> World:
    return generate(0, **SMALL)


@pytest.fixture(scope="module")
def task(world: World) -> Task:
    return Task.of(world)


# --- the world ---------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_another_seed_others(world: World) -> None:
    again, other = generate(0, **SMALL), generate(1, **SMALL)
    assert hashlib.sha256(world.payments.to_bytes()).hexdigest() == DIGEST
    assert again.payments.to_bytes() == world.payments.to_bytes()
    assert np.array_equal(again.scheme, world.scheme)
    assert again.schemes == world.schemes
    assert other.payments.to_bytes() != world.payments.to_bytes()


def test_bytes_are_all_columns(world: World) -> None:
    few = world.payments.take(np.arange(3))
    columns = np.frombuffer(few.to_bytes(), "<i8").reshape(4, 3)
    assert np.array_equal(columns, [few.time, few.sender, few.receiver, few.cents])


@pytest.mark.parametrize(("people", "schemes"), [(999, 1), (5_000, 0), (5_000, 11)])
def test_too_few_people_for_the_schemes_are_refused(people: int, schemes: int) -> None:
    with pytest.raises(ValueError, match=f"{people} people and {schemes} schemes"):
        generate(0, people=people, schemes=schemes)


def test_payments_are_in_order_and_in_range(world: World) -> None:
    payments, n = world.payments, len(world.society)
    assert (np.diff(payments.time) >= 0).all()
    assert payments.time.min() >= 0
    assert payments.time.max() < MONTHS * MONTH
    assert payments.cents.min() >= 1
    assert (payments.sender != payments.receiver).all()
    for column in (payments.sender, payments.receiver):
        assert column.min() >= 0
        assert column.max() < n


def test_banks_are_of_skewed_size_and_each_has_something_to_learn(world: World, task: Task) -> None:
    shares = np.bincount(world.society.bank, minlength=len(BANKS)) / len(world.society)
    assert len(shares) == 10
    assert shares.max() == pytest.approx(0.29, abs=0.04)
    assert shares.min() == pytest.approx(0.02, abs=0.01)
    guilty = pooled(task.learn).labels.mean()
    assert 0.01 < guilty < 0.04
    assert np.median([table.labels.sum() for table in task.learn.values()]) < 20


def test_people_hold_accounts_at_several_banks_and_never_two_at_one(world: World) -> None:
    society = world.society
    held = Counter(society.person.tolist())
    assert set(held.values()) == {1, 2, 3}
    assert 0.3 < np.mean([number > 1 for number in held.values()]) < 0.4
    pairs = set(zip(society.person.tolist(), society.bank.tolist(), strict=True))
    assert len(pairs) == len(society)


def test_degrees_have_a_heavy_tail(world: World) -> None:
    honest = world.scheme == HONEST
    for column, top in ((world.payments.receiver, 0.3), (world.payments.sender, 0.15)):
        degrees = np.sort(np.bincount(column[honest], minlength=len(world.society)))[::-1]
        # With payments spread evenly the first hundredth of accounts would have about a twentieth of them.
        assert degrees[: len(degrees) // 100].sum() > top * degrees.sum()
        assert degrees[0] > 50 * np.median(degrees)


def test_amounts_are_log_normal_around_everyday_sums(world: World) -> None:
    log = np.log(world.payments.cents[world.scheme == HONEST] / 100)
    assert 3.5 < np.median(log) < 6.5
    assert abs(np.mean(log) - np.median(log)) < 0.5  # Amounts themselves are far more skewed than that.
    assert np.mean(np.exp(log)) > 2 * np.exp(np.median(log))


def _scheme(world: World, number: int) -> Payments:
    return world.payments.take(world.scheme == number)


def test_truth_names_every_scheme_of_every_month(world: World) -> None:
    expected = [(name, month) for month in (LEARN, HELD_OUT) for name in TYPOLOGIES for _ in range(2)]
    assert [(each.typology, each.month) for each in world.schemes] == expected
    for number, scheme in enumerate(world.schemes):
        payments = _scheme(world, number)
        assert len(payments) >= 4
        assert set((payments.time // MONTH).tolist()) == {scheme.month}


@pytest.mark.parametrize("seed", range(count(4, full=40)))
def test_no_scheme_lies_within_one_bank_and_no_bank_sees_a_whole_one(seed: int) -> None:
    world = generate(seed, people=2_000, schemes=4)
    for number in range(len(world.schemes)):
        payments = _scheme(world, number)
        sender, receiver = world.society.bank[payments.sender], world.society.bank[payments.receiver]
        assert len({*sender.tolist(), *receiver.tolist()}) >= 2
        for bank in range(len(BANKS)):
            assert not ((sender == bank) | (receiver == bank)).all()


def test_no_account_and_no_person_is_in_two_schemes_of_a_month(world: World) -> None:
    for month in (LEARN, HELD_OUT):
        people: Counter[int] = Counter()
        for number, scheme in enumerate(world.schemes):
            if scheme.month == month:
                payments = _scheme(world, number)
                accounts = np.unique([payments.sender, payments.receiver])
                assert (world.laundering(month)[accounts] == number).all()
                people.update(set(world.society.person[accounts].tolist()))
        assert set(people.values()) == {1}


# --- typologies --------------------------------------------------------------------------------------------

HUB = (1_000, 1_001)


def _drawn(name: str) -> Iterator[tuple[list[int], list[Transfer]]]:
    """Members and payments of many schemes of one typology."""
    typology = TYPOLOGIES[name]
    for seed in range(count(20, full=300)):
        random = np.random.default_rng(seed)
        members = list(range(int(random.integers(typology.fewest, typology.most + 1))))
        yield members, typology.flow([HUB] * typology.hubs, members, random)


def _edges(transfers: list[Transfer]) -> list[tuple[int, int]]:
    return [(each.sender, each.receiver) for each in transfers]


def _passes_on(transfers: list[Transfer], account: int) -> bool:
    """Whether an account pays out 90 to 100 % of what it got, after the last of it came."""
    came = [each for each in transfers if each.receiver == account]
    went = [each for each in transfers if each.sender == account]
    ratio = sum(each.cents for each in went) / sum(each.cents for each in came)
    return 0.9 < ratio <= 1.0 and min(e.hours for e in went) > max(e.hours for e in came)


@pytest.mark.parametrize("name", TYPOLOGIES)
def test_every_scheme_fits_into_its_time_and_pays_somebody_else(name: str) -> None:
    for _, transfers in _drawn(name):
        assert all(0 <= each.hours <= LONGEST for each in transfers)
        assert all(each.cents >= 1 and each.sender != each.receiver for each in transfers)


def test_fan_in_has_one_collector_at_two_banks() -> None:
    for members, transfers in _drawn("fan-in"):
        assert sorted(each.sender for each in transfers) == members
        assert {each.receiver for each in transfers} == set(HUB)


def test_fan_out_has_one_source_at_two_banks() -> None:
    for members, transfers in _drawn("fan-out"):
        assert sorted(each.receiver for each in transfers) == members
        assert {each.sender for each in transfers} == set(HUB)


def test_bipartite_is_every_account_of_one_side_to_every_one_of_the_other() -> None:
    for members, transfers in _drawn("bipartite"):
        senders, receivers = ({edge[side] for edge in _edges(transfers)} for side in (0, 1))
        assert not senders & receivers
        assert senders | receivers == set(members)
        assert sorted(_edges(transfers)) == sorted((a, b) for a in senders for b in receivers)
        assert min(len(senders), len(receivers)) >= 3


def test_stack_is_two_bipartite_layers_and_the_middle_passes_on() -> None:
    for members, transfers in _drawn("stack"):
        senders, receivers = ({edge[side] for edge in _edges(transfers)} for side in (0, 1))
        first, middle, last = senders - receivers, senders & receivers, receivers - senders
        assert min(len(first), len(middle), len(last)) >= 2
        assert first | middle | last == set(members)
        layers = [(a, b) for a in first for b in middle] + [(a, b) for a in middle for b in last]
        assert sorted(_edges(transfers)) == sorted(layers)
        assert all(_passes_on(transfers, account) for account in middle)


def test_random_is_a_walk_through_all_members_that_now_and_then_returns() -> None:
    returned = 0
    for members, transfers in _drawn("random"):
        assert all(one.receiver == two.sender for one, two in pairwise(transfers))
        assert all(one.hours < two.hours and one.cents > two.cents for one, two in pairwise(transfers))
        route = [transfers[0].sender, *(each.receiver for each in transfers)]
        assert set(route) == set(members)
        returned += len(route) > len(members)
    assert returned


def test_cycle_returns_to_its_origin_through_every_member_once() -> None:
    for members, transfers in _drawn("cycle"):
        assert _edges(transfers) == [*pairwise(members), (members[-1], members[0])]
        assert all(one.hours < two.hours for one, two in pairwise(transfers))
        assert all(_passes_on(transfers, member) for member in members[1:])


def test_scatter_gather_goes_through_intermediaries_only() -> None:
    for members, transfers in _drawn("scatter-gather"):
        source, *intermediaries, destination = members
        assert len(intermediaries) >= 4
        legs = [(source, each) for each in intermediaries] + [(each, destination) for each in intermediaries]
        assert sorted(_edges(transfers)) == sorted(legs)
        assert all(_passes_on(transfers, each) for each in intermediaries)


def test_gather_scatter_gathers_moves_to_an_own_account_and_scatters() -> None:
    for members, transfers in _drawn("gather-scatter"):
        gathering, scattering = HUB
        payers = {each.sender for each in transfers if each.receiver == gathering}
        payees = {each.receiver for each in transfers if each.sender == scattering}
        assert payers | payees == set(members)
        assert not payers & payees
        assert min(len(payers), len(payees)) >= 3
        assert len(transfers) == len(members) + 1
        assert HUB in _edges(transfers)
        assert _passes_on(transfers, gathering)
        assert _passes_on(transfers, scattering)


def test_smurfing_stays_below_the_threshold_and_adds_up_to_more() -> None:
    repeated = 0
    for members, transfers in _drawn("smurfing"):
        assert all(0.8 * THRESHOLD <= each.cents < THRESHOLD for each in transfers)
        assert sum(each.cents for each in transfers) > THRESHOLD
        assert {each.sender for each in transfers} == set(members)
        assert {each.receiver for each in transfers} == set(HUB)
        repeated += len(transfers) > len(members)
    assert repeated


# --- what a bank sees --------------------------------------------------------------------------------------


def test_a_view_is_the_payments_of_own_accounts_in_one_month(world: World) -> None:
    for index in range(len(BANKS)):
        view = world.view(index, HELD_OUT)
        own = world.society.bank == index
        touches = own[world.payments.sender] | own[world.payments.receiver]
        assert np.array_equal(view.accounts, np.flatnonzero(own))
        assert len(view.payments) == (touches & (world.payments.time >= MONTH)).sum()
        assert view.payments.time.min() >= MONTH
        assert np.array_equal(view.sender_bank, world.society.bank[view.payments.sender])
        assert np.array_equal(view.receiver_bank, world.society.bank[view.payments.receiver])


@pytest.mark.parametrize("bank", [0, len(BANKS) - 1])
def test_features_do_not_depend_on_what_the_bank_does_not_see(world: World, bank: int) -> None:
    payments = world.payments
    own = world.society.bank == bank
    unseen = np.flatnonzero(~own[payments.sender] & ~own[payments.receiver])
    before = features(world.view(bank, LEARN))
    for seed in range(count(2, full=20)):
        random = np.random.default_rng(seed)
        sender, receiver, cents = payments.sender.copy(), payments.receiver.copy(), payments.cents.copy()
        sender[unseen], receiver[unseen] = random.choice(np.flatnonzero(~own), size=(2, len(unseen)))
        cents[unseen] = random.integers(1, 10**7, len(unseen))
        changed = replace(world, payments=Payments(payments.time, sender, receiver, cents))
        assert np.array_equal(features(changed.view(bank, LEARN)), before)
        # The change is one that those who see it notice.
        assert not np.array_equal(features(changed.view(1, LEARN)), features(world.view(1, LEARN)))


def test_features_do_not_depend_on_the_truth_nor_on_who_holds_an_account(world: World) -> None:
    random = np.random.default_rng(0)
    person = random.permutation(world.society.person)
    false = replace(
        world, scheme=random.permutation(world.scheme), society=replace(world.society, person=person)
    )
    assert not np.array_equal(false.laundering(LEARN), world.laundering(LEARN))
    for bank in range(len(BANKS)):
        assert np.array_equal(features(false.view(bank, LEARN)), features(world.view(bank, LEARN)))


def test_features_are_finite_in_range_and_all_of_them_vary(task: Task) -> None:
    for tables in (task.learn, task.held_out):
        rows = pooled(tables).features
        assert rows.shape[1] == len(COLUMNS) == len(set(COLUMNS))
        assert np.isfinite(rows).all()
        assert np.abs(rows).max() <= LIMIT
        assert rows.std(axis=0).min() > 0.05
        assert (np.abs(rows) == LIMIT).mean(axis=0).max() < 0.05


def test_features_of_a_few_payments_by_hand() -> None:
    # Accounts 10 to 13 are own ones. 10 gets 9,000 from 20 and 500 from 21, both elsewhere, pays 8,900 to 11
    # three hours later and 100 to 21 the next day. 11 pays 12,000 on. 12 gets 50 and keeps it. 13 sleeps.
    rows = [
        (0, 20, 10, 900_000),
        (HOUR, 21, 10, 50_000),
        (4 * HOUR, 10, 11, 890_000),
        (5 * HOUR, 11, 22, 1_200_000),
        (DAY, 10, 21, 10_000),
        (DAY, 20, 12, 5_000),
    ]
    time, sender, receiver, cents = np.array(rows).T
    own = np.array([10, 11, 12, 13])
    banks = np.where(np.isin(np.arange(30), own), 0, 3)
    payments = Payments(time, sender, receiver, cents)
    view = View(own, payments, banks[sender], banks[receiver], 0, LEARN)
    found = features(view)
    log, hours = np.log1p, (9_000 * 4 + 500 * 3) / 9_500
    expected: dict[str, tuple[list[float], float, float]] = {
        "log payments, in": ([log(2), log(1), log(1), 0], 1.4, 0.8),
        "log counterparties, out": ([log(2), log(1), 0, 0], 1.1, 0.7),
        "log euros, in": ([log(9_500), log(8_900), log(50), 0], 6.5, 2.0),
        "log largest, out": ([log(8_900), log(12_000), 0, 0], 6.0, 2.0),
        "log payments just below the threshold, in": ([log(1), log(1), 0, 0], 0.0, 0.5),
        "log payments just below the threshold, out": ([log(1), 0, 0, 0], 0.0, 0.5),
        "share from or to other banks, out": ([0.5, 1, 0, 0], 0.7, 0.35),
        "log busiest two days, out": ([log(2), log(1), 0, 0], 1.0, 0.6),
        "log size of counterparties, in": ([log([2, 1]).mean(), log(1), log(2), 0], 1.5, 1.5),
        "log hours until passed on": ([log(hours), log(1), log(720), 0], 5.0, 1.5),
        "share passed on": ([1, 1, 0, 0], 0.2, 0.3),
        # 8,900 of 9,000 is alike; neither 8,900 of 500 nor 12,000 of 8,900 is.
        "share passed on alike": ([9_000 / 9_500, 0, 0, 0], 0.0, 0.3),
        "log both payer and payee": ([log(1), 0, 0, 0], 0.0, 0.4),
        "log out over in": ([log(9_000) - log(9_500), log(12_000) - log(8_900), -log(50), 0], 0.0, 2.0),
    }
    for name, (values, centre, scale) in expected.items():
        scaled = np.clip((np.array(values) - centre) / scale, -LIMIT, LIMIT)
        assert found[:, COLUMNS.index(name)] == pytest.approx(scaled), name
    assert active(view).tolist() == [True, True, True, False]


# --- learning ----------------------------------------------------------------------------------------------


@pytest.fixture(params=list(MODELS), scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def _table(n: int, seed: int = 0, columns: int = len(COLUMNS)) -> Table:
    random = np.random.default_rng(seed)
    rows = np.clip(2 * random.normal(size=(n, columns)), -LIMIT, LIMIT)
    return Table(np.arange(n), rows, rows[:, 0] + random.normal(size=n) > 2)


@pytest.mark.parametrize("model", [LogisticRegression(4), LogisticRegression(4, ()), Perceptron(4, 3)])
def test_gradient_is_that_of_the_loss(model: Model) -> None:
    table = _table(40, columns=4)
    trainer = BankTrainer(model, table, table)
    weights = model.initial(3) + 0.1 * np.random.default_rng(1).normal(size=len(model.initial(3)))
    gradient = model.gradient(weights, model.inputs(table.features), table.labels)
    for i, step in enumerate(1e-6 * np.eye(len(weights))):
        up, down = (trainer.evaluate(weights + sign * step).metrics["loss"] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_logistic_regression_bends_at_its_knots_only() -> None:
    model = LogisticRegression(1, knots=(0.0, 2.0))
    weights = np.array([1.0, 10.0, 100.0, 0.5])  # slope, more beyond 0, more beyond 2, bias
    points = np.array([[-3.0], [0.0], [1.0], [3.0]])
    assert model.logits(weights, model.inputs(points)).tolist() == [-2.5, 0.5, 11.5, 133.5]


def test_trainer_learns_repeats_and_leaves_the_global_weights_alone(model: Model) -> None:
    trainer = BankTrainer(model, _table(400), _table(300, seed=1))
    assert isinstance(trainer, Trainer)
    assert isinstance(trainer, Initialises)
    start = trainer.initial(5)
    assert np.array_equal(start, trainer.initial(5))
    start.flags.writeable = False
    settings = TrainingSettings(round=1, epochs=30)
    update = trainer.train(start, settings)
    assert np.array_equal(update.weights, trainer.train(start, settings).weights)
    assert update.weights.shape == start.shape
    before, after = trainer.evaluate(start), trainer.evaluate(update.weights)
    assert after.metrics["loss"] < 0.9 * before.metrics["loss"]
    assert (update.examples, after.examples) == (400, 300)


def test_first_weights_of_the_perceptron_depend_on_the_seed() -> None:
    model = Perceptron(len(COLUMNS))
    assert not np.array_equal(model.initial(0), model.initial(1))


def test_learning_rate_and_proximal_term_are_obeyed(model: Model) -> None:
    trainer = BankTrainer(model, _table(400), _table(300, seed=1))
    start = trainer.initial(0)

    def moved(settings: TrainingSettings) -> float:
        return float(np.abs(trainer.train(start, settings).weights - start).max())

    ordinary = moved(TrainingSettings(round=1, epochs=10))
    assert ordinary <= 10 * 0.02 * 1.5  # The federation's clip is 1.
    assert moved(TrainingSettings(round=1, epochs=10, learning_rate=0.001)) < ordinary / 5
    assert moved(TrainingSettings(round=1, epochs=30, proximal_mu=10.0)) < ordinary / 2


@pytest.mark.parametrize("laundering", [False, True])
def test_extreme_weights_and_one_class_give_no_nan(model: Model, laundering: bool) -> None:
    rows = np.full((5, len(COLUMNS)), LIMIT)
    table = Table(np.arange(5), rows, np.full(5, laundering))
    trainer = BankTrainer(model, table, table)
    for weights in (trainer.initial(0), trainer.initial(0) + 1e6, trainer.initial(0) - 1e6):
        update = trainer.train(weights, TrainingSettings(round=1, epochs=3))
        assert np.isfinite(update.weights).all()
        assert np.isfinite(trainer.evaluate(weights).metrics["loss"])


# --- scores ------------------------------------------------------------------------------------------------


def test_average_precision_is_that_of_scikit_learn() -> None:
    for seed in range(count(20, full=500)):
        random = np.random.default_rng(seed)
        n = int(random.integers(2, 60))
        labels, scores = random.random(n) < 0.3, random.integers(0, 12, n) / 7  # with ties
        labels[0] = True
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))


def test_curve_by_hand() -> None:
    curve = Curve.of(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1]))
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert curve.recall.tolist() == pytest.approx([0.5, 1, 1])
    assert curve.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_findings_of_an_oracle_of_a_fool_and_of_one_typology(world: World, task: Task) -> None:
    accounts = pooled(task.held_out).accounts
    scheme = world.laundering(HELD_OUT)[accounts]
    cents = world.payments.cents[(world.scheme != HONEST) & (world.payments.time >= MONTH)].sum()
    assert (scheme != HONEST).mean() > BUDGET  # So not even an oracle can alert them all.

    fool = findings(world, HELD_OUT, accounts, (scheme == HONEST).astype(float))
    assert set(fool.recall.values()) == {0.0}
    assert fool.missed == fool.laundered == cents / 100

    names = [each.typology for each in world.schemes]
    cycles = np.isin(scheme, [i for i, name in enumerate(names) if name == "cycle"])
    found = findings(world, HELD_OUT, accounts, cycles * 2.0 + (scheme == HONEST))
    assert found.recall == {name: float(name == "cycle") for name in TYPOLOGIES}
    of_cycles = sum(
        int(_scheme(world, i).cents.sum())
        for i, each in enumerate(world.schemes)
        if each.typology == "cycle" and each.month == HELD_OUT
    )
    assert found.missed == pytest.approx((cents - of_cycles) / 100)


# --- together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(count(1, full=5)))
def test_federated_beats_the_median_bank_alone_in_a_small_world(seed: int, model: Model) -> None:
    result = compare(Task.of(generate(seed, **SMALL)), model, Plain(), seed=seed, rounds=10)
    assert list(result.alone) == [bank.name for bank in BANKS]
    assert result.federated.scores[-1] == average_precision_of(result.federated.logits, seed)
    assert result.gain >= LEAST_GAIN
    assert result.gain == result.federated.scores[-1] - result.median


def average_precision_of(logits: NDArray[np.float64], seed: int) -> float:
    held_out = pooled(Task.of(generate(seed, **SMALL)).held_out)
    return average_precision(held_out.labels, logits)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_federated_beats_the_median_bank_alone(seed: int, model: Model) -> None:
    result = compare(Task.of(generate(seed)), model, Plain(), seed=seed)
    assert result.gain >= LEAST_GAIN
    assert result.federated.scores[-1] >= result.best_rounds_median + LEAST_GAIN
    assert abs(result.federated.scores[-1] - result.pooled.scores[-1]) < 0.05


@pytest.fixture(scope="module")
def three(task: Task) -> dict[str, BankTrainer]:
    """Three banks, as fewer are not protected, and more take longer."""
    model = MODELS["logistic regression"]
    return {bank: BankTrainer(model, task.learn[bank], task.held_out[bank]) for bank in list(task.learn)[:3]}


@pytest.mark.parametrize(
    "scheme",
    [Masking(), Paillier(), CKKS(), pytest.param(ThresholdPaillier(), marks=pytest.mark.full)],
    ids=lambda scheme: type(scheme).__name__,
)
def test_protection_changes_no_sum_and_no_model(three: dict[str, BankTrainer], scheme: Scheme) -> None:
    told: list[str] = []
    protected = train_federated(three, scheme, seed=0, rounds=2, told=told.append)
    plain = train_federated(three, Plain(), seed=0, rounds=2)
    name = type(scheme).__name__
    assert [report.scheme for report in protected.reports] == [name] * 3
    assert same_sums(protected.seen, plain.seen)
    assert len(protected.models) == 2
    assert np.array_equal(protected.models, plain.models)
    assert np.array_equal(protected.models[-1], protected.history.model)
    assert not np.array_equal(protected.models[0], protected.models[1])
    assert 0 < protected.off == plain.off <= protected.bound == plain.bound
    assert told[0] == f"all banks federated, {name}"
    assert told[1:] == [f"{told[0]}: {title}" for title in ("round 1", "round 2", "final metrics")]


@pytest.fixture(scope="module")
def masked(task: Task) -> Comparison:
    return compare(task, MODELS["logistic regression"], Masking(), seed=0, rounds=2)


def test_protected_and_plain_run_train_from_one_start_each_for_itself(task: Task, masked: Comparison) -> None:
    assert masked.run is not masked.plain_run
    assert masked.run.reports[0].scheme == "Masking"
    assert masked.plain_run.reports[0].scheme == "Plain"
    assert masked.same
    assert masked.federated.scores == masked.plain.scores
    told: list[str] = []
    plain = compare(task, MODELS["logistic regression"], Plain(), seed=0, rounds=2, told=told.append)
    assert plain.run is plain.plain_run
    assert np.array_equal(plain.federated.weights, masked.plain.weights)
    assert len(told) == steps(Plain(), 2) == steps(Masking(), 2) - 4


def test_what_protection_would_change_is_seen_and_told(
    task: Task, masked: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    other = compare(task, MODELS["perceptron"], Plain(), seed=1, rounds=2)
    assert not replace(masked, plain_run=other.run).same
    moved = [masked.run.models[0], np.nextafter(masked.run.models[1], np.inf)]
    console = Console(width=200)
    for wrong, right in (
        (replace(masked, plain_run=replace(masked.plain_run, models=moved)), (False, True)),
        (replace(masked, run=replace(masked.run, seen=other.run.seen)), (False, True)),
        (replace(masked, run=replace(masked.run, off=2 * masked.run.bound)), (True, False)),
        (masked, (True, True)),
    ):
        assert check_protection(console, {"model": wrong}, Protection.MASKING) is all(right)
        lines = capsys.readouterr().out.splitlines()
        assert [line.startswith("yes  model: ") for line in lines] == list(right)


def test_bytes_are_those_of_one_bank_and_one_round(masked: Comparison) -> None:
    trained = [report for report in masked.run.reports if report.kind == "train"]
    up, down = bytes_of_a_bank(masked.run)
    assert 20 * up == sum(sum(report.bytes_up.values()) for report in trained)
    assert 20 * down == sum(sum(report.bytes_down.values()) for report in trained)


APP = typer.Typer()
APP.command()(main)


def test_paillier_with_a_whole_key_is_the_default_and_other_protections_are_offered() -> None:
    default = inspect.signature(main).parameters["scheme"].default
    assert default is Protection.PAILLIER
    assert default.scheme() == Paillier(bits=3072)
    offered = {type(protection.scheme()) for protection in Protection}
    assert offered == {Paillier, ThresholdPaillier, CKKS, Masking, Plain}


def test_another_scheme_is_a_clear_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, ["--scheme", "rot13", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "Invalid value for '--scheme': 'rot13' is not one of" in said
    assert all(f"'{protection}'" in said for protection in Protection)
    assert not (tmp_path / "out").exists()


# A round of ten banks takes long under encryption.
RUN = [
    pytest.param(each, marks=[] if each is Protection.MASKING else [pytest.mark.full]) for each in Protection
]


@pytest.mark.parametrize("scheme", RUN)
def test_example_runs_prints_and_draws(
    scheme: Protection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written, rounds = tmp_path / "new" / "folder", 1 if scheme is Protection.THRESHOLD_PAILLIER else 2
    main(seed=3, seeds=2, scheme=scheme, rounds=rounds, people=3_000, schemes=1, out=written)
    for picture in ("precision_recall.png", "recall_per_typology.png"):
        assert (written / picture).read_bytes().startswith(b"\x89PNG")
    world = generate(3, people=3_000, schemes=1)
    with (written / "ground_truth.csv").open(encoding="utf-8") as file:
        truth = list(csv.DictReader(file))
    assert [int(row["cents"]) for row in truth] == world.payments.cents[world.scheme != HONEST].tolist()
    assert {row["typology"] for row in truth} == set(TYPOLOGIES)
    results = json.loads((written / "results.json").read_text(encoding="utf-8"))
    assert list(results["average_precision"]) == ["3", "4"]
    for models in results["average_precision"].values():
        for each in models.values():
            assert each["gain"] == pytest.approx(each["federated"] - each["median"])
    assert results["protection"]["scheme"] == scheme
    for runs in results["protection"]["runs"].values():
        assert runs["same"] is True
        assert runs[scheme]["model"] == runs["plain"]["model"]
        assert 0 < runs[scheme]["rounding"]["largest"] <= runs[scheme]["rounding"]["bound"]
    printed = capsys.readouterr().out
    assert "lantern alone" in printed
    assert "gather-scatter" in printed
    protected = scheme is not Protection.PLAIN
    encrypted = protected and scheme is not Protection.MASKING
    name = type(scheme.scheme()).__name__
    # 630 in each round, 5 in the sum of metrics.
    sums = f"{rounds + 1} sums of {630 * rounds + 5:,} integers"
    same = f"yes  perceptron: {sums} and every model under {scheme} are those of plain, bit"
    assert (same in printed) is protected
    assert (f"round {rounds}: {name}, the sum of 10 of 10 silos was opened" in printed) is protected
    assert (f"L0: round {rounds}" in printed) is (scheme in {Protection.PAILLIER, Protection.CKKS})
    assert ("The banks open the sum and hold the model." in printed) is encrypted


@pytest.mark.full
def test_the_whole_demo_is_under_paillier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(seeds=1, out=tmp_path)
    printed = capsys.readouterr().out
    assert "\nno " not in printed
    sums = ROUNDS + 1  # The last one is of metrics.
    for name in MODELS:
        assert f"yes  {name}: {sums} sums of " in printed
    assert printed.count("\n  Paillier ") == len(MODELS)
    figures = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for model in figures["average_precision"]["0"].values():
        assert model["gain"] >= LEAST_GAIN
