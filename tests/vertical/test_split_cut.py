"""What crosses the cut: clipping, noise on a grid, labels turned round, columns scaled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secagg.errors import FaultySilo, InputRefused
from secagg.payload import Payload
from secagg.privacy.gaussian import least_epsilon
from secagg.vertical.split.columns import FAR, Scaling
from secagg.vertical.split.cut import Cut
from secagg.vertical.split.labels import flipped
from secagg.vertical.split.seeds import batches, stream
from secagg.vertical.split.settings import SplitSettings, SplitTerms
from tests.vertical.split_networks import fixed

ROWS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-1e12, 1e12, width=64)
)


@given(ROWS, st.floats(1e-3, 1e3))
def test_no_clipped_row_is_longer_and_short_ones_stay(rows: np.ndarray, clip: float) -> None:
    clipped = Cut(clip, 0.5, 3).clipped(rows)
    norms = [math.sqrt(math.fsum(value * value for value in row)) for row in clipped.tolist()]
    assert max(norms) <= clip
    for before, after in zip(rows, clipped, strict=True):
        if np.linalg.norm(before) < clip * (1 - 1e-9):
            np.testing.assert_array_equal(before, after)
        else:
            np.testing.assert_allclose(after, before * (clip / np.linalg.norm(before)), rtol=1e-9)


def test_a_gradient_goes_back_through_clipping() -> None:
    generator = np.random.default_rng(0)
    cut = Cut(2.0, 0.1, 4)
    rows = generator.normal(size=(6, 4)) * np.array([0.1, 0.5, 1.0, 2.0, 4.0, 0.0])[:, None]
    gradient = generator.normal(size=(6, 4))
    back = cut.through(rows, gradient)
    step = 1e-6
    for row, column in np.ndindex(rows.shape):
        moved = np.zeros_like(rows)
        moved[row, column] = step
        slope = ((cut.clipped(rows + moved) - cut.clipped(rows - moved)) * gradient).sum() / (2 * step)
        assert back[row, column] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(("clip", "noise"), [(4.0, 0.1), (0.01, 1.0), (1.0, 30.0)])
def test_noise_has_its_deviation_and_all_is_on_the_grid(clip: float, noise: float) -> None:
    cut = Cut(clip, noise, 4)
    rows = np.tile([clip / 2, -clip / 2, 0.0, clip * 10], (5000, 1))
    released = cut.release(rows, random=fixed(1))
    received = cut.received("bank", released, 5000)
    errors = received - cut.clipped(rows)
    deviation = errors.std()
    # 20,000 draws: their deviation is within 1 in 50; two thirds and three halves would be refused.
    assert 0.98 < deviation / (clip * noise) < 1.02
    steps = np.unique(np.round(received / cut_step(cut)))
    np.testing.assert_array_equal(np.unique(received), steps * cut_step(cut))
    assert abs(errors.mean()) < 5 * clip * noise / math.sqrt(20_000)


def cut_step(cut: Cut) -> float:
    return math.ldexp(1.0, -cut._bits)


def test_what_a_release_costs_is_that_of_any_two_rows_with_what_rounding_adds() -> None:
    cut = Cut(4.0, 0.1, 16)
    assert 20.0 < cut.mu < 20.02
    settings = SplitSettings()
    assert settings.embedding_epsilon(4, 1e-5) == least_epsilon(2 * settings.embeddings.mu, 1e-5)
    assert settings.label_epsilon == pytest.approx(math.log(0.53 / 0.47))


def test_the_same_random_bytes_give_the_same_release_and_others_another() -> None:
    cut, rows = Cut(1.0, 1.0, 3), np.zeros((4, 3))
    first, again, other = (cut.release(rows, random=fixed(seed)).array() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_that_are_not_finite_do_not_leave() -> None:
    with pytest.raises(InputRefused, match="not finite"):
        Cut(1.0, 1.0, 2).release(np.array([[0.0, np.nan]]), random=fixed(1))


def test_the_largest_that_can_leave_is_received_and_no_larger() -> None:
    cut = Cut(1.0, 1.0, 1)
    most = math.floor(cut._most / cut_step(cut)) * cut_step(cut)
    cut.received("bank", Payload.of(np.array([most])), 1)
    with pytest.raises(FaultySilo, match="no clipped and noised row"):
        cut.received("bank", Payload.of(np.array([most + cut_step(cut)])), 1)


@pytest.mark.parametrize("flip", [0.05, 0.45])
def test_labels_are_turned_as_often_as_is_said_and_independently_of_what_they_are(flip: float) -> None:
    labels = (np.arange(20_000) % 2).astype(np.float64)
    turned = flipped(labels, flip, random=fixed(3)) != labels
    for value in (0.0, 1.0):
        rate = turned[labels == value].mean()
        assert abs(rate - flip) < 5 * math.sqrt(flip * (1 - flip) / 10_000)
    np.testing.assert_array_equal(flipped(1 - labels, flip, random=fixed(3)) != 1 - labels, turned)


def test_streams_of_other_uses_differ_and_one_stream_repeats() -> None:
    seed = bytes(range(32))
    drawn = [
        stream(seed, "embeddings", b"terms", 0)(32),
        stream(seed, "embeddings", b"terms", 1)(32),
        stream(seed, "gradients", b"terms", 0)(32),
        stream(bytes(32), "embeddings", b"terms", 0)(32),
    ]
    source = stream(seed, "embeddings", b"terms", 0)
    assert source(32) == drawn[0]
    assert source(32) not in drawn
    assert len(set(drawn)) == 4


def test_every_record_is_in_one_batch_and_all_parties_have_the_same() -> None:
    terms = SplitTerms(
        alignment=bytes(32), count=200, parties=("a", "b"), label_party="a", settings=SplitSettings()
    )
    cut = batches(terms)
    assert len(cut) == 3
    assert sorted(np.concatenate(cut).tolist()) == list(range(200))
    for one, other in zip(cut, batches(terms), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.concatenate(cut).tolist() != list(range(200))


def test_columns_are_scaled_by_what_was_trained_on() -> None:
    columns = np.array([[1.0, 5.0], [3.0, 5.0]])
    scaling = Scaling.of(columns)
    np.testing.assert_array_equal(scaling(columns), [[-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(scaling(np.array([[1e9, 5.0]])), [[FAR, 0.0]])
    assert "1" not in repr(scaling)
    with pytest.raises(InputRefused, match="1 columns where 2"):
        scaling(np.ones((3, 1)))


@pytest.mark.parametrize("value", [0.1, -1e99, 3e-310])
def test_a_column_that_is_constant_has_deviation_1(value: float) -> None:
    # The mean of equal numbers is not always equal to them.
    scaling = Scaling.of(np.full((300, 1), value))
    assert scaling.deviation.tolist() == [1.0]
    assert scaling(np.full((2, 1), value)).tolist() == [[0.0], [0.0]]


def test_columns_whose_squares_are_infinite_are_refused_where_they_are_trained_on() -> None:
    with pytest.raises(InputRefused, match="beyond 1e\\+100; scale it"):
        Scaling.of(np.array([[1.0, 0.0], [2.0, 1e160]]))
    scaling = Scaling.of(np.array([[0.0], [1e-3]]))
    assert scaling(np.array([[1.7e308], [-1.7e308]])).tolist() == [[FAR], [-FAR]]
