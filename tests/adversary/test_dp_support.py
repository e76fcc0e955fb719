"""Attack ``dp_support``: tell an update from its neighbour by what the noised result can be at all.

Noise in floating point has holes: which low-order bits a result can have depends on what the noise was added
to, so that a single result can tell with certainty, however much noise there is (Mironov 2012). The same
happens with integers if the noise is a multiple of something.

The attacker knows all but one silo's update, each entry of which is one of two: zero, or a few steps, which
are nothing beside the clip and the noise. Its advantage is the share of right answers less that of wrong
ones. Noise with deviation s leaves nobody more than ``1 / (2 * s)`` an entry and step, that is here less than
2**-33; coins are beyond ``LUCK`` over ``LENGTH`` entries, for one of four guesses, with a probability below
1e-10."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.fixedpoint import Encoding, Segment
from secagg.names import IntegerVector
from secagg.privacy import noising
from secagg.privacy.noise import DiscreteGaussian
from secagg.privacy.noising import StepNoise
from secagg.terms import LocalNoise, RecordNoise, SiloNoise
from tests.privacy.noised import Noised

LENGTH = 4_000
LUCK = 7.2 / math.sqrt(LENGTH)
"""Advantage that coins exceed with a probability below 6e-12, by Hoeffding's inequality."""

BITS, SHARE = 32, 2.0**36
"""A clip norm of 1 is 2**32 steps, and a silo's noise 2**36: what is told apart is no more than 8 of them."""


def opened(secret: NDArray[Any], kind: str) -> NDArray[np.int64]:
    """Return the opened sum, in steps, of four silos, of which one moved each entry by ``secret`` steps."""
    updates = [np.zeros(LENGTH)] * 4
    federation = Noised(updates)
    noise: Any = SiloNoise(1.0, SHARE, 1e-5)
    if kind == "record":
        noise = RecordNoise(1.0, SHARE, 1.0, 1.0, 1e-5)
    encoding = Encoding(64, 4, (Segment("update", LENGTH, 2.0**10, BITS),))
    trainer = federation.trainers["south"]
    trainer.moved = np.ldexp(secret.astype(np.float64), -BITS)
    aggregate = federation.run(privacy=noise, encoding=encoding)
    return federation.signed(aggregate.total)


def advantage(answers: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(np.mean(np.where(answers == truth, 1.0, -1.0)))


def attack(kind: str) -> float:
    """Guess low-order bits of a silo's update from one opened sum; return the best guesser's advantage."""
    rng = np.random.default_rng(7)
    best = 0.0
    for low in (0, 1, 2, 3):
        truth = rng.integers(0, 2, LENGTH)
        total = opened(truth << low, kind)
        # Where noise has no bits as low as this, the result's are those of the update.
        best = max(best, advantage(total >> low & 1, truth))
    return best


@pytest.mark.parametrize("kind", ["silo", "record"])
def test_dp_support(kind: str) -> None:
    assert attack(kind) < LUCK, "low-order bits tell the update"


def sparse(self: DiscreteGaussian, vector: IntegerVector) -> None:
    """``DiscreteGaussian.add_to`` with noise that was drawn on a grid of 16 steps."""
    coarse = DiscreteGaussian(self.sigma / 16, random=self._random).sample(vector.size)
    vector += (coarse * 16).astype(vector.dtype)


def in_float32(self: DiscreteGaussian, vector: IntegerVector) -> None:
    """``DiscreteGaussian.add_to`` with noise in float32: 24 bits from the highest on, then zeros."""
    key = int.from_bytes(self._random(8), "little")
    drawn = np.random.default_rng(key).standard_normal(vector.size, np.float32) * np.float32(self.sigma)
    vector += np.rint(drawn).astype(np.int64).astype(vector.dtype)


@pytest.mark.parametrize("mutant", [sparse, in_float32])
@pytest.mark.parametrize("kind", ["silo", "record"])
def test_dp_support_mutant(monkeypatch: pytest.MonkeyPatch, mutant: Any, kind: str) -> None:
    monkeypatch.setattr("secagg.privacy.noise.DiscreteGaussian.add_to", mutant)
    assert attack(kind) > 0.99
    with pytest.raises(AssertionError, match="low-order bits tell the update"):
        test_dp_support(kind)


# --- one step of DP-SGD -------------------------------------------------------------------------------------

STEP = LocalNoise(1.0, 1.0, 1.0, 1, 1e-5)
GAMES = 50


def attack_on_a_step() -> float:
    """Tell a gradient of ones from one of zeros by a noised vector; return the advantage over both.

    A float64 near 0 that is 1 plus noise is a multiple of 2**-53, for so is noise that brings 1 there. One
    that is noise alone has finer bits.
    """
    right = 0
    for world in (0.0, 1.0):
        for _ in range(GAMES):
            noised = noising.StepNoise(STEP, 200).add(np.full(200, world))
            fine = np.ldexp(noised[np.abs(noised) < 1 / 8], 53)
            answer = 1.0 if np.array_equal(fine, np.rint(fine)) else 0.0
            right += answer == world
    return right / GAMES - 1


def check_step() -> None:
    assert attack_on_a_step() == 0, "low-order bits tell the gradient"


def test_the_noise_of_a_step_has_no_holes() -> None:
    """Whatever was noised is on one grid: the attacker says the same in both worlds."""
    check_step()


def continuous(_self: StepNoise, total: NDArray[Any]) -> NDArray[Any]:
    """``StepNoise.add`` in float64."""
    return np.asarray(total + np.random.default_rng().normal(size=total.size) * STEP.noise_multiplier)


def test_the_noise_of_a_step_has_no_holes_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.privacy.noising.StepNoise.add", continuous)
    assert attack_on_a_step() == 1
    with pytest.raises(AssertionError, match="low-order bits tell the gradient"):
        check_step()
