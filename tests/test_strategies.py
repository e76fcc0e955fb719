"""The global model and the strategies: the same bits at every silo, and the formulas of their papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import InputRefused, MalformedMessage, ParameterError, UsageError
from secagg.hazmat.framing import frame
from secagg.learning.model import GlobalModel
from secagg.learning.strategies import FedAdam, FedAvg, FedProx, FedYogi, Strategy
from secagg.names import RealVector
from secagg.payload import Payload

STRATEGIES: tuple[Strategy, ...] = (
    FedAvg(),
    FedAvg(0.3),
    FedProx(0.1),
    FedAdam(),
    FedAdam(0.1, beta1=0.0, beta2=0.5, tau=1e-2),
    FedYogi(),
    FedYogi(0.1, beta1=0.8, beta2=0.9, tau=1e-4),
)
Rule = Callable[[FedAdam | FedYogi, float, float], float]


def vector(length: int, seed: int, scale: float = 1.0) -> RealVector:
    return np.random.default_rng(seed).normal(0.0, scale, length)


def run(strategy: Strategy, weights: RealVector, deltas: list[RealVector]) -> GlobalModel:
    model = strategy.start(weights)
    for delta in deltas:
        model = strategy.apply(model, delta)
    return model


# --- the formulas, against Python floats -----------------------------------------------------------


def adam_rule(strategy: FedAdam | FedYogi, v: float, square: float) -> float:
    return strategy.beta2 * v + (1 - strategy.beta2) * square


def yogi_rule(strategy: FedAdam | FedYogi, v: float, square: float) -> float:
    if v == square:
        return v
    step = (1 - strategy.beta2) * square
    return v - step if v > square else v + step


def scalar_run(strategy: FedAdam | FedYogi, rule: Rule, weight: float, deltas: list[float]) -> list[float]:
    """Algorithm 2 of Reddi et al. for one weight, written from the paper without NumPy."""
    m, v = 0.0, strategy.tau**2
    for delta in deltas:
        m = strategy.beta1 * m + (1 - strategy.beta1) * delta
        v = rule(strategy, v, delta**2)
        weight = weight + strategy.server_learning_rate * m / (math.sqrt(v) + strategy.tau)
    return [weight, m, v]


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [(s, yogi_rule if isinstance(s, FedYogi) else adam_rule) for s in STRATEGIES if s.slots],
    ids=lambda value: value.__name__ if callable(value) else repr(value),
)
def test_adaptive_strategies_follow_algorithm_2(strategy: FedAdam | FedYogi, rule: Rule) -> None:
    weights, deltas = vector(5, 1), [vector(5, 10 + r, 10.0 ** (-r)) for r in range(6)]
    model = run(strategy, weights, deltas)
    for i in range(5):
        want = scalar_run(strategy, rule, float(weights[i]), [float(delta[i]) for delta in deltas])
        got = [float(model.weights[i]), float(model.state[0][i]), float(model.state[1][i])]
        assert got == pytest.approx(want, rel=1e-13, abs=0)


def test_known_answers_of_one_step() -> None:
    # By hand: m = 0.1 * 0.5 = 0.05; v(Adam) = 0.99e-6 + 0.01 * 0.25; v(Yogi) = 1e-6 + 0.01 * 0.25 (sign -1).
    weights, delta = np.array([1.0]), np.array([0.5])
    adam = FedAdam(0.01).apply(FedAdam(0.01).start(weights), delta)
    yogi = FedYogi(0.01).apply(FedYogi(0.01).start(weights), delta)
    assert adam.state[1][0] == pytest.approx(0.00250099, rel=1e-12)
    assert yogi.state[1][0] == pytest.approx(0.002501, rel=1e-12)
    assert adam.weights[0] == pytest.approx(1.0 + 0.01 * 0.05 / (math.sqrt(0.00250099) + 0.001), rel=1e-15)
    assert yogi.weights[0] == pytest.approx(1.0 + 0.01 * 0.05 / (math.sqrt(0.002501) + 0.001), rel=1e-15)


def test_yogi_lowers_its_second_moment_by_the_sign_alone() -> None:
    strategy = FedYogi(beta2=0.9, tau=1.0)  # v starts at 1; a small delta may take off only 0.1 * delta^2
    model = strategy.apply(strategy.start(np.array([0.0])), np.array([0.5]))
    assert model.state[1][0] == pytest.approx(1.0 - 0.1 * 0.25, rel=1e-15)


def test_fedavg_with_rate_one_adds_the_mean() -> None:
    weights, delta = vector(7, 1), vector(7, 2)
    assert np.array_equal(run(FedAvg(), weights, [delta]).weights, weights + delta)
    assert np.array_equal(run(FedAvg(0.5), weights, [delta]).weights, weights + 0.5 * delta)


def test_fedprox_steps_like_fedavg_and_differs_at_the_trainer() -> None:
    weights, delta = vector(7, 1), vector(7, 2)
    assert run(FedProx(0.25), weights, [delta]).digest == run(FedAvg(), weights, [delta]).digest
    assert FedProx(0.25).proximal_mu == 0.25
    assert [s.proximal_mu for s in STRATEGIES if not isinstance(s, FedProx)] == [0.0] * 6


# --- the same bits at every silo -------------------------------------------------------------------


@given(
    strategy=st.sampled_from(STRATEGIES),
    seed=st.integers(0, 2**32),
    length=st.integers(1, 200),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    scale=st.sampled_from([1e-300, 1e-9, 1.0, 1e6]),
)
def test_pieces_give_the_same_bits(
    strategy: Strategy, seed: int, length: int, cuts: list[int], scale: float
) -> None:
    """A sum or a dot product over the vector would break this: its rounding depends on the split."""
    weights, deltas = vector(length, seed), [vector(length, seed + r, scale) for r in (1, 2, 3)]
    whole = run(strategy, weights, deltas).to_payload().reshape(1 + strategy.slots, length)
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    for start, stop in itertools.pairwise(edges):
        piece = run(strategy, weights[start:stop], [delta[start:stop] for delta in deltas])
        assert piece.to_payload().tobytes() == whole[:, start:stop].tobytes()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_memory_layout_does_not_matter(strategy: Strategy) -> None:
    """Strided and unaligned inputs take other loops in NumPy; the bits must not follow."""
    weights, delta = vector(1001, 1), vector(1001, 2)
    strided = np.zeros((1001, 3))
    strided[:, 1] = delta
    shifted = np.frombuffer(b"\0" + delta.tobytes(), dtype=np.uint8)[1:].view(np.float64)
    want = run(strategy, weights, [delta, delta]).digest
    assert run(strategy, weights, [strided[:, 1], shifted]).digest == want


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_apply_leaves_the_base_alone_and_counts_rounds(strategy: Strategy) -> None:
    base = strategy.start(vector(9, 1))
    before, delta = base.to_payload(), vector(9, 2)
    after = strategy.apply(base, delta)
    assert (base.round, after.round) == (1, 2)
    assert np.array_equal(base.to_payload(), before)
    assert len(after.state) == strategy.slots
    assert not any(v.flags.writeable for v in (after.weights, *after.state))
    assert not any(np.shares_memory(v, delta) for v in (after.weights, *after.state))


def test_descriptions_differ_whenever_parameters_do() -> None:
    built = (*STRATEGIES, FedProx(0.2), FedAdam(tau=1.0), FedYogi(beta1=0.5))
    described = [tuple(sorted(strategy.describe().items())) for strategy in built]
    assert len(set(described)) == len(described)
    assert FedYogi(0.1).describe() == {
        "strategy": "FedYogi", "server_learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3
    }  # fmt: skip
    assert FedProx(1).describe() == {"strategy": "FedProx", "mu": 1.0, "server_learning_rate": 1.0}


# --- refusals ----------------------------------------------------------------------------------------

BAD = (0.0, -1.0, math.nan, math.inf)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    "build",
    [
        FedAvg,
        FedProx,
        lambda x: FedProx(0.1, server_learning_rate=x),
        FedAdam,
        FedYogi,
        lambda x: FedAdam(tau=x),
        lambda x: FedYogi(tau=x),
    ],
)
def test_unsafe_parameters_are_refused(build: Callable[[float], Strategy], value: float) -> None:
    with pytest.raises(ParameterError, match=r"must be (above 0 and )?finite"):
        build(value)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_betas_lie_between_zero_and_one(kind: type[FedAdam | FedYogi], name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_apply_refuses_what_is_not_a_mean_of_this_model(strategy: Strategy) -> None:
    base = strategy.start(vector(4, 1))
    with pytest.raises(InputRefused) as shape:
        strategy.apply(base, vector(5, 1))
    with pytest.raises(InputRefused) as dtype:
        strategy.apply(base, np.ones(4, dtype=np.float32))
    with pytest.raises(InputRefused) as nan:
        strategy.apply(base, np.array([0.0, math.nan, 0.0, 0.0]))
    assert (shape.value.rule, dtype.value.rule, nan.value.rule) == ("shape", "dtype", "nan")


def test_a_step_out_of_range_is_refused_not_stored() -> None:
    with pytest.raises(InputRefused) as refused:
        FedAvg(1e10).apply(FedAvg(1e10).start(np.ones(2)), np.array([1.0, 1e300]))
    assert refused.value.rule == "infinite"


def test_state_of_another_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="FedAdam keeps 2 state vectors, the model has 0"):
        FedAdam().apply(FedAvg().start(np.ones(3)), np.ones(3))


# --- the base ----------------------------------------------------------------------------------------


def test_digest_is_the_same_for_the_same_base_in_any_round() -> None:
    weights, slot = vector(6, 1), vector(6, 2)
    assert GlobalModel(1, weights, (slot,)).digest == GlobalModel(9, weights.copy(), (slot,)).digest


def test_digest_known_answer() -> None:
    values = np.array([1.0, -2.5, 0.0, 4.0], dtype="<f8").tobytes()
    want = blake3(frame("base model", 2, 1) + values).digest()
    assert GlobalModel(1, np.array([1.0, -2.5]), (np.array([0.0, 4.0]),)).digest == want


def test_digest_sees_every_bit_and_every_split() -> None:
    a, b = vector(4, 1), vector(4, 2)
    bases = [GlobalModel(1, a), GlobalModel(1, b), GlobalModel(1, a, (b,)), GlobalModel(1, b, (a,))]
    bases.append(GlobalModel(1, np.concatenate((a, b))))
    bases.append(GlobalModel(1, a, (a, b)))
    for i in range(4):
        nudged = a.copy()
        nudged[i] = np.nextafter(nudged[i], np.inf)
        bases.append(GlobalModel(1, nudged))
    assert len({base.digest for base in bases}) == len(bases)


def test_a_base_cannot_change_under_its_hash() -> None:
    mine = vector(3, 1)
    base = GlobalModel(1, mine, (mine,))
    mine[0] = 99.0
    assert base.weights[0] != 99.0
    assert base.state[0][0] != 99.0
    with pytest.raises(ValueError, match="read-only"):
        base.weights[0] = 1.0


@given(length=st.integers(1, 20), slots=st.integers(0, 3), number=st.integers(1, 9))
def test_payload_round_trip(length: int, slots: int, number: int) -> None:
    base = GlobalModel(number, vector(length, 1), tuple(vector(length, 2 + s) for s in range(slots)))
    again = GlobalModel.from_payload(number, base.to_payload(), length=length)
    assert (again.round, again.digest, len(again.state)) == (number, base.digest, slots)
    assert np.array_equal(again.weights, base.weights)


@pytest.mark.parametrize(
    ("payload", "length"),
    [
        (np.ones(7), 3),
        (np.ones(2), 3),
        (np.ones(0), 3),
        (np.ones(3), 0),
        (np.ones(3), -3),
        (np.ones((3, 3)), 3),
        (np.array([1.0, math.nan, 1.0]), 3),
        (np.array([1.0, math.inf, 1.0]), 3),
        (np.ones(3, dtype=np.complex128), 3),
    ],
)
def test_a_received_payload_that_is_no_base_is_malformed(payload: RealVector, length: int) -> None:
    with pytest.raises(MalformedMessage):
        GlobalModel.from_payload(1, payload, length=length)


@pytest.mark.parametrize(
    ("weights", "state", "rule"),
    [
        (np.array([1.0, math.nan]), (), "nan"),
        (np.array([1.0, -math.inf]), (), "infinite"),
        (np.ones((2, 2)), (), "shape"),
        (np.ones(0), (), "shape"),
        (np.ones(2), (np.ones(3),), "shape"),
        (np.array(["a"]), (), "dtype"),
        (np.ones(2, dtype=bool), (), "dtype"),
    ],
)
def test_a_base_refuses_what_is_not_a_model(
    weights: RealVector, state: tuple[RealVector, ...], rule: str
) -> None:
    with pytest.raises(InputRefused) as refused:
        GlobalModel(1, weights, state)
    assert refused.value.rule == rule


def test_float32_weights_are_taken_over_exactly() -> None:
    single = vector(5, 1).astype(np.float32)
    assert np.array_equal(FedAvg().start(single).weights, single.astype(np.float64))  # type: ignore[arg-type]


def test_repr_shows_sizes_and_no_weight() -> None:
    base = GlobalModel(3, np.array([0.125, 7.5]), (np.ones(2),))
    assert repr(base) == "GlobalModel(round=3, length=2, slots=1)"


def test_a_base_is_sent_without_being_joined_first() -> None:
    state = tuple(np.linspace(number, number + 1, 70_000) for number in range(2))
    model = GlobalModel(1, np.linspace(-1, 1, 70_000), state)
    sent = model.payload()
    assert sent.digest == Payload.of(model.to_payload()).digest
    assert sent.size == 8 * 3 * 70_000
    assert GlobalModel.from_payload(1, sent.array(), length=70_000).digest == model.digest
    first = next(model.payload().pieces())
    assert np.shares_memory(np.frombuffer(first, np.uint8), model.weights)
    assert sent.buffer() is sent.buffer(), "it is joined once, however many silos ask for it"
    bare = GlobalModel(1, model.weights)
    assert np.shares_memory(bare.payload().array(), model.weights)
