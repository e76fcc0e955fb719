"""Is the opened sum the right one? The same updates again, without protection, compared as integers.

``Recorded`` keeps what a trainer returned; ``Replayed`` returns it again without training. A run of
``Plain`` over replayed trainers must open the same integers in every round, or the masks were not gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import Evaluation, TrainingSettings, Update
from secagg.learning.trainer import Initialises, Trainer
from secagg.messages import FromSilo, MaskedInput
from secagg.names import RealVector, SiloId
from secagg.session import Aggregate
from secagg.terms import Terms


@dataclass(eq=False)
class Recorded:
    """A trainer whose results are kept.

    Attributes:
        updates: by round.
        bases: the weights that each round started from.
        evaluations: by the bytes of the weights that were measured.
    """

    trainer: Trainer
    updates: dict[int, Update] = field(default_factory=dict)
    bases: dict[int, RealVector] = field(default_factory=dict)
    evaluations: dict[bytes, Evaluation] = field(default_factory=dict)

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Train and keep the result."""
        self.bases[settings.round] = weights
        update = self.updates[settings.round] = self.trainer.train(weights, settings)
        return update

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure and keep the result."""
        evaluation = self.evaluations[weights.tobytes()] = self.trainer.evaluate(weights)
        return evaluation

    def initial(self, seed: int) -> NDArray[Any]:
        """Return the trainer's own first weights."""
        if not isinstance(self.trainer, Initialises):
            raise TypeError(f"{type(self.trainer).__name__} has no initial(seed)")
        return self.trainer.initial(seed)


@dataclass(frozen=True, eq=False)
class Replayed:
    """A trainer that returns what another one returned, for the very same models only."""

    recorded: Recorded

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Return the update of the round."""
        self.evaluate(weights)  # A KeyError here means that the model is not the recorded one.
        return self.recorded.updates[settings.round]

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Return what was measured for exactly these weights."""
        return self.recorded.evaluations[weights.tobytes()]

    def initial(self, seed: int) -> NDArray[Any]:
        """Return the same first weights."""
        return self.recorded.initial(seed)


@dataclass(eq=False)
class CoordinatorView:
    """What a coordinator of a run saw: one upload of ``silo`` in each round, and every opened sum."""

    silo: SiloId
    uploads: list[NDArray[Any]] = field(default_factory=list)
    terms: list[Terms] = field(default_factory=list)
    sums: list[Aggregate] = field(default_factory=list)

    def received(self, silo: SiloId, message: FromSilo) -> None:
        """Keep the upload of the silo that is watched."""
        if silo == self.silo and isinstance(message, MaskedInput):
            self.uploads.append(message.vector.array())

    def opened(self, terms: Terms, aggregate: Aggregate) -> None:
        """Keep the sum."""
        self.terms.append(terms)
        self.sums.append(aggregate)


def same_sums(one: CoordinatorView, other: CoordinatorView) -> bool:
    """Whether both opened the same integers over the same silos, in every round and in every entry."""
    return len(one.sums) == len(other.sums) and all(
        a.survivors == b.survivors and np.array_equal(a.total, b.total)
        for a, b in zip(one.sums, other.sums, strict=True)
    )
