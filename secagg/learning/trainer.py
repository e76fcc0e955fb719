"""What a silo hands in to learn: the two-method ``Trainer`` protocol and its plain data.

A trainer sees flat NumPy vectors only, so scikit-learn, torch or a hand-written model fit in a dozen
lines. What leaves the silo is decided elsewhere (``weighting``, the schemes); a trainer never sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from secagg.names import RandomSource, RealVector
from secagg.privacy.sampling import PoissonSampler
from secagg.terms import LocalNoise


@dataclass(frozen=True)
class TrainingSettings:
    """Training parameters of one round, the same at every silo (they are part of the training digest).

    Attributes:
        round: round number, from 1.
        epochs: passes over the local data, at least 1.
        learning_rate: step size, or None for the trainer's own default.
        proximal_mu: FedProx's mu >= 0; the trainer adds the gradient ``mu * (w - w_global)`` to every
            step. 0 for none.
        seed: 64-bit seed of this round, for shuffling and initialisation only, never for secrets.
    """

    round: int
    epochs: int = 1
    learning_rate: float | None = None
    proximal_mu: float = 0.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Update:
    """What local training returns.

    Attributes:
        weights: flat trained model, float, shape (length,), same order as the vector handed in.
        examples: the silo's weight in the mean, >= 0; travels only inside the encrypted sum.
    """

    weights: NDArray[Any]  # float32 or float64
    examples: float


@dataclass(frozen=True)
class Evaluation:
    """What local evaluation returns.

    Attributes:
        metrics: name -> value; the same names at every silo and in every round.
        examples: the silo's weight in the mean of the metrics, >= 0; travels only inside the sum.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: float = 0.0


@runtime_checkable
class Trainer(Protocol):
    """Local learning over one flat vector of weights.

    ``evaluate`` is called with the global model of a round before ``train`` is, unless no metric is asked.
    """

    def train(self, weights: RealVector, settings: TrainingSettings) -> Update:
        """Train from ``weights`` (float64, shape (length,), not to be written to) and return the result."""
        ...

    def evaluate(self, weights: RealVector) -> Evaluation:
        """Measure ``weights`` on local held-out data."""
        ...


@runtime_checkable
class TrainsPrivately(Protocol):
    """Optional method of a trainer: DP-SGD, for ``LocalDPSGD``."""

    def train_privately(
        self,
        weights: RealVector,
        settings: TrainingSettings,
        *,
        noise: LocalNoise,
        sampler: PoissonSampler,
        random: RandomSource,
    ) -> Update:
        """Take ``noise.steps`` steps, each over the rows that ``sampler`` draws, clipped and noised.

        Args:
            weights: the global model, float64, shape (length,), not to be written to.
            settings: of the round; ``epochs`` does not count here.
            noise: clip, multiplier and number of steps.
            sampler: draws the rows of every step.
            random: of the noise.
        """
        ...


@runtime_checkable
class SumsGradients(Protocol):
    """Optional method of a trainer, for ``DistributedDP(unit="record")``."""

    def gradient_sum(
        self, weights: RealVector, settings: TrainingSettings, *, sampler: PoissonSampler, l2_clip_norm: float
    ) -> RealVector:
        """Return the sum of the gradients of the rows that ``sampler`` draws once, each clipped.

        Returns:
            float64, shape (length,); zeros where no row was drawn.
        """
        ...


@runtime_checkable
class Initialises(Protocol):
    """Optional method of a trainer: where a job's first model comes from."""

    def initial(self, seed: int) -> NDArray[Any]:
        """Return freshly seeded weights, float, shape (length,). Same seed, same weights."""
        ...
