"""Where to go next, known from inner products of gradients alone: L-BFGS whose vectors nobody has whole.

A gradient lies at its parties, a block each, and so do the points. But every point that L-BFGS visits is a
sum of multiples of gradients, so whoever knows their inner products finds the multiples, and no vector
travels. All gradients are remembered. Along a direction the loss is not known, only its slope: where the
gradient is an affine function of the point, two slopes give the minimum and the gradient there; else a secant
is tried.

Source: Chen, Wang, Zhou 2014, "Large-scale L-BFGS using MapReduce" (vector-free L-BFGS); Nocedal, Wright
2006, *Numerical Optimization*, algorithm 7.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secagg.errors import RoundAborted
from secagg.names import RealVector
from secagg.vertical.linear.messages import Point
from secagg.vertical.linear.received import LARGEST_NUMBER
from secagg.vertical.linear.terms import Settings

_ENOUGH = 0.5
"""A step is taken when the slope fell to this part of what it was."""
_FURTHEST = 4.0
"""How many times as far as was tried a step may go: what is known by mixing two gradients has their errors as
many times."""
_MOST_TRIES = 5
_NEARLY = 1e-3
"""A gradient so much shorter than the first is near a minimum: what leads nowhere there is roundoff."""


class Descent:
    """Minimises a loss; every vector is kept as multiples of gradients.

    Args:
        affine: whether the gradient is an affine function of the point.

    Attributes:
        point: the best so far, as multiples of gradients.
        length: of the gradient there; infinite before the first.
        kept: what part of the newest gradient its parties keep, and mix with the rest of the one before, so
            that it becomes that at ``point``.
        stuck: the last direction led nowhere.
    """

    def __init__(self, *, affine: bool) -> None:
        self._affine = affine
        self._products: NDArray[np.float64] = np.zeros((0, 0))
        self._changes: list[tuple[RealVector, RealVector]] = []  # Of point and gradient, in each step.
        self._gradient = np.zeros(0)
        self._direction = np.zeros(0)
        self._fraction = 1.0
        self._tries = 0
        self.point = np.zeros(0)
        self.length = math.inf
        self.kept = 1.0
        self.stuck = False

    def next(self, products: Sequence[float]) -> RealVector:
        """Return where the next gradient is wanted.

        Args:
            products: of the gradient at the last wanted point, or at zero to begin with, with all gradients
                so far and, last, with itself.
        """
        count = len(products)
        grown = np.zeros((count, count))
        grown[:-1, :-1] = self._products
        grown[-1] = grown[:, -1] = products
        self._products = grown
        newest = np.zeros(count)
        newest[-1] = 1.0
        if count > 1 and not self._stepped(newest):
            return self._wide(self.point) + self._fraction * self._wide(self._direction)
        self.point, self._gradient = self._wide(self.point), newest
        self.length = math.sqrt(max(self._dot(newest, newest), 0.0))
        self._direction, self._fraction, self._tries = -self._preconditioned(newest), 1.0, 0
        return self.point + self._direction

    def _stepped(self, newest: RealVector) -> bool:
        """Take the step that was tried, or change its length and return that it was not taken."""
        before, after = self._dot(self._gradient, self._direction), self._dot(newest, self._direction)
        # Where the slope of a straight line would be zero; if it got steeper, that says nothing.
        secant = before / (before - after) if after > before else math.inf
        taken = 0 < secant <= _FURTHEST if self._affine else abs(after) <= _ENOUGH * abs(before)
        if not taken:
            self._tries += 1
            if self._tries > _MOST_TRIES or (self._affine and not 0 < secant < math.inf):
                self.stuck = True
                return False
            self._fraction *= secant if self._affine else min(max(secant, 1 / _FURTHEST), _FURTHEST)
            self.kept = 1.0
            return False
        self.kept = secant if self._affine else 1.0
        self._fraction *= self.kept
        # The newest gradient is the one where the slope is zero from here on, as its parties mix it too.
        mix = np.eye(len(newest))
        mix[-1, -2:] = 1 - self.kept, self.kept
        self._products = mix @ self._products @ mix.T
        moved = self._fraction * self._wide(self._direction)
        turned = newest - self._wide(self._gradient)
        self.point = self._wide(self.point) + moved
        if self._dot(moved, turned) > 0:  # Where the loss curves the other way there is nothing to learn.
            self._changes.append((moved, turned))
        return True

    def _preconditioned(self, gradient: RealVector) -> RealVector:
        """Return the inverse of the Hessian, as it is known, times a gradient."""
        rest, weights = gradient, []
        for moved, turned in reversed(self._changes):
            weight = self._dot(moved, rest) / self._dot(moved, turned)
            rest = rest - weight * self._wide(turned)
            weights.append(weight)
        if self._changes:
            moved, turned = self._changes[-1]
            rest = rest * (self._dot(moved, turned) / self._dot(turned, turned))
        for (moved, turned), weight in zip(self._changes, reversed(weights), strict=True):
            rest = rest + self._wide(moved) * (weight - self._dot(turned, rest) / self._dot(moved, turned))
        return rest

    def _dot(self, one: RealVector, other: RealVector) -> float:
        return float(self._wide(one) @ self._products @ self._wide(other))

    def _wide(self, multiples: RealVector) -> RealVector:
        return np.append(multiples, np.zeros(len(self._products) - len(multiples)))


class Lead:
    """What the label party says next.

    Args:
        settings: of the training.
        shortest: a gradient that ends it is no longer.

    Attributes:
        heard: products of each gradient with those up to it, as they were heard, shape (count, count).
    """

    def __init__(self, settings: Settings, shortest: float) -> None:
        self._shortest = shortest
        self._steps = settings.steps
        self._descent = Descent(affine=settings.degree == 1)
        self._wanted: RealVector = np.zeros(0)
        self.heard: NDArray[np.float64] = np.zeros((0, 0))

    def hear(self, products: RealVector) -> None:
        """Take the products of the newest gradient; see ``Descent.next``."""
        grown = np.zeros((len(products), len(products)))
        grown[:-1, :-1] = self.heard
        grown[-1] = products
        self.heard = grown
        self._wanted = self._descent.next(products.tolist())

    def hear_again(self, heard: NDArray[np.float64]) -> None:
        """Take what was heard before, one gradient after the other."""
        for count, row in enumerate(heard):
            self.hear(row[: count + 1])

    def point(self) -> Point:
        """Return where the next gradient is wanted, or where training ends.

        Raises:
            RoundAborted: the loss falls without end.
        """
        descent, count = self._descent, len(self.heard)
        word: Literal["go", "converged", "stopped"] = "go"
        if descent.length <= self._shortest:
            word = "converged"
        elif descent.stuck and descent.length > _NEARLY * math.sqrt(self.heard[0, 0]):
            raise RoundAborted(
                "the loss has no minimum near: most sums must lie well within reach; raise l2 or reach, or "
                "take degree=1"
            )
        elif descent.stuck or count >= self._steps:
            word = "stopped"
        # A gradient that was only tried, and not taken, has no part in the best point.
        at = self._wanted if word == "go" else np.append(descent.point, np.zeros(count - len(descent.point)))
        if not (np.abs(at) <= LARGEST_NUMBER).all():
            raise RoundAborted("descent left what numbers can hold: bring columns to one size")
        return Point(tuple(at.tolist()), descent.kept, word)
