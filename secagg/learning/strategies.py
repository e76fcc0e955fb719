"""How the mean update becomes the next global model: FedAvg, FedProx, FedAdam, FedYogi.

Every silo runs the strategy itself and all must arrive at the same bits. So a strategy uses only ``+``,
``-``, ``*``, ``/``, square root and sign, one at a time, entry by entry, on float64: IEEE 754 rounds each of
these correctly on every machine. Nothing here adds entries up, multiplies matrices or raises to powers,
whose results depend on how a library splits the work. A strategy sees no silo's update, only their mean.

Source: McMahan et al. 2017 (FedAvg); Li et al. 2020, "Federated Optimization in Heterogeneous Networks"
(FedProx); Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2 (FedAdam, FedYogi).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from secagg.errors import InputRefused, ParameterError, UsageError
from secagg.explanation import explained
from secagg.learning.model import Blocks, GlobalModel
from secagg.names import RealVector
from secagg.ranges import positive, real
from secagg.weighting import MeanUpdate


class _ServerStep(ABC):
    """What all strategies share: the training digest's entry, and one step ``weights + rate * direction``."""

    slots: ClassVar[int] = 0
    server_learning_rate: float

    @property
    def proximal_mu(self) -> float:
        """The mu every trainer adds as ``mu * (w - w_global)`` to its gradients; 0 but for FedProx."""
        return 0.0

    def describe(self) -> Mapping[str, str | float]:
        """Return name and parameters as plain scalars; they are part of the training digest."""
        return {"strategy": type(self).__name__} | {name: float(value) for name, value in vars(self).items()}

    def start(self, weights: RealVector) -> GlobalModel:
        """Return the base of round 1 for ``weights`` (float, shape (length,)), with fresh state."""
        return GlobalModel(1, weights, self._fresh(weights.shape))

    def apply(self, model: GlobalModel, mean_delta: RealVector) -> GlobalModel:
        """Return the base of the next round.

        Args:
            model: the base this round trained from.
            mean_delta: weighted mean of the clipped (local - global) updates, float64, shape (length,).

        Raises:
            InputRefused: ``mean_delta`` has another shape or dtype, or the step leaves float64's range.
            UsageError: ``model`` carries the state of another strategy.

        Guarantees:
            The result is the same, bit for bit, when the vector is computed in pieces of any sizes.
            ``model`` is not changed.
        """
        if mean_delta.shape != model.weights.shape:
            raise InputRefused(
                "shape", f"the mean has shape {mean_delta.shape}, the model {model.weights.shape}"
            )
        if mean_delta.dtype != np.float64:
            raise InputRefused("dtype", f"the mean has dtype {mean_delta.dtype}, float64 is needed")
        if len(model.state) != self.slots:
            raise UsageError(
                f"{type(self).__name__} keeps {self.slots} state vectors, the model has {len(model.state)}"
            )
        with np.errstate(all="ignore"):  # What leaves the range is refused below, by the model itself.
            direction, state = self._direction(model.state, mean_delta)
            rate = self.server_learning_rate
            weights = model.weights + (direction if rate == 1.0 else rate * direction)
        for vector in (weights, *state):
            vector.flags.writeable = False
        return GlobalModel(model.round + 1, weights, state)

    def _keep(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)

    def _fresh(self, shape: tuple[int, ...]) -> tuple[RealVector, ...]:
        return ()

    def _direction(
        self, state: tuple[RealVector, ...], mean_delta: RealVector
    ) -> tuple[RealVector, tuple[RealVector, ...]]:
        return mean_delta, ()


@dataclass(frozen=True)
class FedAvg(_ServerStep):
    """Federated averaging: ``w + server_learning_rate * mean_delta``.

    Args:
        server_learning_rate: factor of the server's step, > 0; 1 is plain federated averaging.

    Source: McMahan et al. 2017, Algorithm 1; the rate is Reddi et al. 2021, Algorithm 1.
    """

    server_learning_rate: float = 1.0

    @explained()
    def __post_init__(self) -> None:
        self._keep("server_learning_rate", positive("server_learning_rate", self.server_learning_rate))


@dataclass(frozen=True)
class FedProx(_ServerStep):
    """FedAvg whose trainers are held near the global model by the gradient ``mu * (w - w_global)``.

    Args:
        mu: strength of the proximal term, > 0 and finite; usually 0.001 to 1.
        server_learning_rate: factor of the server's step, > 0.

    Source: Li et al. 2020, Algorithm 2.
    """

    mu: float
    _: KW_ONLY
    server_learning_rate: float = 1.0

    @explained()
    def __post_init__(self) -> None:
        self._keep("mu", positive("mu", self.mu))
        self._keep("server_learning_rate", positive("server_learning_rate", self.server_learning_rate))

    @property
    def proximal_mu(self) -> float:
        """The mu every trainer adds as ``mu * (w - w_global)`` to its gradients."""
        return self.mu


@dataclass(frozen=True)
class _Adaptive(_ServerStep):
    """The server optimisers of Reddi et al., Algorithm 2; they differ in the second moment alone."""

    slots: ClassVar[int] = 2

    server_learning_rate: float = 0.01
    _: KW_ONLY
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    @explained()
    def __post_init__(self) -> None:
        self._keep("server_learning_rate", positive("server_learning_rate", self.server_learning_rate))
        self._keep("tau", positive("tau", self.tau))
        for name, given in (("beta1", self.beta1), ("beta2", self.beta2)):
            value = real(name, given)
            self._keep(name, value)
            if not 0.0 <= value < 1.0:
                raise ParameterError(f"{name} is {value}, it must be at least 0 and below 1")

    def _fresh(self, shape: tuple[int, ...]) -> tuple[RealVector, ...]:
        # Line 1 asks for a second moment of at least tau^2. The first starts at zero, uncorrected.
        return np.zeros(shape), np.full(shape, self.tau * self.tau)

    def _direction(
        self, state: tuple[RealVector, ...], mean_delta: RealVector
    ) -> tuple[RealVector, tuple[RealVector, ...]]:
        first, second = state
        first = self.beta1 * first + (1.0 - self.beta1) * mean_delta
        second = self._second_moment(second, mean_delta * mean_delta)
        return first / (np.sqrt(second) + self.tau), (first, second)

    @abstractmethod
    def _second_moment(self, second: RealVector, squared: RealVector) -> RealVector: ...


@dataclass(frozen=True)
class FedAdam(_Adaptive):
    """Adam at the server: a step for each weight, shrunk where recent mean updates were large.

    Args:
        server_learning_rate: factor of the server's step, > 0.
        beta1: memory of the mean update, in [0, 1).
        beta2: memory of its square, in [0, 1).
        tau: adaptivity, > 0: the larger, the closer to FedAvg with momentum.

    Source: Reddi et al. 2021, Algorithm 2, FedAdam.
    """

    def _second_moment(self, second: RealVector, squared: RealVector) -> RealVector:
        return self.beta2 * second + (1.0 - self.beta2) * squared


@dataclass(frozen=True)
class FedYogi(_Adaptive):
    """FedAdam whose second moment moves by at most ``(1 - beta2) * mean_delta**2`` a round.

    Args:
        server_learning_rate: factor of the server's step, > 0.
        beta1: memory of the mean update, in [0, 1).
        beta2: memory of its square, in [0, 1).
        tau: adaptivity, > 0.

    Source: Reddi et al. 2021, Algorithm 2, FedYogi.
    """

    def _second_moment(self, second: RealVector, squared: RealVector) -> RealVector:
        return second - (1.0 - self.beta2) * squared * np.sign(second - squared)


Strategy: TypeAlias = FedAvg | FedProx | FedAdam | FedYogi
"""The strategies there are. The union is closed: a silo runs only what it can name and check."""


@dataclass(frozen=True, eq=False)
class NextModel:
    """The base of the next round, computed block by block as it is read.

    Args:
        base: the base that the round trained from.
        strategy: of the run.
        update: the opened mean update, of the base's length.

    Guarantees:
        The blocks are those of ``strategy.apply`` on the whole vectors, bit for bit.
    """

    base: Blocks
    strategy: Strategy
    update: MeanUpdate

    @property
    def round(self) -> int:
        """The round that trains from it."""
        return self.base.round + 1

    @property
    def length(self) -> int:
        """Number of weights."""
        return self.base.length

    @property
    def slots(self) -> int:
        """Vectors of the strategy's state."""
        return self.strategy.slots

    def blocks(self) -> Iterator[GlobalModel]:
        """Yield the blocks; see ``Blocks``.

        Raises:
            InputRefused, UsageError: as ``apply``.
        """
        at = 0
        for block in self.base.blocks():
            yield self.strategy.apply(block, self.update[at : at + block.length])
            at += block.length
